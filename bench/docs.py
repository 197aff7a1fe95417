"""Build a site of the README files, the command line and the docstrings: build/docs/site/index.html.

Nothing is written twice: the site's pages are sections of README files, put into another order. `LAYOUT` says
which; a README file that it does not name lies in the reference. Needs the extra "docs".

python bench/docs.py [OUT]
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shared.reference import ROOT, code, commands, documented, rooms
from shared.sections import Site, cut, markdown_files, slug, spread

OUT: Final = ROOT / "build/docs"
EXAMPLES: Final = ROOT / "qmu_edge/api/examples"
SCRIPTS: Final = "Three examples"
Row = tuple[str, Sequence[str]]  # title and sources of a page

LAYOUT: Final[Mapping[str, Sequence[Row]]] = {
    "": [("Start", ["README.md"])],
    "Tutorial": [
        ("The demo, line by line", ["qmu_edge/api/README.md#the-demo-line-by-line"]),
        (SCRIPTS, ["qmu_edge/api/README.md#examples"]),
    ],
    "How to": [
        ("Install", ["qmu_edge/README.md#installing"]),
        ("Bring your own images", [
            "qmu_edge/data/README.md#sources", "qmu_edge/data/README.md#whose-a-sample-is",
            "qmu_edge/data/README.md#what-an-image-file-shows",
        ]),
        ("Adopt a trained network", [
            "qmu_edge/train/README.md#adopting-a-network-that-was-trained-elsewhere",
            "models/README.md#a-network-of-your-own",
        ]),
        ("Serve requests in production", ["qmu_edge/queue/README.md"]),
        ("Keep, remove, repair", [
            "qmu_edge/project/README.md#what-stays-and-for-how-long", "qmu_edge/project/README.md#doctor",
        ]),
        ("Release from a CI job", ["export/README.md#in-ci"]),
        ("Check on a device", ["qmu_edge/verify/README.md#on-a-device", "qmu_edge/verify/README.md#bundles"]),
        ("Put it on a Hub", ["export/README.md#on-a-hugging-face-hub"]),
        ("Check a receipt", [
            "qmu_edge/receipt/README.md#verification", "qmu_edge/receipt/README.md#recomputing",
            "qmu_edge/attestation/README.md#what-is-verified",
            "qmu_edge/verify/README.md#files-with-data",
        ]),
        ("Attack a file yourself", ["qmu_edge/audit/README.md"]),
        ("Report to people", ["qmu_edge/page/README.md"]),
        ("Extend", [
            ".github/CONTRIBUTING.md", "qmu_edge/unlearn/README.md#adding-a-method",
            "qmu_edge/unlearn/README.md#a-method-of-another-package",
            "export/README.md#adding-a-format-or-a-target", "cli/README.md#adding-a-command",
        ]),
    ],
    "Reference": [
        ("Commands", ["cli/README.md"]),
        ("Recipe", ["qmu_edge/README.md#the-recipe"]),
        ("Methods", ["qmu_edge/unlearn/README.md"]),
        ("Networks", ["models/README.md"]),
        ("Requests", ["qmu_edge/request/README.md"]),
        ("Receipts", ["qmu_edge/receipt/README.md"]),
        ("Files for other tools", ["qmu_edge/attestation/README.md"]),
        ("Exported files", ["export/README.md"]),
        ("Measurements and gates", ["qmu_edge/verify/README.md"]),
        ("A project's folder", ["qmu_edge/project/README.md"]),
        ("Store and ledger", ["qmu_edge/store/README.md"]),
        ("Samples", ["qmu_edge/data/README.md"]),
        ("Training", ["qmu_edge/train/README.md"]),
        ("Python functions", ["qmu_edge/api/README.md"]),
    ],
    "Explanations": [
        ("What is left: the verdict", ["qmu_edge/verify/README.md#the-verdict"]),
        ("What it is worth, and what it is not", [
            "qmu_edge/receipt/README.md#what-a-receipt-is-worth",
            "qmu_edge/attestation/README.md#which-duty-which-file-helps-with",
            ".github/SECURITY.md#what-is-not-protected-against",
        ]),
        ("The same bits everywhere", ["export/README.md#exactness"]),
        ("Rooms", ["qmu_edge/README.md"]),
        ("How methods are compared", ["bench/README.md"]),
        ("Results", ["bench/RESULTS.md"]),
    ],
    "Project": [
        ("Security", [".github/SECURITY.md"]),
        ("Tests", ["tests/README.md"]),
        ("Changelog", [".github/CHANGELOG.md"]),
    ],
}  # fmt: skip


def site() -> tuple[Site, dict[str, Any]]:
    """All pages that are made of README files, and the navigation by title.

    Raises:
        ValueError: The layout names a section twice, or one that there is not.
    """
    texts = {path.relative_to(ROOT): cut(path.read_text("utf-8")) for path in markdown_files(ROOT)}
    named = {source for part in LAYOUT.values() for _, of in part for source in of}
    others = [
        (cut_title(text), [path.as_posix()]) for path, text in texts.items() if path.as_posix() not in named
    ]
    layout = {part: [*of, *(others if part == "Reference" else ())] for part, of in LAYOUT.items()}
    after = {"Commands": commands(), SCRIPTS: examples()}
    rows = [
        (name(part, title), title, sources, after.get(title, ""))
        for part, of in layout.items()
        for title, sources in of
    ]
    navigation = {part: [{title: name(part, title)} for title, _ in of] for part, of in layout.items()}
    navigation["Code"] = [{room: f"code/{room}.md"} for room in rooms()]
    return Site(ROOT, texts, spread(rows, texts), code_page), navigation


def name(part: str, title: str) -> str:
    """The file of a page.

    >>> name("", "Start"), name("How to", "Release from a CI job")
    ('index.md', 'how-to/release-from-a-ci-job.md')
    """
    return f"{slug(part)}/{slug(title)}.md" if part else "index.md"


def cut_title(sections: Mapping[str, str]) -> str:
    """What a README file calls itself."""
    return sections[""].partition("\n")[0].lstrip("# ").replace("`", "")


def examples() -> str:
    """The example scripts as they are."""
    scripts = sorted(EXAMPLES.glob("[!_]*.py"))
    return "\n".join(
        f"## `{p.name}` {{ #{p.stem} }}\n\n```python\n{p.read_text('utf-8')}```\n" for p in scripts
    )


def code_page(path: Path) -> str | None:
    """Where a Python file is shown or described; None for one that is in no room."""
    if ROOT / path in EXAMPLES.glob("[!_]*.py"):
        return f"{name('Tutorial', SCRIPTS)}#{path.stem}"
    return documented(path)


def write(out: Path) -> None:
    """Write pages, files that they link to and the configuration into a folder, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    made, navigation = site()
    places = made.places()
    for page in made.pages:
        put(out / "pages" / page.name, made.markdown(page, places))
    for room in rooms():
        put(out / f"pages/code/{room}.md", code(room))
    for path in made.copied:
        place = out / "pages/files" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, place)
    put(out / "mkdocs.yml", json.dumps(configuration(navigation), indent=1))  # JSON is YAML, too


def put(place: Path, text: str) -> None:
    """Write a file and the folders above it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, "utf-8")


def configuration(navigation: Mapping[str, Any]) -> dict[str, Any]:
    """Of the site's generator. A page loads nothing from elsewhere, and can be read from a disk."""
    return {
        "site_name": "qmu-edge", "docs_dir": "pages", "use_directory_urls": False,
        "nav": [*navigation[""], *({part: of} for part, of in navigation.items() if part)],
        "theme": {
            "name": "material", "font": False,
            "features": ["navigation.top", "content.code.copy", "toc.integrate"],
            "palette": [
                {"media": "(prefers-color-scheme: light)", "scheme": "default"},
                {"media": "(prefers-color-scheme: dark)", "scheme": "slate"},
            ],
        },
        "markdown_extensions": [
            "attr_list", "tables", {"toc": {"permalink": True}}, "pymdownx.highlight", "pymdownx.superfences",
        ],
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": {
            "paths": [str(ROOT)],
            "options": {
                "show_root_heading": True, "show_root_full_path": True, "show_source": False,
                "members_order": "source", "heading_level": 2, "separate_signature": True,
                "show_signature_annotations": True,
                "extensions": [str(ROOT / "bench/shared/doctests.py")],
            },
        }}}}],
    }  # fmt: skip


def main() -> None:
    """Build the site; a warning is an error."""
    out = Path(sys.argv[1]) if sys.argv[1:] else OUT
    write(out)
    words = ["build", "--strict", "--config-file", str(out / "mkdocs.yml")]
    built = subprocess.run([sys.executable, "-m", "zensical", *words], check=False)
    if built.returncode:
        sys.exit(built.returncode)
    print(out / "site/index.html")


if __name__ == "__main__":
    main()
