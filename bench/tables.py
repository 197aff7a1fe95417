"""Write the tables of README.md, bench/README.md and bench/METHODS.md from bench/results.

A table is everything between `<!-- table NAME -->` and `<!-- end -->`.

python bench/tables.py [--check]
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "bench" / "README.md", ROOT / "bench" / "METHODS.md")


def load(name: str) -> dict[str, Any]:
    """One result file."""
    document: dict[str, Any] = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text("utf-8"))
    return document


def where(document: dict[str, Any]) -> str:
    """Machine, settings and commit, for the line under a table."""
    machine, settings = document["machine"], document["settings"]
    place = machine["gpu"] or f"{machine['cpu']}, {settings['threads']} threads"
    details = [f"{k} {settings[k]}" for k in ("width", "batch") if k in settings]
    if "repeats" in settings:
        details.append(f"median of {settings['repeats']}")
    return "; ".join([place, *details, f"commit {document['commit']}"])


def speed() -> str:
    """Training steps relative to the float network, and how much faster than Brevitas alone."""
    return _steps(load("speed-cpu"))


def overhead() -> str:
    """The same where there is next to nothing to compute."""
    return _steps(load("overhead-cpu"))


def _steps(document: dict[str, Any]) -> str:
    columns = ("W4A4 step", "float", "unlearning", "training", "Brevitas, float32", "Brevitas / unlearning")
    lines = [f"| {' | '.join(columns)} |", "|---|---:|---:|---:|---:|---:|"]
    for name, row in document["results"].items():
        cells = [f"{row['float']['median_ms']:.0f} ms"]
        cells += [f"{row[kind]['ratio']:.2f}x" for kind in ("ours", "learned", "brevitas")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {row['brevitas']['ratio'] / row['ours']['ratio']:.1f}x |"
        )
    clock = "" if document["settings"]["clock"] == "wall" else "; time of the processor"
    return "\n".join([*lines, "", where(document) + clock])


def breakdown() -> str:
    """Where the time of a training step goes."""
    document = load("breakdown-cpu")
    groups = list(dict.fromkeys(g for row in document["results"].values() for g in row))
    lines = [f"| step | {' | '.join(groups)} |", "|---|" + "---:|" * len(groups)]
    for name, row in document["results"].items():
        whole = sum(row.values())
        cells = [f"{row.get(g, 0.0):.0f} ms, {row.get(g, 0.0) / whole:.0%}" for g in groups]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", where(document)])


def epoch() -> str:
    """An epoch of training beside the float network's, and beside what the machine can do."""
    document = load("epoch-cpu")
    lines = ["| network | images/s | times the float network | data | floor | times the floor |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, row in document["results"].items():
        ours, base = row["W4A4"], row["floor"]["arithmetic_s"] + row["floor"]["memory_s"]
        cells = [f"{document['settings']['images'] / ours['seconds']:.0f}"]
        cells += [
            f"{ours['seconds'] / row['float']['seconds']:.2f}",
            f"{ours['data_s'] / ours['seconds']:.1%}",
        ]
        cells += [f"{base:.1f} s", f"{ours['seconds'] / base:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{document['settings']['images']} images; {where(document)}"])


def memory() -> str:
    """The most memory of a training step."""
    document = load("memory-cpu")
    columns = ("float", "ours", "learned", "brevitas")
    lines = ["| MiB | float | unlearning | training | Brevitas, float32 |", "|---|---:|---:|---:|---:|"]
    for name, row in document["results"].items():
        lines.append(f"| {name} | {' | '.join(f'{row[c]:.0f}' for c in columns)} |")
    return "\n".join([*lines, "", where(document)])


