"""The site of the documentation: every section lies on one page, every link leads somewhere."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
NEEDS = ("zensical", "mkdocstrings-python")


@pytest.fixture(scope="module")
def docs() -> Iterator[Any]:
    """bench/docs.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        yield importlib.import_module("docs")


@pytest.fixture(scope="module")
def pages(docs: Any) -> dict[str, str]:
    """The Markdown of all pages that are made of README files, by name."""
    made, _ = docs.site()
    places = made.places()
    return {page.name: made.markdown(page, places) for page in made.pages}


def test_every_section_of_every_page_lies_on_the_site_once(docs: Any) -> None:
    made, navigation = docs.site()
    placed = [place for page in made.pages for place in page.places]
    assert sorted(placed) == sorted((path, anchor) for path, of in made.texts.items() for anchor in of)
    named = [name for part in navigation.values() for row in part for name in row.values()]
    assert len(named) == len(set(named)) and {p.name for p in made.pages} <= {*named}


def test_a_page_that_the_layout_does_not_name_is_in_the_reference(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"": docs.LAYOUT[""], "Reference": []}
    monkeypatch.setattr(docs, "LAYOUT", known)
    made, navigation = docs.site()
    assert len(made.pages) == len(made.texts) == len(navigation["Reference"]) + 1


@pytest.mark.parametrize("source", ["README.md#results", "README.md#no-such-section"])
def test_a_section_that_is_named_twice_or_that_there_is_not_is_refused(
    docs: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "LAYOUT", {"": [("Start", [source, source])], "Reference": []})
    made, _ = docs.site()
    with pytest.raises(ValueError, match=re.escape(source)):
        made.places()


def test_links_lead_to_pages_of_the_site_and_to_headings_that_they_have(
    docs: Any, pages: dict[str, str]
) -> None:
    ids = {name: set(re.findall(r"^#+ .* \{ #(\S+) \}$", text, re.MULTILINE)) for name, text in pages.items()}
    found = 0
    for name, text in pages.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text)):
            path, _, anchor = target.partition("#")
            place = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if "://" in target or place.startswith(("code/", "files/")):
                continue
            found += 1
            assert place in pages and (not anchor or anchor in ids[place]), (name, target)
    assert found > 100
    assert not [name for name, text in pages.items() if re.search(r"\]\([^)]*README\.md", text)]


def test_a_heading_has_one_id_on_its_page(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        found = re.findall(r"^#+ .* \{ #(\S+) \}$", text, re.MULTILINE)
        assert len(found) == len(set(found)), name


def test_a_page_is_called_what_the_navigation_calls_it(docs: Any, pages: dict[str, str]) -> None:
    made, _ = docs.site()
    for page in made.pages:
        first = pages[page.name].partition("\n")[0].partition(" {")[0]
        assert first == ("# qmu-edge" if page.name == "index.md" else f"# {page.title}")
        assert len(re.findall("^# ", FENCED.sub("", pages[page.name]), re.MULTILINE)) == 1, page.name


def test_every_command_and_every_example_is_on_a_page(docs: Any, pages: dict[str, str]) -> None:
    commands = pages["reference/commands.md"]
    assert "## `qmu-edge unlearn`" in commands and "| `--dry-run` |" in commands
    scripts = [*docs.EXAMPLES.glob("[!_]*.py")]
    assert len(scripts) == 3
    for script in scripts:
        assert script.read_text("utf-8") in pages["tutorial/three-examples.md"]


@pytest.mark.parametrize("name", ["docs", "shared.sections", "shared.reference"])
def test_the_examples_of_the_docstrings_hold(docs: Any, name: str) -> None:
    found = doctest.testmod(sys.modules[name])
    assert found.attempted and not found.failed


class Reader(HTMLParser):
    """What a page of the built site names, links to and loads."""

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what matters."""
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        self.links += [given["href"] or ""] if tag == "a" and "href" in given else []
        if tag in ("script", "link", "img", "iframe"):
            self.loaded += [given[name] or "" for name in ("src", "href") if name in given]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site, built as `make docs` does, and what that printed; skip where its tools cannot be had."""
    folder = tmp_path_factory.mktemp("docs")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder / "tools"), *NEEDS]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        pytest.skip(f"{', '.join(NEEDS)} cannot be installed: no network")
    words = [sys.executable, "-W", "ignore", str(ROOT / "bench/docs.py"), str(folder / "out")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder / 'tools'}"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return folder / "out/site", ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(built: tuple[Path, str]) -> None:
    site, printed = built
    assert "warning" not in printed.lower() and "No issues found" in printed
    assert (site / "index.html").is_file()


@pytest.mark.slow
def test_the_built_site_loads_nothing_from_elsewhere_and_no_link_is_broken(built: tuple[Path, str]) -> None:
    site, _ = built
    read = {
        path: Reader(path.read_text("utf-8")) for path in sorted(site.rglob("*.html")) if path.stem != "404"
    }
    assert len(read) > 50
    for path, page in read.items():
        assert not [target for target in page.loaded if "//" in target], path
        for target in page.links:
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            assert place.is_file(), (path, target)
            assert place not in read or not anchor or anchor in read[place].ids, (path, target)
    text = (site / "code/verify.html").read_text("utf-8")
    assert "qmu_edge.verify.residual.samples_residual" in text  # docstrings are read
