"""Tables of what the demonstration shows, and of how often the verdict is right."""

from collections.abc import Mapping
from typing import Any, Final

from shared.described import table
from shared.measured import load

COLUMNS: Final = (
    "images", "file", "judged", "forgotten %", "still present %", "over-forgotten %", "inconclusive %",
    "not measurable %", "told from unseen %", "left %",
)  # fmt: skip


def demo() -> str:
    """What `qmu-edge demo` shows, over seeds."""
    results = load("demo")["results"]
    rows = [
        (name, _left(row), *(f"{100 * row[k][0]:.0f} ±{100 * row[k][1]:.0f}" for k in ("FA", "RA", "TA")),
         f"{row['MIA AUC'][0]:.2f} ±{row['MIA AUC'][1]:.2f}")
        for name, row in ((n, results["rows"][n]) for n in ("original", "unlearned", "retrained"))
    ]  # fmt: skip
    return table(("noisy digits", "left %", "FA %", "RA %", "TA %", "MIA AUC"), *rows)


def _left(row: Mapping[str, list[float]]) -> str:
    """What is left, mean and deviation over seeds, and the mean interval."""
    (value, spread_of), low, high = row["value"], row["low"][0], row["high"][0]
    if low == high:
        return f"{100 * value:.0f}"
    return f"{100 * value:.0f} ±{100 * spread_of:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def verdict() -> str:
    """How often the verdict gives which answer on planted cases, by lab and number of images."""
    document = load("verdict")
    parts = []
    for lab, found in document["results"].items():
        known, new, area = (found[k][0] for k in ("member_accuracy", "unseen_accuracy", "population_auc"))
        head = (
            f"**{lab}**: {found['networks']} networks, each trained on {found['training_images']:,} images, "
            f"which it recognises to {100 * known:.0f} %, unseen ones to {100 * new:.0f} %; AUC {area:.2f}."
        )
        rows = [_verdict_row(cell) for cell in found["cells"]]
        parts.append(f"{head}\n\n{table(COLUMNS, *rows)}")
    return "\n\n".join(parts)


def _verdict_row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    answers = ("forgotten", "still_present", "over_forgotten", "inconclusive", "not_measurable", "present")
    shares = [f"{100 * cell.get(answer, 0.0):.1f}" for answer in answers]
    left = "" if cell["rho"] is None else f"{100 * cell['rho']:.0f}"
    return (cell["kind"], cell["case"], f"{cell['files']:,}", *shares, left)


def cost() -> str:
    """What references and the verdict cost, over seeds."""
    document = load("request")
    settings, found = document["settings"], document["results"]
    rows = [(name, f"{value:.2f} ±{spread:.2f}") for name, (value, spread) in sorted(found.items())]
    where = f"{settings['recipe']}, {settings['images']:,} images, {settings['method']}, {document['commit']}"
    return f"{table(('seconds, or ratio', 'mean ± deviation'), *rows)}\n\n{where}"


def parts() -> str:
    """What each part of a request costs."""
    document = load("request-parts-demo")
    found = document["results"]
    named = [name for name in found if f"{name}, epochs" in found]
    rows = [(n, f"{found[n][0]:.2f}", f"{found[f'{n}, epochs'][0]:.2f}") for n in sorted(named)]
    where = f"{document['settings']['recipe']}, an epoch {found['epoch'][0]:.2f} s, {document['commit']}"
    return f"{table(('part', 'seconds', 'epochs of training'), *rows)}\n\n{where}"
