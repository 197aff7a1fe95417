"""Reading files that may be anything."""

import os
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.files import read_regular


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"four")
    link.symlink_to(path)
    for name in (path, link):
        assert read_regular(name, limit=4, error=ConfigError) == b"four"
    with pytest.raises(IntegrityError, match="larger than the allowed 3 bytes"):
        read_regular(path, limit=3, error=IntegrityError)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {
        pipe: "not a regular file",
        tmp_path: "not a regular file",
        Path("/dev/zero"): "not a regular file",
        tmp_path / "none": "no such file",
        pipe / "below": "cannot be read",
        tmp_path / "loop": "cannot be read",
        Path("nul\0"): "cannot be read",
    }
    for path, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            read_regular(path, limit=100, error=ConfigError)
