"""Write the generated parts of all README files and of bench/RESULTS.md.

A part is everything between `<!-- table NAME -->` and `<!-- end -->`. It is made from bench/results or from
the code, so a page that is older than either is stale.

python bench/tables.py [--check]
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from shared import audits, compared, described, measured, verdicts
from shared.sections import markdown_files

ROOT: Final = Path(__file__).resolve().parents[1]
PART: Final = re.compile(r"(<!-- table (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "person": compared.person, "result": compared.result,
    "gaps": compared.gaps, "own": compared.own, "methods": compared.methods, "scenarios": compared.scenarios,
    "sequence": compared.sequence,
    "demo": verdicts.demo, "verdict": verdicts.verdict, "verdict cost": verdicts.cost,
    "request parts": verdicts.parts,
    "audit": audits.found, "audit cost": audits.cost,
    "speed": measured.speed, "overhead": measured.overhead,
    "breakdown": measured.breakdown, "epoch": measured.epoch, "memory": measured.memory,
    "agreement": measured.agreement, "together": measured.together, "neighbours": measured.neighbours,
    "authors": measured.authors, "alike": measured.alike,
    "processors": measured.processors,
    "export": measured.export, "openvino": measured.openvino, "runtimes": measured.runtimes,
    "scale": measured.scale, "photos": measured.photos,
    "rooms": described.rooms, "commands": described.commands, "exit codes": described.exit_codes,
    "recipe": described.recipe_fields, "unlearning": described.unlearning, "attacks": described.attacks,
    "targets": described.targets, "architectures": described.architectures,
    "ledger tables": described.ledger_tables, "ledger facts": described.ledger_facts,
}  # fmt: skip


def pages() -> Iterator[Path]:
    """Every Markdown file of the repository."""
    return markdown_files(ROOT)


def renewed(text: str) -> str:
    """A page with every part made anew.

    Raises:
        KeyError: It asks for a part that nothing makes.
    """
    return PART.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    """Rewrite the pages, or with --check fail where one differs."""
    stale = []
    for page in pages():
        before = page.read_text("utf-8")
        after = renewed(before)
        if before != after:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv[1:]:
                page.write_text(after, "utf-8")
    if stale and "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(stale)}; python bench/tables.py renews them")
    print("\n".join(stale), end="\n" if stale else "")


if __name__ == "__main__":
    main()
