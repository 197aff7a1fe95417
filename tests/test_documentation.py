"""The README files: short, linked, current, and every command, path and name in them exists."""

import ast
import configparser
import fnmatch
import importlib.util
import json
import re
import shlex
import subprocess
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from qmu_edge.cli.main import app
from qmu_edge.errors import ConfigError
from qmu_edge.receipt.statement import json_schema as receipt_schema
from qmu_edge.recipe import parse_recipe
from qmu_edge.request.document import json_schema as request_schema
from qmu_edge.verify.__main__ import _parser as verifier

ROOT = Path(__file__).parents[1]
MAKES = ("demo", "build", "dist", "*.egg-info", "__pycache__")  # folders that commands make
PAGES = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "[!.]*/*.md", "qmu_edge/*/*.md")
    for path in ROOT.glob(pattern)
    if path.parent.name not in MAKES and not path.parent.is_symlink()
)
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
TO_BE_WRITTEN = "uniform"  # the example of CONTRIBUTING
UNFINISHED = ("MissingParameter", "BadOptionUsage")  # a command in a sentence may leave values out
COMMANDS: Any = typer.main.get_command(app)


def name(page: Path) -> str:
    """A page as a test's id."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages, without their indentation."""
    found = FENCED.findall(page.read_text("utf-8"))
    return [textwrap.dedent(text) for _, language, text in found if language in languages]


def inline(page: Path) -> list[str]:
    """The code inside lines of a page, but for the names of links."""
    text = re.sub(r"\[[^\]]*\]\(", "(", FENCED.sub("", page.read_text("utf-8")))
    return re.findall(r"`([^`\n]+)`", text)


def links(page: Path) -> list[tuple[str, str]]:
    """Path and anchor of every relative link."""
    found = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text("utf-8")))
    return [(t.partition("#")[0], t.partition("#")[2]) for t in found if "://" not in t]


def anchors(page: Path) -> set[str]:
    """What links may name in a page: its headings, in lower case, without punctuation."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def folders(place: Path) -> set[str]:
    """Folders that belong to the repository."""
    names = {p.name for p in place.iterdir() if p.is_dir() and not p.is_symlink()}
    return {n for n in names if not (n.startswith(".") or any(fnmatch.fnmatch(n, m) for m in MAKES))}


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1200
    assert text.rstrip().splitlines()[-1] == "No licence has been chosen yet."


def test_every_page_is_on_the_map_and_every_folder_has_one() -> None:
    on_the_map = {(ROOT / target).resolve() for target, _ in links(ROOT / "README.md")}
    assert [name(page) for page in PAGES if page not in on_the_map | {ROOT / "README.md"}] == []
    assert {p.parent.name for p in PAGES if p.parent.parent == ROOT} >= folders(ROOT)


def test_every_room_is_on_the_map_of_the_package() -> None:
    rooms = {p.parent.name for p in (ROOT / "qmu_edge").glob("*/__init__.py")}
    rows = re.findall(
        r"^\| \d+ \| \[?`(\w+)(?:\.py)?`", (ROOT / "qmu_edge/README.md").read_text("utf-8"), re.M
    )
    assert len(rows) == len(set(rows))
    assert set(rows) == rooms | {"recipe", "errors"}


def test_every_script_of_the_benchmarks_is_listed() -> None:
    listed = {target for target, _ in links(ROOT / "bench/README.md")}
    assert {path.name for path in (ROOT / "bench").glob("*.py")} - listed == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        place = page.parent / target if target else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_not_long(page: Path) -> None:
    prose = re.sub(
        r"<!-- table .*?<!-- end -->", "", FENCED.sub("", page.read_text("utf-8")), flags=re.DOTALL
    )
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """bench/tables.py as a module."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("tables")


def test_generated_parts_are_current(tables: Any) -> None:
    assert sorted(tables.pages()) == PAGES
    stale = [
        name(page) for page in PAGES if tables.renewed(page.read_text("utf-8")) != page.read_text("utf-8")
    ]
    assert stale == [], "python bench/tables.py renews them"
    used = {part for page in PAGES for part in re.findall("<!-- table (.*?) -->", page.read_text("utf-8"))}
    assert used == set(tables.TABLES)


def test_the_ranges_of_a_recipe_are_those_that_it_is_held_to(tables: Any) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*?) *\|", tables.TABLES["recipe"](), re.M))
    assert rows["weight_bits"] == "2 to 8" and rows["average"] == "0 to below 1"
    assert rows["crop_area"] == "above 0 to 1" and rows["retrain_above"] == '0 to 1, "off"'
    assert rows["parity_inputs"] == "at least 1000" and rows["flip"] == "true, false"
    assert rows["seed"] == "whole numbers" and rows["source"].endswith('"torchvision:NAME", "plugin:NAME"')
    for key, wrong in (("weight_bits", 9), ("average", 1.0)):
        section = "model" if key == "weight_bits" else "train"
        with pytest.raises(ConfigError, match=key):
            parse_recipe(f"[{section}]\n{key} = {wrong}\n", "r.toml")


def test_stale_page_is_told_and_renewed(tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- table exit codes -->\nnothing\n<!-- end -->\n", "utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    for arguments in (["--check"], []):
        monkeypatch.setattr("sys.argv", ["tables.py", *arguments])
        if arguments:
            with pytest.raises(SystemExit, match=r"stale: README\.md"):
                tables.main()
        else:
            tables.main()
    assert "9 | " in page.read_text("utf-8")
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    tables.main()
    page.write_text("<!-- table nonsense -->\n<!-- end -->\n", "utf-8")
    with pytest.raises(KeyError, match="nonsense"):
        tables.main()


def lines_of_a_shell(page: Path) -> Iterator[list[str]]:
    """The words of every command in fenced blocks, without comments."""
    for block in blocks(page, "", "sh"):
        for line in block.splitlines():
            if not re.match(r"\s*(qmu-edge|python|make|bash|torchrun|cd|pip) ", line):
                continue
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word != "&&":
                    words.append(word)
                elif words:
                    yield words
                    words = []


def problem(words: list[str]) -> str:
    """What is wrong with the arguments of `qmu-edge`, or ""."""
    command, rest = COMMANDS, words
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    if command is COMMANDS:
        return f"no command {rest[:1]}"
    try:
        command.make_context(command.name, list(rest))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def wrong(words: list[str]) -> str:
    """What is wrong with a command of any kind, or ""."""
    if "qmu-edge" in words:
        return problem(words[words.index("qmu-edge") + 1 :])
    if words[:4] == ["python", "-P", "-m", "qmu_edge.verify"]:
        verifier().parse_args(words[4:])
    elif words[:2] == ["python", "-m"]:
        return "" if importlib.util.find_spec(words[2]) else f"no module {words[2]}"
    elif words[0] == "make":
        known = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return ", ".join(set(words[1:]) - set(known))
    elif words[0] in ("python", "bash") and words[1] != "-m":
        return "" if (ROOT / words[1]).is_file() else f"no file {words[1]}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist_with_these_options(page: Path) -> None:
    assert [(words, found) for words in lines_of_a_shell(page) if (found := wrong(words))] == []
    for text in inline(page):
        if re.match(r"qmu-edge [a-z]", text):
            found = problem(shlex.split(text)[1:])
            assert not found or found.startswith(UNFINISHED), (text, found)


def test_a_wrong_command_is_noticed() -> None:
    assert problem(["train", "--fast"]).startswith("NoSuchOption")
    assert problem(["request", "approve", "ID"]).startswith("MissingParameter")
    assert problem(["requests"]) == "no command ['requests']"
    assert wrong(["make", "coffee"]) == "coffee"
    assert wrong(["python", "-m", "qmu_edge.coffee"]) == "no module qmu_edge.coffee"
    assert wrong(["python", "bench/none.py"]) == "no file bench/none.py"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_and_modules_exist(page: Path) -> None:
    tops = "|".join(re.escape(n) for n in (*folders(ROOT), ".github"))
    for text in inline(page):
        if re.fullmatch(rf"({tops})/[\w./*-]*", text) and TO_BE_WRITTEN not in text:
            assert list(ROOT.glob(text.rstrip("/"))), text
        if re.fullmatch(r"qmu_edge(\.\w+)+", text):
            assert resolves(text), text


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), attribute)
    return True


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_in_pages_compiles(page: Path) -> None:
    for text in blocks(page, "python"):
        ast.parse(text, name(page))


SHELL = re.compile(r"^(qmu-edge|python|make|bash|pip|cd|git|sed|torchrun) ", re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in PAGES if any(map(SHELL.search, blocks(p, "", "sh")))], ids=name)
def test_shell_in_pages_parses(page: Path) -> None:
    for text in filter(SHELL.search, blocks(page, "", "sh")):
        ended = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, ""), text


READERS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "ini": lambda text: configparser.ConfigParser().read_string(text),
}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, *READERS)], ids=name)
def test_data_in_pages_can_be_read(page: Path) -> None:
    for language, read in READERS.items():
        for text in blocks(page, language):
            read(text)


def test_every_block_is_of_a_language_that_is_looked_at() -> None:
    """A block of another one would be tested by nobody."""
    looked_at = {"", "sh", "python", "sql", "text", "yaml", *READERS}
    used = {language for page in PAGES for _, language, _ in FENCED.findall(page.read_text("utf-8"))}
    assert used <= looked_at


def properties(schema: Any) -> Iterator[str]:
    """Every property that a JSON Schema knows."""
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from properties(part)


@pytest.mark.parametrize(("room", "schema"), [("request", request_schema()), ("receipt", receipt_schema())])
def test_specification_names_every_field(room: str, schema: Any) -> None:
    text = (ROOT / "qmu_edge" / room / "README.md").read_text("utf-8")
    assert [field for field in set(properties(schema)) if f"`{field}`" not in text] == []


def test_the_verifier_is_run_without_what_lies_in_the_working_folder() -> None:
    """Whoever goes into a bundle's folder would run its numpy.py, before any signature is looked at."""
    found = [p for p in PAGES if "python -m qmu_edge.verify" in p.read_text("utf-8")]
    assert [p for p in found if p.name != "CHANGELOG.md"] == []
