"""Tables that are read from the code: rooms, commands, recipe, methods, targets, exit codes, the ledger."""

import inspect
import re
import runpy
import sqlite3
import sys
import tempfile
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import typer

from qmu_edge import errors, recipe
from qmu_edge.audit.registry import ATTACKS
from qmu_edge.cli.ending import INTERRUPTED
from qmu_edge.cli.main import app
from qmu_edge.export.targets import TARGETS, Format
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.unlearn.registry import METHODS

ROOT: Final = Path(__file__).resolve().parents[2]
PARTS: Final = ("cli", "models", "export")  # rooms whose folders lie at the top level


def table(*rows: tuple[str, ...]) -> str:
    """Rows of cells under the first one."""
    lines = (rows[0], ("---",) * len(rows[0]), *rows[1:])
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in lines)


def sentence(text: str | None) -> str:
    r"""The first sentence of a docstring, in one line, without its full stop.

    >>> sentence("What it is: one\nthing. And more.")
    'What it is: one thing'
    """
    return re.split(r"\.(?:\s|$)", inspect.cleandoc(text or ""), maxsplit=1)[0].replace("\n", " ")


def rooms() -> str:
    """The rooms of the package, floor by floor, from the import rules and the rooms' docstrings."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    free = {m for c in rules if "torch" in c.get("forbidden_modules", ()) for m in c["source_modules"]}
    floors = next(c["layers"] for c in rules if c["type"] == "layers")
    rows = [("floor", "room", "what it holds", "without torch")]
    for number, names in enumerate(floors):
        for module in names.split(" | "):
            name = module.removeprefix("qmu_edge.")
            promised = "yes" if module in free else ""
            rows.append((str(len(floors) - number), _linked(name), sentence(_docstring(name)), promised))
    return table(*rows)


def _linked(room: str) -> str:
    folder = ROOT / room if room in PARTS else ROOT / "qmu_edge" / room
    place = f"../{room}" if room in PARTS else room
    if folder.is_dir():
        return f"[`{room}`]({place}/README.md)" if (folder / "README.md").is_file() else f"`{room}`"
    return f"`{room}.py`"


def _docstring(room: str) -> str | None:
    folder = ROOT / "qmu_edge" / room
    source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    found = re.match(r'r?"""(.*?)"""', source.read_text("utf-8"), re.DOTALL)
    return found[1] if found else None


def architectures() -> str:
    """What the slow tests hold of every ready architecture, from their parameters."""
    held = runpy.run_path(str(ROOT / "tests" / "export" / "architectures.py"))
    rows = [("`architecture`", "bits", "formats", "in floats", "same on every processor", "unlearned by")]
    for name in (*recipe.ARCHITECTURES, *held["OF_TORCHVISION"]):
        missing = held["NOT_PROVEN"].get(name)
        rows.append((
            f"`{name}`", ", ".join(held["BITS"]), ", ".join(Format), held["FLOATS"].get(name, ""),
            f"all but {missing}" if missing else "yes", ", ".join(held["METHODS"]),
        ))  # fmt: skip
    return table(*rows)


def commands() -> str:
    """Every command with its first sentence."""
    group: Any = typer.main.get_command(app)
    rows = [("command", "what it does")]
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {"": command})
        rows += [(f"`{name} {sub}`".replace(" `", "`"), sentence(c.help)) for sub, c in inner.items()]
    return table(*rows)


def exit_codes() -> str:
    """The exit codes, from the error classes."""
    found = {0: "Done, all thresholds met", errors.QmuEdgeError.exit_code: "A bug"}
    for kind in errors.QmuEdgeError.__subclasses__():
        found[kind.exit_code] = sentence(kind.__doc__)
    found[INTERRUPTED] = "Interrupted; the same command continues"
    return "\n".join(["code | meaning", "---:|---", *(f"{code} | {text}" for code, text in found.items())])


def recipe_fields() -> str:
    """The fields of each section of a recipe, with default and meaning."""
    sections: dict[str, Any] = {
        "data": recipe.DataRecipe, "model": recipe.ModelRecipe, "train": recipe.TrainRecipe,
    }  # fmt: skip
    parts = []
    sections |= {
        "adopt": recipe.AdoptRecipe,
        "references": recipe.ReferencesRecipe,
        "policy": recipe.PolicyRecipe,
        "plugins": recipe.PluginsRecipe,
    }
    for name, section in sections.items():
        defaults, texts = section().model_dump(mode="json"), _attributes(section)
        shared = {text: [f for f in defaults if texts[f] == text] for text in texts.values()}
        limits = section.model_json_schema()["properties"]
        rows = [
            (
                ", ".join(f"`{f}`" for f in names), "; ".join(_value(defaults[f]) for f in names),
                "; ".join(dict.fromkeys(filter(None, (allowed(limits[f]) for f in names)))),
                text,
            )
            for text, names in shared.items()
        ]  # fmt: skip
        parts.append(table((f"`[{name}]`", "default", "allowed", "meaning"), *rows))
    return "\n\n".join(parts)


def allowed(limit: dict[str, Any]) -> str:
    """What a field of a recipe may be, from its JSON Schema.

    >>> allowed({"type": "integer", "minimum": 2, "maximum": 8}), allowed({"type": "integer"})
    ('2 to 8', 'whole numbers')
    >>> allowed({"anyOf": [{"type": "number", "exclusiveMinimum": 0.0}, {"const": "off"}]})
    'above 0, "off"'
    >>> allowed({"anyOf": [{"enum": ["a", "b"]}, {"type": "string", "pattern": "^plugin:[a-z]{1,9}$"}]})
    '"a", "b", "plugin:NAME"'
    """
    if "anyOf" in limit:
        return ", ".join(filter(None, map(allowed, limit["anyOf"])))
    if words := limit.get("enum", [limit["const"]] if "const" in limit else []):
        return ", ".join(f'"{word}"' for word in words)
    kind = limit.get("type")
    if kind == "array":
        return allowed(limit["items"])
    if kind == "string":
        named = re.match(r"\^(\w+:)\[", limit.get("pattern", ""))
        return f'"{named[1]}NAME"' if named else ""
    if kind == "boolean":
        return "true, false"
    return _range(limit) or {"integer": "whole numbers", "number": "numbers"}.get(str(kind), "")


def _range(limit: dict[str, Any]) -> str:
    low, above = limit.get("minimum"), limit.get("exclusiveMinimum")
    high, below = limit.get("maximum"), limit.get("exclusiveMaximum")
    least = f"above {above:g}" if above is not None else f"{low:g}" if low is not None else ""
    if high is not None or below is not None:
        return f"{least} to {high:g}" if high is not None else f"{least} to below {below:g}"
    return f"at least {least}" if low is not None else least


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _attributes(kind: type) -> dict[str, str]:
    """What the "Attributes" of a docstring say of each field."""
    block = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", block):
        names, _, text = entry.strip().partition(": ")
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()).rstrip("."))
    return found


def unlearning() -> str:
    """The methods of the registry: what each does, what it reads, where it comes from."""
    rows = [("`--method`", "what it does", "reads", "source")]
    for name, method in METHODS.items():
        source = (sys.modules[method.run.__module__].__doc__ or "").partition("\nSource: ")[2]
        cited = re.findall(r"arXiv:(\d{4}\.\d{5})", source.partition("\nDiffers")[0])
        here = source.startswith("of this project")
        papers = "of this project" if here else ", ".join(cited)
        reads = ", ".join(n for n in ("forget", "retain", "validation") if n in method.reads)
        rows.append((f"`{name}`", method.summary, reads, papers))
    return table(*rows)


def attacks() -> str:
    """The attacks of an audit: what each tells, and where it comes from."""
    rows = [("`--attack`", "what it tells", "needs references", "source")]
    for name, attack in ATTACKS.items():
        source = (sys.modules[attack.run.__module__].__doc__ or "").partition("\nSource: ")[2]
        cited = re.findall(r"arXiv:(\d{4}\.\d{4,5})", source.partition("\nDiffers")[0])
        rows.append((f"`{name}`", attack.summary, "yes" if attack.calibrated else "", ", ".join(cited)))
    return table(*rows)


def targets() -> str:
    """What each target takes."""
    rows = [("`--target`", "formats", "opset", "2-bit tensors", "activations", "attention", "batch")]
    for name, target in TARGETS.items():
        activations = "uint8 with zero point" if target.zero_points else "int8 without zero point"
        wide, tokens = ("yes" if has else "no" for has in (target.int2, target.tokens))
        if target.formats == ("qonnx",):
            activations = wide = "`Quant` nodes"
        formats, batch = ", ".join(target.formats), "any" if target.batch is None else str(target.batch)
        rows.append((f"`{name}`", formats, str(target.opset), wide, activations, tokens, batch))
    return table(*rows)


def ledger_tables() -> str:
    """The SQL of an empty ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        Ledger.create(path).close()
        with closing(sqlite3.connect(path)) as db:
            made = [line for line in db.iterdump() if line.startswith("CREATE")]
    return "\n".join(["```sql", *made, "```"])


def ledger_facts() -> str:
    """What an event can vouch for, and the rows that its digest covers."""
    rows = [("`what`", "rows")]
    rows += [(f"`{what}`", f"`{' '.join(query.split())}`") for what, query in Ledger.FACTS.items()]
    return table(*rows)
