"""Where the text of a recipe comes from: those that the package brings, and files."""

from importlib import resources
from pathlib import Path
from typing import Final

from qmu_edge.errors import ConfigError
from qmu_edge.io.files import read_regular

MAX_BYTES: Final = 1 << 16


def shipped_recipes() -> dict[str, str]:
    """Names of the recipes that come with the package, each with the comment on its first line."""
    folder = resources.files("qmu_edge") / "recipes"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".toml"))
    return {n[:-5]: _first_comment((folder / n).read_text("utf-8")) for n in names}


def _first_comment(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ").strip()


def recipe_text(name_or_path: str) -> str:
    """TOML text of a shipped recipe, or of a file.

    Raises:
        ConfigError: Neither exists, or the file cannot be read as UTF-8.
    """
    if name_or_path in shipped_recipes():
        file = resources.files("qmu_edge") / "recipes" / f"{name_or_path}.toml"
        return file.read_text("utf-8")
    path = Path(name_or_path)
    if path.exists():
        return recipe_file(path)
    known = ", ".join(shipped_recipes())
    raise ConfigError(f"recipe {name_or_path!r}: no such file, and not one of {known}")


def recipe_file(path: Path) -> str:
    """The text of a file with a recipe.

    Raises:
        ConfigError: There is none, it is larger than 64 KiB, or it is not UTF-8.
    """
    try:
        return read_regular(path, limit=MAX_BYTES, error=ConfigError).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
