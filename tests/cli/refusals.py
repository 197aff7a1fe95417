"""What the tests of bad input share: commands that must refuse, and ways to damage a project."""

import json
from pathlib import Path
from typing import Any

from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer


def refused(ended: Any, code: int, *fragments: str) -> None:
    """The command ended as a deliberate error: one line, its exit code, nothing on stdout."""
    assert ended.code == code, ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("qmu-edge: "), ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
    for fragment in fragments:
        assert fragment in lines[0]


def ask(folder: Path, document: object) -> Path:
    path = folder / "asked.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[: len(data) // 2])


def current(project: Path, name: Any) -> str | None:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        return ledger.current(Pointer(name))


def set_policy(project: Path, **limits: str) -> None:
    text = (project / "qmu.toml").read_text("utf-8")
    lines = [x for x in text.splitlines() if x.split(" = ")[0] not in limits]
    (project / "qmu.toml").write_text("\n".join(lines).replace(
        "[policy]", "\n".join(["[policy]", *(f"{k} = {v}" for k, v in limits.items())])
    ))  # fmt: skip
