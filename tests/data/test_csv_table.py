"""How tables are written: what is understood of them, and what is refused."""

from pathlib import Path

import pytest

from qmu_edge.data import csv_table
from qmu_edge.data.csv_table import CsvTable
from qmu_edge.errors import ConfigError

TEXT = "B{0}a{0}c\n1{0}2{0}3\n\n4{0}5{0}6\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_columns_are_found_by_name_in_any_form(tmp_path: Path, delimiter: str, encoding: str) -> None:
    (tmp_path / "t.csv").write_text(TEXT.format(delimiter), encoding)
    table = CsvTable.of(tmp_path / "t.csv", ("a", "b"))
    assert list(table.rows(("a", "b", "none"))) == [(2, ["2", "1", ""]), (4, ["5", "4", ""])]
    assert table.unused(("a", "b")) == ("c",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a,a,b\n1,2,3\n", "must be the header a,b"), (b"", "must be the header"),
        (b"a,b\n1\n", "line 2: 1 fields, allowed 2"),
        (b'a,b,"c', "line 1: unexpected end of data"),
        (b"a,b\n\xff,2\n", "not UTF-8.* at byte"),
        ("a,b\n1,2\n".encode("utf-16-le"), "in UTF-8 or in UTF-16 with a byte order mark"),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        list(CsvTable.of(tmp_path / "t.csv", ("a", "b")).rows(("a", "b")))


def test_a_table_that_is_too_large_or_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "MAX_TABLE_BYTES", 7)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="found 8 bytes"):
        CsvTable.of(tmp_path / "t.csv", ("a", "b"))
    for name in ("none.csv", "."):
        with pytest.raises(ConfigError):
            CsvTable.of(tmp_path / name, ("a", "b"))
