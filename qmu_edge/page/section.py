"""What a section of the page is made of.

Every text may be somebody else's (the name of a layer, a method's): a section holds plain text, and whoever
writes it into a document escapes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head, the first of which names its row; `behind` a plot it is folded away."""

    title: str
    head: Row
    rows: Sequence[Row]
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page: anchor and title, sentences, plots with their captions, tables, a command."""

    anchor: str
    title: str
    text: Sequence[str] = ()
    plots: Sequence[tuple[str, Markup]] = ()
    tables: Sequence[Table] = ()
    command: str = ""
