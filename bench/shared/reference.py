"""What the reference of the site is made of: the command line, and the docstrings of all rooms."""

import inspect
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import typer

from qmu_edge.cli.main import app

ROOT: Final = Path(__file__).resolve().parents[2]
TOPS: Final = ("cli", "models", "export")  # rooms whose folders lie at the top level


def commands() -> str:
    """Every command with its arguments and options, as it says them itself."""
    group: Any = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {"": command})
        parts += [_command(f"{name} {sub}".rstrip(), found) for sub, found in inner.items()]
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["qmu-edge", name, *command.collect_usage_pieces(context)])
    records = [p.get_help_record(context) for p in command.params if not getattr(p, "hidden", False)]
    rows = [f"| `{_cell(words)}` | {_cell(text)} |" for words, text in filter(None, records)]
    lines = [f"## `qmu-edge {name}`", "", inspect.cleandoc(command.help or ""), "", "```", usage, "```", ""]
    return "\n".join([*lines, *(["| argument or option | |", "|---|---|", *rows, ""] if rows else [])])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "&#124;").split())


@cache
def rooms() -> list[str]:
    """All rooms, floor by floor from the top."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    floors = next(rule["layers"] for rule in rules if rule["type"] == "layers")
    return [module.removeprefix("qmu_edge.") for floor in floors for module in floor.split(" | ")]


def modules(room: str) -> Iterator[str]:
    """The dotted names of a room's modules that hold something."""
    folder = ROOT / room if room in TOPS else ROOT / "qmu_edge" / room
    if not folder.is_dir():
        yield f"qmu_edge.{room}"
        return
    for path in sorted(folder.rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            yield dotted(path.relative_to(ROOT))


def dotted(path: Path) -> str:
    """The name by which a file of the repository is imported.

    >>> dotted(Path("cli/main.py")), dotted(Path("qmu_edge/io/json.py"))
    ('qmu_edge.cli.main', 'qmu_edge.io.json')
    """
    parts = path.with_suffix("").parts
    return ".".join(parts if parts[0] == "qmu_edge" else ("qmu_edge", *parts))


def code(room: str) -> str:
    """The page of a room: its modules, which are read and never imported."""
    return "\n\n".join([f"# `{room}`", *(f"::: {module}" for module in modules(room))]) + "\n"


def documented(path: Path) -> str | None:
    """Page and anchor of a Python file or a folder of them; None where it is in no room."""
    parts = path.parts[1:] if path.parts[0] == "qmu_edge" else path.parts
    room = parts[0].removesuffix(".py") if parts else ""
    if room not in rooms() or path.parts[0] not in ("qmu_edge", *TOPS):
        return None
    if path.suffix == ".py":
        return f"code/{room}.md#{dotted(path)}" if dotted(path) in modules(room) else f"code/{room}.md"
    return f"code/{room}.md" if any((ROOT / path).glob("*.py")) else None
