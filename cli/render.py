"""Results as text for people; every command also prints them whole with `--json`."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qmu_edge.errors import printable
from qmu_edge.receipt.share import NOT_MEASURED, tellable, told


def as_json(result: Any) -> str:
    """The whole result, indented; characters that could steer a terminal as JSON's codes."""
    text = json.dumps(result, indent=2, sort_keys=False, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def legible(value: Any) -> Any:
    """A result with every text in it as a terminal may show it."""
    if isinstance(value, Mapping):
        return {legible(key): legible(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [legible(entry) for entry in value]
    return printable(value) if isinstance(value, str) else value


def plain(result: Any) -> str:
    """Nested dictionaries and lists, indented."""
    return "\n".join(_lines(result, ""))


def _lines(value: Any, indent: str) -> Iterator[str]:
    items: Any = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        label = f"{indent}{key}" if isinstance(value, Mapping) else f"{indent}-"
        if isinstance(item, Mapping | list | tuple) and item:
            yield label
            yield from _lines(item, indent + "  ")
        else:
            yield f"{label}  {_value(item)}"


def _value(item: Any) -> str:
    if item is None:
        return "-"
    if isinstance(item, float):
        return f"{item:.4g}"
    return "none" if item in ([], (), {}) else str(item)


def table(rows: list[list[str]]) -> str:
    """Rows of cells, the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def percent(value: float | None) -> str:
    """A fraction in percent, two decimals."""
    return "-" if value is None else f"{100 * value:.2f}"


def _accuracies(report: Mapping[str, Any]) -> str:
    rows = [["", "FA %", "RA %", "TA %", "MIA %", "MIA AUC"]]
    for name in ("original", "unlearned"):
        part = report.get(name)
        if part is None:
            continue
        found = part["evaluation"]
        cells = [percent((found[k] or {}).get("value")) for k in ("fa", "ra", "ta")]
        efficacy = part["mia_efficacy"]
        auc = found["mia_auc"]
        rows.append(
            [
                name,
                *cells,
                _spread(efficacy),
                f"{auc['value']:.3f}" if auc else "-",
            ]
        )
    return table(rows)


def _spread(efficacy: Mapping[str, Any] | None) -> str:
    """Mean and deviation over draws, in percent."""
    return "-" if efficacy is None else f"{percent(efficacy['mean'])} ±{100 * efficacy['std']:.2f}"


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "no verdict"
    rows = [["check", "value", "from", "to", "allowed", ""]]
    for c in verdict["checks"]:
        found = tellable(c["value"], c["low"], c["high"], c["bound"])
        value = NOT_MEASURED if found is None else f"{found:.4f}"
        ends = ["-" if c[end] is None else f"{c[end]:.4f}" for end in ("low", "high")]
        rows.append([c["name"], value, *ends, f"{c['allowed']:.4f}", _met(c, found is not None)])
    answer = str(verdict["answer"] or "no answer").replace("_", " ")
    why = f": {verdict['why']}" if verdict["why"] else ""
    return f"{answer}{why}\n{table(rows)}"


def _met(check: Mapping[str, Any], measured: bool) -> str:
    from qmu_edge.io.plain import from_json
    from qmu_edge.verify.verdict import Check

    if not check["passed"]:
        return "MISSED" if measured else "not shown"
    return "met (too few images to tell)" if from_json(Check, dict(check), "a check").undecided else "met"


def trained(result: Mapping[str, Any]) -> str:
    """A training, and in one line what it has spent."""
    head = plain({k: v for k, v in result.items() if k != "spent"})
    return head + (f"\n{_spent(result['spent'])}" if "spent" in result else "")


def _spent(found: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{found[f'{p}_s']:.1f} s {p}" for p in ("data", "step", "rest"))
    passes = f"{found['epoch_equivalents']:.2f} epoch-equivalents"
    memory = f"; {found['device_peak_mb']:.0f} MB on the device" if "device_peak_mb" in found else ""
    return f"{found['images']:,} images, {found['images_per_s']:,.0f}/s, {passes}: {parts}{memory}"


def served(result: Mapping[str, Any]) -> str:
    """A request that was served; of one that is purged there is the receipt."""
    if "report" not in result:
        return plain(result)
    report = result["report"]
    steps = table([["step", "seconds", "peak MB"], *_costs(result["steps"])])
    spent = result["steps"]["unlearned"].get("spent")
    costs = f"{steps}\nunlearned: {_spent(spent)}" if spent else steps
    receipts = [r["receipt"] for r in result["requests"]]
    files = "\n".join(filter(None, (*result["files"].values(), *receipts, result["page"])))
    who = "\n".join(f"request {r['request']}: {r['outcome']}" for r in result["requests"])
    head = f"{who}, {result['counts']['forget']} images forgotten"
    parts = [
        head,
        _accuracies(report),
        _verdict(report["verdict"]),
        costs,
        files,
    ]
    if late := result.get("take_down"):
        parts.append("\n  ".join(["take down on the Hub, from before this deletion:", *late]))
    return "\n\n".join(parts)


def pending(result: Mapping[str, Any]) -> str:
    """All open requests, as they were served together."""
    parts = [served(batch) for batch in result["batches"]]
    parts += [f"{len(f['requests'])} requests failed: {f['error']}" for f in result["failed"]]
    parts += [f"request {w['request']} waits for {w['waits_for']}" for w in result["waiting"]]
    parts += [f"request {r} is closed: all of it was deleted before" for r in result["closed"]]
    return "\n\n".join(parts) or "no request is open"


_COUNTED = {  # of a split, as `unlearn --dry-run` says it
    "forget": "training images to forget", "also_erased": "validation and test images that go with them",
    "copies": "of both that were not named, but have the pixels of one that was",
    "duplicates_retained": "with such pixels that stay: they are of somebody else",
    "near_duplicates": "retained images that look like forgotten ones",
    "unmatched_subjects": "names of the person that no image has",
    "retain": "training images that stay", "validation": "validation images that stay",
    "test": "test images that stay", "requests": "requests that are served together",
}  # fmt: skip
_LIMITED = {
    "approval_above": "approval is waited for above",
    "approval_above_total": "and when all deletions together are above",
    "retrain_above": "only retrain is used above",
}


def previewed(result: Mapping[str, Any]) -> str:
    """What serving requests would do."""
    rows = [("request", name) for name in result.get("requests", [result.get("request")])]
    counts = result.get("counts") or {}
    rows += [(f"request {w['request']}", f"waits for {w['waits_for']}") for w in result.get("waiting", [])]
    found = {
        "served before, with the outcome": result.get("outcome"),
        "cannot be honoured": result.get("problem"),
        "would wait for": result.get("waits_for"),
        "it names": result.get("scope"),
        **{_COUNTED.get(name, name): counts[name] for name in sorted(counts, key=[*_COUNTED].index)},
        "by class": ", ".join(f"{name}: {count}" for name, count in result.get("classes", {}).items()),
        "share of the training images": f"{percent(result['share'])} %" if "share" in result else "",
        "images that show other people too": result.get("shared_with_others"),
        "look like forgotten ones": ", ".join(result.get("look_alike", [])),
        "methods, in this order": ", ".join(_expected(result)),
        "why these methods": result.get("rungs_forced_by"),
        "what a verdict can show": result.get("verdict"),
        **{_LIMITED.get(name, name): _limit(value) for name, value in result.get("limits", {}).items()},
    }
    rows += [(name, f"{text:,}" if isinstance(text, int) else text) for name, text in found.items() if text]
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"{name:{width}}  {text}" for name, text in rows]
    return "\n".join([*lines, "dry run: nothing was changed"])


def _expected(result: Mapping[str, Any]) -> list[str]:
    """The methods, with the time that each is expected to take."""
    seconds = result.get("expected_seconds", {})
    known = {name: "not known" if s is None else f"about {s:g} s" for name, s in seconds.items()}
    return [f"{name} ({known[name]})" if name in known else name for name in result.get("rungs", [])]


def _limit(value: Any) -> str:
    return value if isinstance(value, str) else f"{percent(value)} %"


def verified_receipt(result: Mapping[str, Any]) -> str:
    """What was verified of a receipt, and last that it holds: what does not ends in an error."""
    open_ends, nothing = ("not checked", "compared with no key"), "not checked, stated: none"
    left = sum(any(end in c for end in open_ends) and nothing not in c for c in result["checks"])
    more = f"; not everything was checked: {left} of the lines above" if left else ""
    return f"{plain(result)}\nthe receipt holds{more}"


def status(result: Mapping[str, Any]) -> str:
    """Where the project stands; of the requests only those that are open."""
    chain = result["ledger"]
    barred = f", {result['barred']:,} barred by open requests" if result["barred"] else ""
    rows = [
        ("project", result["project"]),
        (
            "dataset",
            f"{result['dataset']}, {result['samples']:,} samples, {result['deleted']:,} deleted{barred}",
        ),
        *((name, str(result[name] or "-")) for name in ("checkpoint", "release", "receipt")),
        ("origin", result["origin"] or ("trained here" if result["checkpoint"] else "-")),
        ("ledger", f"{chain['events']:,} events, head {chain['head']}"),
        (
            "requests",
            f"{result['open']:,} open, {result['overdue']:,} overdue, {len(result['requests']):,} in all",
        ),
    ]
    rows += [("TAKE DOWN", revision) for revision in result["take_down"]]
    parts = ["\n".join(f"{name:10}  {text}" for name, text in rows)]
    if found := result["verdicts"]:
        parts.append(_verdicts(found))
    still_open = [r for r in result["requests"] if r["next"]]
    return "\n\n".join([*parts, *([requests({"requests": still_open})] if still_open else [])])


def _verdicts(found: Mapping[str, Any]) -> str:
    """How often verdicts on so many images can say something."""
    rows = [["verdicts on images", "original told from unseen %", "shown to be forgotten %"]]
    rows += [
        [n, percent(found["detects"][n]), percent(found["proves"][n])] for n in map(str, found["detects"])
    ]
    return "\n".join([table(rows), *([f"5 % is chance; {found['why']}"] if "why" in found else [])])


def requests(result: Mapping[str, Any]) -> str:
    """One line for each request, and below it what happens next."""
    if not result["requests"]:
        return "no requests"
    rows = [["request", "reference", "received", "due", "days left", "state", "outcome"]]
    for r in result["requests"]:
        due = str(r["extended"] or r["due"] or "-")[:10]
        left = "-" if r["days_left"] is None else f"{r['days_left']}{' OVERDUE' if r['overdue'] else ''}"
        why = f"{r['outcome']} ({r['reason']})" if r["reason"] else (r["outcome"] or "-")
        reference = _short(r["requested_by"] or "-")
        rows.append([r["short"], reference, r["received"][:10], due, left, r["state"], why])
    head, *lines = table(rows).splitlines()
    told = [f"  {r['next']}" if r["next"] else "" for r in result["requests"]]
    pairs = zip(lines, told, strict=True)
    return "\n".join([head, *(text for pair in pairs for text in pair if text)])


def _short(text: str, most: int = 24) -> str:
    """A text that fits into a column.

    >>> _short("ticket-88"), _short("x" * 30)
    ('ticket-88', 'xxxxxxxxxxxxxxxxxxxxxxx…')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _costs(steps: Mapping[str, Any]) -> list[list[str]]:
    return [[name, f"{c['seconds']:.1f}", f"{c['peak_mb']:.0f}"] for name, c in steps.items()]


def verified(result: Mapping[str, Any]) -> str:
    """What `verify` found."""
    weights = result["latent_weights"]
    lines = [f"{result['file']}  {result['bytes']:,} bytes  sha256 {result['sha256']}"]
    lines.append(f"latent-weight gate passed: {len(weights['weights'])} weights on their grids")
    if result.get("note"):
        lines.append(result["note"])
    if result["evaluation"]:
        lines += ["", _accuracies({"unlearned": result}).replace("unlearned", "this file")]
        lines += ["", _verdict(result["verdict"])]
    return "\n".join(lines)


def purged(result: Mapping[str, Any]) -> str:
    """What a purge has removed and kept."""
    parts = [_counted("removed", result["removed"]), _counted("kept", result["kept"])]
    parts.append(f"{len(result['requests'])} requests are purged whole now")
    return "\n\n".join([*parts, _outside(result)])


def purge_previewed(result: Mapping[str, Any]) -> str:
    """What a purge would remove and keep, and what is still there of each request."""
    due = [{**r, "count": 1, "reason": f"not needed since {r['since'][:10]}"} for r in result["remove"]]
    parts = [_counted("would be removed", due), _counted("kept", result["kept"])]
    if result["unfinished"]:
        parts.append(f"{result['unfinished']:,} removals that an earlier purge has begun would be finished")
    for request_id, lines in result["requests"].items():
        there = [{**r, "reason": r["state"]} for r in lines if r["count"]]
        parts.append(_counted(f"of request {request_id}", there))
    return "\n\n".join([*parts, _outside(result), "dry run: nothing was changed"])


def _counted(title: str, things: Iterable[Mapping[str, Any]]) -> str:
    """Things and bytes, by kind and reason."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for thing in things:
        name = f"{thing['kind']} ({thing['reason']})"
        counts[name] += thing["count"]
        sizes[name] += thing["bytes"] or 0
    rows = [[name, f"{count:,}", f"{sizes[name]:,}"] for name, count in counts.items()]
    return table([[title, "count", "bytes"], *rows]) if rows else f"{title}: nothing"


def _outside(result: Mapping[str, Any]) -> str:
    return "\n  ".join(["not reached from here:", *result["outside"]])


def receipt(result: Mapping[str, Any], *, full: bool = False) -> str:
    """A receipt as text, on one screen or `full`."""
    from qmu_edge.receipt.receipt import render, summary

    text = (render if full else summary)(result["receipt"])
    return f"sha256 {result['sha256']}\nsigned by key {result['key']}\n{text}"


def demo(result: Mapping[str, Any]) -> str:
    """The table of the demonstration."""
    rows = [["", "left %", "FA %", "RA %", "TA %", "MIA AUC", "file KiB", "seconds"]]
    for name, row in result["rows"].items():
        shares = [percent(row[k]) for k in ("FA", "RA", "TA")]
        size, seconds = f"{row['file_bytes'] / 1024:.0f}", f"{row['seconds']:.1f}"
        rows.append([name, _left(row["left"]), *shares, f"{row['MIA AUC']:.3f}", size, seconds])
    steps = table([["step", "seconds", "peak MB"], *_costs(result["steps"])])
    paths = "\n".join(result["paths"].values())
    nothing = f"an attempt that changes nothing: {result['refused']}"
    parts = [table(rows), _verdict(result["verdict"]), nothing, steps, paths]
    return "\n\n".join(parts)


def _left(share: Mapping[str, Any] | None) -> str:
    """What is left of what was known, in percent, with its interval."""
    return told(**share, write=lambda part: f"{100 * part:z.0f}") if share else NOT_MEASURED
