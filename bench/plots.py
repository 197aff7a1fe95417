"""Plots: of a grid, the average gap of each method, and the gap against its cost; of the verdict, rho.

pip install matplotlib && python bench/plots.py cpu && python bench/plots.py verdict
"""

import sys
from collections import defaultdict
from statistics import mean
from typing import Any, Final

import matplotlib.pyplot as plt
from shared.compared import WHOLE, average_gap, grouped
from shared.measured import load
from shared.record import ROOT

DRAWN: Final = {"leak": "tab:red", "half known": "tab:orange", "retrained": "tab:green"}
Points = dict[str, list[tuple[float, float]]]  # row -> gap and epoch-equivalents of each seed


def points(cells: list[dict[str, Any]]) -> Points:
    """What is drawn of the cells of one network and scenario."""
    good = [c for c in cells if "error" not in c]
    references = {c["seed"]: c for c in good if c["row"] == "retrain"}
    found: Points = defaultdict(list)
    for cell in good:
        if cell["row"] not in ("retrain", "original") and cell["seed"] in references:
            gap = average_gap(cell, references[cell["seed"]])
            found[cell["row"]].append((gap, cell.get("epoch_equivalents", 0.0)))
    return found


def draw(title: str, found: Points, path: str) -> None:
    """Bars on the left, best first; on the right the same against cost."""
    order = sorted(found, key=lambda row: mean(g for g, _ in found[row]))
    figure, (bars, costs) = plt.subplots(1, 2, figsize=(12, 0.28 * len(order) + 1.5))
    gaps = [mean(g for g, _ in found[row]) for row in order]
    bars.barh(order, gaps)
    bars.invert_yaxis()
    bars.set_xlabel("average gap to retraining, points")
    effort = [mean(e for _, e in found[row]) for row in order]
    costs.scatter(effort, gaps)
    for row, x, y in zip(order, effort, gaps, strict=True):
        costs.annotate(row, (x, y), fontsize=7)
    costs.set_xlabel("epoch-equivalents")
    costs.set_ylabel("average gap, points")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path)


def verdict() -> None:
    """What is left, by lab, case and number of images: median, half of the files, nine of ten."""
    labs = load("verdict")["results"]
    figure, axes = plt.subplots(1, len(labs), figsize=(4 * len(labs), 6), squeeze=False)
    for axis, (name, lab) in zip(axes[0], labs.items(), strict=True):
        cells = [c for c in lab["cells"] if c["case"] in DRAWN and c.get("rho_quantiles")]
        for y, cell in enumerate(cells):
            low, lower, middle, upper, high = cell["rho_quantiles"]
            color = DRAWN[cell["case"]]
            axis.plot([low, high], [y, y], color=color, linewidth=1)
            axis.plot([lower, upper], [y, y], color=color, linewidth=4)
            axis.plot(middle, y, "o", color=color)
        axis.set_yticks(range(len(cells)), [f"{c['kind']}: {c['case']}" for c in cells], fontsize=7)
        axis.axvline(0.25, color="grey", linestyle=":")  # the largest share that is released
        axis.set_xlim(-1.5, 2.5)
        axis.set_xlabel("left: 0 none, 1 all")
        axis.set_title(name)
    figure.tight_layout()
    figure.savefig(ROOT / "bench" / "results" / "verdict.svg")


def main() -> None:
    """One file for each network and scenario that has all methods; or that of the verdict."""
    if sys.argv[1] == "verdict":
        return verdict()
    document = load(f"methods-{sys.argv[1]}")
    for (network, scenario), rows in grouped(document["results"]).items():
        if len(rows) < WHOLE:
            continue
        name = f"methods-{sys.argv[1]}-{network}-{scenario.replace(' ', '-')}.svg"
        path = ROOT / "bench" / "results" / name
        cells = [cell for by_seed in rows.values() for cell in by_seed.values()]
        draw(f"{network}, {scenario}", points(cells), str(path))
        print(path.name)


if __name__ == "__main__":
    main()
