"""Reads a page as a browser would, and is strict where a browser is lenient."""

from html.parser import HTMLParser

ALONE = {"meta", "br", "img", "link", "input", "hr"}
NO_PROSE = {"style", "script"}


class Page(HTMLParser):
    """Elements with their attributes, text, and what is not well-formed.

    Attributes:
        elements: Name and attributes of every element, in order.
        text: Everything that is read, but for the style sheet.
        style: The style sheet.
        faults: What is opened and not closed, or said twice.
    """

    def __init__(self, data: bytes) -> None:
        """Read the bytes of a page."""
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = self.style = ""
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(data.decode("utf-8"))
        self.close()
        self.faults += [f"<{name}> is not closed" for name in self._open]
        ids = [a["id"] for _, a in self.elements if "id" in a]
        self.faults += [f"id {i} twice" for i in {*ids} if ids.count(i) > 1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        names = [name for name, _ in attrs]
        self.faults += [f"<{tag}> has {n} twice" for n in {*names} if names.count(n) > 1]
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ALONE:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element of SVG that closes itself."""
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Match the last element that is open."""
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes what is not open")

    def handle_data(self, data: str) -> None:
        """Keep text."""
        if "style" in self._open:
            self.style += data
        elif not NO_PROSE & {*self._open}:
            self.text += f"{data}\n"

    def named(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]
