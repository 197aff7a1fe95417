"""A package with plug-ins, as pip leaves it in a folder."""

from collections.abc import Mapping
from pathlib import Path

from qmu_edge.io.progress import Progress


class Notes(Progress):
    """Progress whose notes are kept."""

    def __init__(self) -> None:
        """Silent otherwise."""
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    warn = note


def package(
    folder: Path, points: Mapping[str, str], code: str = "", *, name: str = "my-plugins", version: str = "0.7"
) -> Path:
    """Write a package with entry points, "KIND:NAME" to "module:object", and its module `my_plugins`.

    Whoever imports the module leaves a file `imported` beside it.
    """
    folder.mkdir(exist_ok=True)
    mark = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"
    (folder / f"{name.replace('-', '_')}.py").write_text(mark + code, "utf-8")
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    lines: list[str] = []
    for point, value in points.items():
        kind, _, called = point.partition(":")
        lines += [f"[qmu_edge.{kind}s]", f"{called} = {value}"]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder
