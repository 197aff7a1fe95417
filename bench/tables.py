"""Write the README's tables from bench/results: everything between `<!-- table NAME -->` and `<!-- end -->`.

python bench/tables.py [--check]
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def load(name: str) -> dict[str, Any]:
    """One result file."""
    document: dict[str, Any] = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text("utf-8"))
    return document


def where(document: dict[str, Any]) -> str:
    """Machine and commit, for the line under a table."""
    machine, settings = document["machine"], document["settings"]
    place = machine["gpu"] or f"{machine['cpu']}, {settings['threads']} threads"
    return f"{place}; width {settings['width']}; median of {settings['repeats']}; commit {document['commit']}"


def step() -> str:
    """Training steps relative to the float network."""
    document = load("step-cpu")
    lines = ["| W4A4 training step | float | ours | stock Brevitas |", "|---|---:|---:|---:|"]
    for name, row in document["results"].items():
        cells = [f"{row['float']['median_ms']:.0f} ms"]
        cells += [f"{row[kind]['ratio']:.2f}x" for kind in ("quantized", "stock")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", where(document)])


def files() -> str:
    """Sizes and speed of the exported files relative to the float file."""
    document = load("files")
    lines = ["| file | KiB | of float | time, batch 1 | time, batch 64 |", "|---|---:|---:|---:|---:|"]
    for architecture, found in document["results"].items():
        for name, size in found["size"].items():
            times = [found[f"batch {b}"].get(name) for b in (1, 64)]
            cells = [f"{t['ratio']:.2f}x" if t else "-" for t in times]
            cells = [f"{size['bytes'] / 1024:.0f}", f"{size['ratio']:.2f}", *cells]
            lines.append(f"| {architecture} {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", where(document)])


def demo() -> str:
    """What `make demo` printed on a fresh clone."""
    text = (ROOT / "bench" / "results" / "demo.txt").read_text("utf-8").rstrip()
    return f"```\n{text}\n```"


TABLES: dict[str, Callable[[], str]] = {"demo": demo, "step": step, "files": files}


def rewritten(text: str) -> str:
    """The README with every table renewed."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table {name} -->\n).*?(\n<!-- end -->)"
        text = re.sub(pattern, lambda m, t=table: m[1] + t() + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def main() -> None:
    """Rewrite the README, or with --check fail when it differs."""
    before = README.read_text("utf-8")
    after = rewritten(before)
    if "--check" in sys.argv[1:]:
        sys.exit(int(before != after))
    README.write_text(after, "utf-8")


if __name__ == "__main__":
    main()
