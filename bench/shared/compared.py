"""Tables that compare unlearning methods with a network retrained without the data, from methods-cpu.json."""

from collections.abc import Callable
from statistics import mean
from typing import Any, Final

from shared.measured import load, spread

Rows = dict[str, dict[int, dict[str, Any]]]  # row -> seed -> cell
WHOLE: Final = 20  # rows from which on a scenario has a table of its own


PERSON: Final = {"original": "original", "held_out_match": "unlearned", "retrain": "retrained"}
CHOSEN: Final = ("original", "finetune", "qmul", "held_out_match", "retrain, again", "retrain")


def person() -> str:
    """One person out of forty: the original, the first rung of the default ladder, a retrained network."""
    rows = grouped(load("methods-cpu")["results"])["faces-resnet18-w4a4", "class-0"]
    lines = ["faces | FA % | RA % | TA % | MIA % | MIA AUC | epochs", "---|---:|---:|---:|---:|---:|---:"]
    for row, name in PERSON.items():
        cells = [*rows[row].values()]
        shares = [spread([100 * c[k] for c in cells]) for k in ("FA", "RA", "TA", "MIA")]
        epochs = spread([c.get("epoch_equivalents", 0.0) for c in cells])
        lines.append(" | ".join([name, *shares, spread([c["AUC"] for c in cells], 2), epochs]))
    return "\n".join(lines)


def result() -> str:
    """Six rows for the README: a tenth of the training images of ResNet18 W4A4."""
    rows = grouped(load("methods-cpu")["results"])["resnet18-w4a4", "random-10"]
    lines = ["method | FA % | RA % | TA % | MIA % | AG", "---|---:|---:|---:|---:|---:"]
    for row in CHOSEN:
        shares = [spread([100 * c[k] for c in rows[row].values()]) for k in ("FA", "RA", "TA", "MIA")]
        gap = spread(_gaps(rows[row], rows["retrain"]), 2) if row != "retrain" else "0"
        lines.append(" | ".join([row, *shares, gap]))
    return "\n".join(lines)


def methods() -> str:
    """Every method beside retraining, best first; a table for each network and scenario."""
    document = load("methods-cpu")
    groups = grouped(document["results"])
    tables = [table_of(*names, rows) for names, rows in groups.items() if len(rows) >= WHOLE]
    return "\n\n".join([*tables, _place(document["machine"], document["results"])])


def gaps() -> str:
    """AG of every method in the scenarios that have them all, best first."""
    return _gaps_of("methods-cpu", lambda rows: len(rows) >= WHOLE, best_first=True)


def scenarios() -> str:
    """AG of some methods in the other scenarios."""
    return _gaps_of("methods-cpu", lambda rows: len(rows) < WHOLE, best_first=False)


def own() -> str:
    """AG of the own method, with and without what training has noted."""
    return _gaps_of("methods-own", lambda rows: True, best_first=True)


def _gaps_of(grid: str, chosen: Callable[[Rows], bool], *, best_first: bool) -> str:
    """A row for each method, a column for each chosen network and scenario."""
    document = load(grid)
    every = grouped(document["results"])
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
        cells = [spread(g, 2) + (f" ({len(g)})" if len(g) < seeds else "") if g else "" for g in found[name]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    shown = [c for rows in groups.values() for row in rows.values() for c in row.values()]
    place = _place(document["machine"], shown)
    return "\n".join([*lines, "", f"{seeds} seeds, or as many as stand in brackets; {place}"])


def grouped(cells: list[dict[str, Any]]) -> dict[tuple[str, str], Rows]:
    """The cells of each network and scenario that has been retrained, those of each budget by themselves.

    Rows without a budget stand beside all of them. The smallest budget is not named.
    """
    groups: dict[tuple[str, str], Rows] = {}
    for network, scenario in dict.fromkeys((c["network"], c["scenario"]) for c in cells):
        ours = [c for c in cells if (c["network"], c["scenario"]) == (network, scenario)]
        budgets = sorted({c["budget"] for c in ours if c.get("budget")}) or [None]
        for number, budget in enumerate(budgets):
            rows = groups.setdefault((network, f"{scenario} at {budget:g}" if number else scenario), {})
            for cell in ours:
                if cell.get("budget") in (None, budget):
                    rows.setdefault(cell["row"], {})[cell["seed"]] = cell
    return {names: rows for names, rows in groups.items() if "retrain" in rows}


def _place(machine: dict[str, Any], cells: list[dict[str, Any]]) -> str:
    """The machine of the grid that the cells are from, and their commits."""
    commits = {c.get("commit", "unknown") for c in cells}
    names = ", ".join(sorted({c[:7] + "+" * c.endswith("+") for c in commits}))
    return f"{machine['cpu']}, one thread; commits {names}"


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
    parts = [str(len(cells)), *(spread([100 * c[k] for c in cells]) for k in ("FA", "RA", "TA", "MIA"))]
    parts += [spread(gaps, 2), spread([c["AUC"] for c in cells], 2)]
    parts += [spread([100 * c["codes"]["all"]["flipped"] for c in cells])]
    parts += [spread([100 * c["relearned_from_retain"] for c in cells])]
    return " | ".join([*parts, spread([c.get("epoch_equivalents", 0.0) for c in cells])])


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
            texts = [spread(values) for values in cells]
            lines.append(f"| {method} | {key} | {' | '.join([''] * (count - len(texts)) + texts)} |")
    settings, machine = document["settings"], document["machine"]
    place = f"{settings['network']}, {len(settings['seeds'])} seeds; {machine['cpu']}"
    return "\n".join([*lines, "", f"{place}; commit {document['commit']}"])
