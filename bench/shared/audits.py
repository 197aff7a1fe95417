"""Tables of what attacks of an audit find, and of what they take."""

from collections.abc import Mapping
from typing import Any, Final

from shared.described import table
from shared.measured import load

FILES: Final = {"finetune": "no-op", "retrain": "retrained"}  # what files are called that no method names
LEFT_OUT: Final = "0.1 percent"  # of 335 unseen images that is none
BESIDE: Final = ("grad-cam", "relearn", "relearn-retain")  # what only unseen images tell how to read
NUMBERS: Final = (
    "area",
    "linear probe, area",
    "mean distance",
    "passes",
    "heat maps",
)  # all others are shares

Columns = Mapping[str, list[float]]


def found() -> str:
    """What each attack finds in each file, over seeds."""
    document = load("audit")
    settings = document["settings"]
    files = {name: document["results"]["files"][name] for name in settings["files"]}
    rows = []
    for attack in settings["attacks"]:
        for quantity, retrained in files["retrain"][attack].items():
            if LEFT_OUT not in quantity:
                cells = [_cell(attack, quantity, of[attack][quantity]) for of in files.values()]
                before = _value(quantity, retrained["original"]) if "original" in retrained else ""
                rows.append((attack, quantity, before, *cells))
    answers = {name: document["results"]["answers"][name] for name in files}
    told = "; ".join(f"{FILES.get(n, n)} {', '.join(a).replace('_', ' ')}" for n, a in answers.items())
    head = ("attack", "what", "original", *(FILES.get(name, name) for name in files))
    sizes = " against ".join(f"{settings[key][0]:.0f} {key}" for key in ("forgotten", "unseen"))
    where = f"{settings['recipe']}, {len(settings['seeds'])} seeds, {sizes} images, {_commits(settings)}"
    return f"{table(head, *rows)}\n\nWhat the verdict says of them: {told}.\n\n{where}"


def cost() -> str:
    """What each attack takes, and what it was expected to take."""
    document = load("audit")
    costs, machine, settings = document["results"]["costs"], document["machine"], document["settings"]
    rows = [
        (name, *(f"{of[key][0]:.1f} ±{of[key][1]:.1f}" for key in ("seconds", "expected")),
         f"{of['peak_mb'][0]:.0f}")
        for name in settings["attacks"]
        for of in [costs[name]]
    ]  # fmt: skip
    where = f"{machine['cpu']}, one thread, {len(settings['seeds'])} seeds, {_commits(settings)}"
    return f"{table(('attack', 'seconds', 'expected', 'MiB'), *rows)}\n\n{where}"


def _commits(settings: Mapping[str, Any]) -> str:
    return f"commits {', '.join(commit[:7] for commit in settings['commits'])}"


def _cell(attack: str, quantity: str, of: Columns) -> str:
    beside = f" ({_value(quantity, of['unknowing'][:1])})" if attack in BESIDE else ""
    return _value(quantity, of["file"]) + beside


def _value(quantity: str, of: list[float]) -> str:
    """A mean and its deviation, or a mean alone; areas and numbers as they are, all else in percent.

    >>> _value("area under the curve", [0.912, 0.031]), _value("recognised before", [0.5])
    ('0.91 ±0.03', '50')
    """
    plain = quantity.startswith(NUMBERS)
    decimals = (1 if quantity.startswith("passes") else 2) if plain else 0
    return " ±".join(f"{value if plain else 100 * value:.{decimals}f}" for value in of)
