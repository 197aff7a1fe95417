"""README files, cut into sections and put together again as the pages of a site.

A section is everything under one heading of the second level; what stands before the first of them has the
anchor "". Each lies on one page of the site, and links between README files become links between pages.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

Place = tuple[Path, str]  # a README file below the root, and an anchor in it

FENCED: Final = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
HEADING: Final = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK: Final = re.compile(r"(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
UNREAD: Final = ("demo", "build", "dist")  # folders that commands make
ITEM: Final = re.compile(r"(\d+\.|-) ")


def markdown_files(root: Path) -> Iterator[Path]:
    """Every Markdown file of a repository; links are not followed."""
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(n for n in inner if n == ".github" or not (n.startswith(".") or n in UNREAD))
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(".md"))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with everything changed but fenced blocks."""
    parts, end = [], 0
    for block in FENCED.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def slug(title: str) -> str:
    """The anchor of a heading.

    >>> slug("`doctor`, and *more*")
    'doctor-and-more'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def cut(text: str) -> dict[str, str]:
    r"""The sections of a page by their anchor.

    >>> cut("# A\none\n## B c\ntwo\n### D\n```\n## no\n```\n")
    {'': '# A\none\n', 'b-c': '## B c\ntwo\n### D\n```\n## no\n```\n'}
    >>> cut("# A\none\n")
    {'': '# A\none\n'}
    """
    code = [block.span() for block in FENCED.finditer(text)]
    starts = [
        found
        for found in HEADING.finditer(text)
        if len(found[1]) == 2 and not any(a <= found.start() < b for a, b in code)
    ]
    ends = [*(found.start() for found in starts[1:]), len(text)][: len(starts)]
    first = text[: starts[0].start()] if starts else text
    return {"": first} | {slug(s[2]): text[s.start() : e] for s, e in zip(starts, ends, strict=True)}


def indented(text: str) -> str:
    r"""What belongs to an item of a list is indented by four, as Python-Markdown wants it.

    >>> indented("1. one\n\n   more\n- two\n  more\nend\n")
    '1. one\n\n    more\n- two\n    more\nend\n'
    """
    lines, width = [], 0
    for line in text.split("\n"):
        if found := ITEM.match(line):
            width = found.end()
        elif line and not line.startswith(" " * (width or 1)):
            width = 0
        lines.append(f"    {line[width:]}" if width and line and not found else line)
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the site.

    Attributes:
        name: Its file, such as "reference/store.md".
        title: In the navigation.
        places: The sections that it is made of, in order; only the first may begin a README file.
        after: Markdown that is made from the code and follows them.
    """

    name: str
    title: str
    places: Sequence[Place]
    after: str = ""


@dataclass(slots=True)
class Site:
    """Pages made of sections, and where everything lies.

    Attributes:
        root: Of the repository.
        texts: The sections of each README file.
        pages: All pages that are made of them.
        code: Says which page and anchor document a Python file; None for one that has no page.
        copied: Files that pages link to, and that must lie below `files/`.
    """

    root: Path
    texts: Mapping[Path, Mapping[str, str]]
    pages: Sequence[Page]
    code: Callable[[Path], str | None]
    copied: set[Path] = field(default_factory=set)

    def places(self) -> dict[Place, tuple[str, str]]:
        """Page and id of every heading.

        Raises:
            ValueError: A section is named twice, or is none of its README file.
        """
        found: dict[Place, tuple[str, str]] = {}
        for page in self.pages:
            for path, anchor in page.places:
                if (path, anchor) in found or anchor not in self.texts[path]:
                    raise ValueError(f"{page.name}: {path}#{anchor} is placed twice, or no section")
                for name in self._anchors(path, anchor):
                    taken = (page.name, name) in found.values()
                    found[path, name] = page.name, f"{slug(path.parent.name)}-{name}" if taken else name
                found[path, anchor] = page.name, found[path, anchor][1] if anchor else ""
        return found

    def _anchors(self, path: Path, anchor: str) -> list[str]:
        text = FENCED.sub("", self.texts[path][anchor])
        return [slug(found[2]) for found in HEADING.finditer(text)]

    def markdown(self, page: Page, places: Mapping[Place, tuple[str, str]]) -> str:
        """The text of a page, under its title in the navigation; the first page keeps its own."""
        alone = len(page.places) == 1 and bool(page.places[0][1])
        titled = alone or not page.places[0][1]
        parts = [] if titled else [f"# {page.title}\n\n"]
        for path, anchor in page.places:
            parts.append(self._section(page, path, self.texts[path][anchor], places, raised=alone))
        return "".join([*parts, page.after])

    def _section(
        self, page: Page, path: Path, text: str, places: Mapping[Place, tuple[str, str]], *, raised: bool
    ) -> str:
        def heading(found: re.Match[str]) -> str:
            marks = found[1][raised:]
            words = page.title if len(marks) == 1 and page.name != "index.md" else found[2]
            return f"{marks} {words} {{ #{places[path, slug(found[2])][1]} }}"

        def link(found: re.Match[str]) -> str:
            target = self._target(page, path, found[2], places)
            return f"{found[1]}({target})" if target else found[1][1:-1]

        def change(part: str) -> str:
            return LINK.sub(link, HEADING.sub(heading, re.sub(r"<!-- .*? -->\n", "", part)))

        return indented(outside_code(text, change)).rstrip() + "\n\n"

    def _target(self, page: Page, path: Path, target: str, places: Mapping[Place, tuple[str, str]]) -> str:
        """What a link of a README file becomes; "" where the site has nothing of it."""
        if "://" in target:
            return target
        file, _, anchor = target.partition("#")
        place = (self.root / path).parent.joinpath(file).resolve().relative_to(self.root) if file else path
        if (self.root / place / "README.md").is_file():
            place /= "README.md"
        if place in self.texts:
            name, id = places[place, anchor]
            return relative(page.name, name) + (f"#{id}" if id else "")
        if documented := self.code(place):
            return relative(page.name, documented)
        if (self.root / place).is_dir() or place.name.startswith("."):
            return ""
        self.copied.add(place)
        return relative(page.name, f"files/{place.as_posix()}")


def relative(page: str, target: str) -> str:
    """A link from one page of the site to something else of it.

    >>> relative("how-to/adopt.md", "reference/store.md"), relative("index.md", "a.md#b")
    ('../reference/store.md', 'a.md#b')
    """
    return PurePosixPath(os.path.relpath(target, os.path.dirname(page) or ".")).as_posix()


def spread(
    layout: Iterable[tuple[str, str, Sequence[str], str]], texts: Mapping[Path, Mapping[str, str]]
) -> list[Page]:
    """Pages from names, titles, sources and what follows them.

    A source "README.md#words" is one section, "README.md" all sections of that file that no other page takes.
    """
    rows = [*layout]
    taken = {source for _, _, sources, _ in rows for source in sources if "#" in source}

    def places(source: str) -> list[Place]:
        path, _, anchor = source.partition("#")
        if anchor:
            return [(Path(path), anchor)]
        return [(Path(path), a) for a in texts[Path(path)] if f"{path}#{a}" not in taken]

    return [
        Page(n, title, [p for s in sources for p in places(s)], after) for n, title, sources, after in rows
    ]