def agreement() -> str:
    """Networks of the fast path and of Brevitas' own layers, over seeds."""
    document = load("agreement")
    lines = ["| network | test accuracy | of Brevitas' layers | codes that differ | after fine-tuning |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, row in document["results"].items():
        cells = (row[k]["all"] for k in ("fast", "brevitas", "codes", "tuned_codes"))
        lines.append(f"| {name} | {' | '.join(_spread([100 * v for v in cell], 2) for cell in cells)} |")
    seeds = len(document["settings"]["seeds"])
    return "\n".join([*lines, "", f"percent; {seeds} seeds, commit {document['commit']}"])


def together() -> str:
    """Retrained references at the same time."""
    document = load("together-cpu")
    lines = ["| at once | seconds | times as long as one after another |", "|---:|---:|---:|"]
    for name, row in document["results"].items():
        lines.append(f"| {name} | {row['seconds']:.1f} ± {row['deviation']:.1f} | {row['ratio']:.2f} |")
    settings = document["settings"]
    return "\n".join([*lines, "", f"{settings['references']} references; {where(document)}"])


def export() -> str:
    """Size, exactness and speed of the exported files: how many times as fast as the float file."""
    document = load("export")
    columns = ("network", "file", "KiB", "of the bits alone", "logits differ by", "batch 1", "batch 64")
    lines = [f"| {' | '.join(columns)} | batch 64, 2 threads |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    for network, found in document["results"].items():
        for name in ("float", "static int8", "qcdq", "integer", "packed"):
            if name not in found["bytes"]:
                continue
            size, difference = found["bytes"][name], found["largest_difference"].get(name)
            cells = [f"{size / 1024:.0f}", f"{size / found['limit_bytes']:.3f}"]
            cells.append("-" if difference is None else "0" if difference == 0 else f"{difference:.0e}")
            for key in ("1 threads, batch 1", "1 threads, batch 64", "2 threads, batch 64"):
                row = found[key].get(name)
                cells.append(f"{1 / row['ratio']:.2f}x" if row else "-")
            lines.append(f"| {network} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", where(document)])


def openvino() -> str:
    """The second runtime: times as fast as its own float run, and agreement with onnxruntime."""
    document = load("export")
    lines = ["| network | NNCF int8: batch 1 | batch 64 | our file: batch 1 | batch 64 | same class |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for network, found in document["results"].items():
        if under := found.get("openvino"):
            rows = [under[f"1 threads, batch {b}"][n] for n in ("nncf int8", "openvino") for b in (1, 64)]
            cells = [f"{1 / row['ratio']:.2f}x" for row in rows]
            lines.append(f"| {network} | {' | '.join(cells)} | {under['agreement']:.1%} |")
    return "\n".join([*lines, "", where(document)])


def runtimes() -> str:
    """Accuracy of a trained network's files under both runtimes."""
    document = load("runtimes")
    lines = ["| network | runs as | test accuracy | same class as in torch |", "|---|---|---:|---:|"]
    for network, found in document["results"].items():
        for name, row in found["rows"].items():
            lines.append(f"| {network} | {name} | {row['accuracy']:.2%} | {row['agreement']:.2%} |")
    images = {found["images"] for found in document["results"].values()}
    return "\n".join([*lines, "", f"{max(images)} test images of CIFAR-10; commit {document['commit']}"])


def authors() -> str:
    """An epoch of Q-MUL, ours and the authors'."""
    document = load("authors-cpu")
    lines = ["| images | ours | the authors' loop | times as long |", "|---:|---:|---:|---:|"]
    ours, theirs = (document["results"][name] for name in ("ours", "theirs"))
    seconds = (f"{row['mean_ms'] / 1e3:.1f} ± {row['deviation_ms'] / 1e3:.1f} s" for row in (ours, theirs))
    lines.append(f"| {document['settings']['images']} | {' | '.join(seconds)} | {theirs['ratio']:.1f} |")
    return "\n".join([*lines, "", where(document)])


Rows = dict[str, dict[int, dict[str, Any]]]  # row -> seed -> cell
WHOLE: Final = 20  # rows from which on a scenario has a table of its own


def methods() -> str:
    """Every method beside retraining, best first; a table for each network and scenario."""
    groups = grouped(load("methods-cpu")["results"])
    tables = [table_of(*names, rows) for names, rows in groups.items() if len(rows) >= WHOLE]
    return "\n\n".join([*tables, _place_of_methods(load("methods-cpu")["results"])])


def gaps() -> str:
    """AG of every method in the scenarios that have them all, best first."""
    return _gaps_of(lambda rows: len(rows) >= WHOLE, best_first=True)


def scenarios() -> str:
    """AG of some methods in the other scenarios."""
    return _gaps_of(lambda rows: len(rows) < WHOLE, best_first=False)


def _gaps_of(chosen: Callable[[Rows], bool], *, best_first: bool) -> str:
    """A row for each method, a column for each chosen network and scenario."""
    every = grouped(load("methods-cpu")["results"])
    groups = {names: rows for names, rows in every.items() if chosen(rows)}
    columns = [f"{network.split('-')[0]} {scenario}" for network, scenario in groups]
    lines = [f"| AG | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    names = dict.fromkeys(row for rows in groups.values() for row in rows if row != "retrain")
    found = {n: [_gaps(rows.get(n, {}), rows["retrain"]) for rows in groups.values()] for n in names}
    found = {name: cells for name, cells in found.items() if any(cells)}
    # What serves not all of them comes last: a mean over the easy ones would compare nothing.
    rank = {n: (not all(cells), mean(mean(g) for g in cells if g)) for n, cells in found.items()}
    seeds = max((len(g) for cells in found.values() for g in cells), default=0)
    for name in sorted(found, key=rank.__getitem__) if best_first else found:
        cells = [_spread(g, 2) + (f" ({len(g)})" if len(g) < seeds else "") if g else "" for g in found[name]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    place = _place_of_methods([c for rows in groups.values() for row in rows.values() for c in row.values()])
    return "\n".join([*lines, "", f"{seeds} seeds, or as many as stand in brackets; {place}"])


def grouped(cells: list[dict[str, Any]]) -> dict[tuple[str, str], Rows]:
    """The cells of each network and scenario that has been retrained."""
    groups: dict[tuple[str, str], Rows] = {}
    for cell in cells:
        rows = groups.setdefault((cell["network"], cell["scenario"]), {})
        rows.setdefault(cell["row"], {})[cell["seed"]] = cell
    return {names: rows for names, rows in groups.items() if "retrain" in rows}


def _place_of_methods(cells: list[dict[str, Any]]) -> str:
    commits = {c.get("commit", "unknown") for c in cells}
    names = ", ".join(sorted({c[:7] + "+" * c.endswith("+") for c in commits}))
    return f"{load('methods-cpu')['machine']['cpu']}, one thread; commits {names}"


def _gaps(cells: dict[int, dict[str, Any]], references: dict[int, dict[str, Any]]) -> list[float]:
    """AG for each seed that has a result and a reference."""
    known = {s: c for s, c in references.items() if "error" not in c}
    return [average_gap(c, known[s]) for s, c in cells.items() if "error" not in c and s in known]


def table_of(network: str, scenario: str, rows: Rows) -> str:
    """All numbers of one network and scenario, best first."""
    columns = "row|seeds|FA|RA|TA|MIA|AG|AUC|codes changed|FA after retain|epochs".split("|")
    lines = [
        f"{network}, {scenario}",
        "",
        f"| {' | '.join(columns)} |",
        "|---|" + "---:|" * (len(columns) - 1),
    ]
    found = {}
    for row, cells in rows.items():
        gaps = _gaps(cells, rows["retrain"])
        if gaps:
            found[row] = (mean(gaps), _cells([c for c in cells.values() if "error" not in c], gaps))
    for row, (_, text) in sorted(found.items(), key=lambda item: item[1][0]):
        lines.append(f"| {row} | {text} |")
    refused = [row for row, cells in rows.items() if all("error" in c for c in cells.values())]
    return "\n".join([*lines, *([f"\nRefused: {', '.join(refused)}."] if refused else [])])


def average_gap(cell: dict[str, Any], reference: dict[str, Any]) -> float:
    """AG: mean distance of FA, RA, TA and MIA from the retrained network's, in points.

    >>> average_gap(dict(FA=1, RA=1, TA=0.5, MIA=0), dict(FA=0.5, RA=1, TA=0.5, MIA=0.5))
    25.0
    """
    return 100.0 * float(mean(abs(cell[k] - reference[k]) for k in ("FA", "RA", "TA", "MIA")))


def _cells(cells: list[dict[str, Any]], gaps: list[float]) -> str:
    parts = [str(len(cells)), *(_spread([100 * c[k] for c in cells]) for k in ("FA", "RA", "TA", "MIA"))]
    parts += [_spread(gaps, 2), _spread([c["AUC"] for c in cells], 2)]
    parts += [_spread([100 * c["codes"]["all"]["flipped"] for c in cells])]
    parts += [_spread([100 * c["relearned_from_retain"] for c in cells])]
    return " | ".join([*parts, _spread([c.get("epoch_equivalents", 0.0) for c in cells])])


def sequence() -> str:
    """FA of all that was forgotten so far, RA and TA, after each of ten requests in a row."""
    document = load("sequence-cpu")
    count = document["settings"]["requests"]
    lines = [
        f"| after request | | {' | '.join(map(str, range(1, count + 1)))} |",
        "|---|---|" + "---:|" * count,
    ]
    for method, by_seed in document["results"].items():
        rows = list(by_seed.values())
        for key in ("FA", "RA", "TA"):
            cells = [[100 * row[key] for row in at] for at in zip(*rows, strict=True)]
            texts = [_spread(values) for values in cells]
            lines.append(f"| {method} | {key} | {' | '.join([''] * (count - len(texts)) + texts)} |")
    settings, machine = document["settings"], document["machine"]
    place = f"{settings['network']}, {len(settings['seeds'])} seeds; {machine['cpu']}"
    return "\n".join([*lines, "", f"{place}; commit {document['commit']}"])


def _spread(values: list[float], digits: int = 1) -> str:
    """Mean and deviation.

    >>> _spread([1.0, 2.0]), _spread([1.0])
    ('1.5 ±0.7', '1.0')
    """
    deviation = f" ±{stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def demo() -> str:
    """What `make demo` printed on a fresh clone."""
    text = (ROOT / "bench" / "results" / "demo.txt").read_text("utf-8").rstrip()
    return f"```\n{text}\n```"


TABLES: dict[str, Callable[[], str]] = {
    "demo": demo, "speed": speed, "overhead": overhead, "breakdown": breakdown, "epoch": epoch,
    "memory": memory, "agreement": agreement, "together": together, "authors": authors, "export": export,
    "openvino": openvino, "runtimes": runtimes, "gaps": gaps, "methods": methods, "scenarios": scenarios,
    "sequence": sequence,
}  # fmt: skip


def rewritten(text: str) -> str:
    """A page with every table renewed."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, t=table: m[1] + t() + "\n" + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def main() -> None:
    """Rewrite the pages, or with --check fail when one differs."""
    for page in PAGES:
        before = page.read_text("utf-8")
        after = rewritten(before)
        if "--check" in sys.argv[1:] and before != after:
            sys.exit(f"{page.name}: python bench/tables.py renews it")
        page.write_text(after, "utf-8")


if __name__ == "__main__":
    main()
