"""The image files of a folder, and what is left out of it, which is said and never silently dropped."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unicodedata import normalize

from qmu_edge.data.pictures import MOST_NAMED, LeftOut, Picture
from qmu_edge.errors import ConfigError

SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
)
SPLITS: Final = ("train", "test")
_PACKED: Final = frozenset({".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z", ".rar"})


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds.

    Attributes:
        files: Split, class and path of each image, sorted.
        left_out: How many things were left out, by reason.
        first: The first of them, relative to the folder, by reason.
        suffixes: How many files had which other suffix.
    """

    root: Path
    files: list[tuple[str, str, Path]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str, path: Path) -> None:
        """Count a path among what is left out."""
        self.left_out[reason] += 1
        self.first.setdefault(reason, path.relative_to(self.root).as_posix())

    def to_json(self) -> dict[str, LeftOut]:
        """What was left out, and why."""
        found: dict[str, LeftOut] = {
            r: {"count": n, "first": self.first[r]} for r, n in self.left_out.items()
        }
        if self.suffixes:
            found[SUFFIX]["suffixes"] = dict(self.suffixes.most_common(MOST_NAMED))
        return found


_HIDDEN: Final = "hidden"
_BESIDE: Final = "beside train and test"
_NO_CLASS: Final = "files beside the classes"
_EMPTY: Final = "classes without images"
_DEEPER: Final = "folders within classes"
SUFFIX: Final = "files with another suffix"


def listing(root: Path) -> Listing:
    """All images in train/<class>/ and test/<class>/; hidden files and folders are never any.

    Raises:
        ConfigError: There are none, or a link leads out of the folder.
    """
    found, inside = Listing(root), root.resolve()
    for path in _sorted(root):
        if path.name not in SPLITS:
            found.leave_out(_HIDDEN if path.name.startswith(".") else _BESIDE, path)
    for split in SPLITS:
        for folder in _sorted(root / split):
            if folder.name.startswith("."):
                found.leave_out(_HIDDEN, folder)
            elif not folder.is_dir():
                found.leave_out(_NO_CLASS, folder)
            else:
                _look_into(found, split, folder, inside)
    if not found.files:
        packed = next((path.name for path in _sorted(root) if is_packed(path)), "")
        seen = packed or found.first.get(_BESIDE)
        also = f"; it holds {seen}{': unpack it' if packed else ''}" if seen else ""
        raise ConfigError(f"{root}: no images in train/<class>/ and test/<class>/{also}")
    return found


def is_packed(path: Path) -> bool:
    """Whether a file is by its name a compressed one, or holds others: nothing is ever unpacked."""
    return path.suffix.lower() in _PACKED and path.is_file()


def folder(root: Path) -> tuple[list[Picture], tuple[str, ...], dict[str, LeftOut]]:
    """The pictures of a folder, its classes in label order, and what is left out, for a `Decoder`."""
    found = listing(root)
    pictures = [
        Picture(path.relative_to(root).as_posix(), split, name, path) for split, name, path in found.files
    ]
    return pictures, (), found.to_json()


def _look_into(found: Listing, split: str, folder: Path, inside: Path) -> None:
    """Add the images of one class."""
    before = len(found.files)
    name = normalize("NFC", folder.name)  # file systems differ in how they store one name
    for path in _sorted(folder):
        if path.name.startswith("."):
            found.leave_out(_HIDDEN, path)
        elif path.suffix.lower() in SUFFIXES:
            linked = path.is_symlink() or folder.is_symlink() or folder.parent.is_symlink()
            if linked and not leads_into(path, inside):
                raise ConfigError(f"{path}: a link that leads out of {found.root}")
            found.files.append((split, name, path))
        elif path.is_dir():
            found.leave_out(_DEEPER, path)
        else:
            found.leave_out(SUFFIX, path)
            found.suffixes[path.suffix.lower()[:20]] += 1
    if len(found.files) == before:
        found.leave_out(_EMPTY, folder)


def leads_into(path: Path, inside: Path) -> bool:
    """Whether a path, links followed, stays in a folder."""
    try:
        return path.resolve().is_relative_to(inside)
    except (OSError, RuntimeError):  # links in a loop
        return False


def _sorted(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.iterdir()) if folder.is_dir() else ()
