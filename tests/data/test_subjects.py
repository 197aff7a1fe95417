"""Lists of subjects: one person stays one, whatever surrounds the name, and no message names anybody."""

import hmac
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.data.subjects import (
    in_other_letters,
    normal,
    people_in,
    pseudonym,
    pseudonyms,
    read_subjects,
)
from qmu_edge.errors import ConfigError


def test_pseudonym_is_keyed_and_separated() -> None:
    assert pseudonym(b"k", "ana") == pseudonym(b"k", "ana") != pseudonym(b"l", "ana")
    assert pseudonym(b"k", "ana") != hmac.digest(b"k", b"ana", "sha256").hex()
    assert pseudonym(b"k", "Jose\u0301") == pseudonym(b"k", "Jos\u00e9")
    assert pseudonym(b"k", "Ana") != pseudonym(b"k", "ana")


BLANKS = ["{}", " {}", "{} ", "\u00a0{}", "{}\u202f", "\t{}  "]


@pytest.mark.parametrize("blank", BLANKS)
def test_blanks_around_a_name_are_no_part_of_it(blank: str) -> None:
    assert normal(blank.format("ana bo")) == "ana bo" == normal("ana\u00a0bo")
    assert pseudonym(b"k", blank.format("ana bo")) == pseudonym(b"k", "ana bo")


@pytest.mark.parametrize("asked", BLANKS)
@pytest.mark.parametrize("kept", BLANKS[:4])
def test_an_index_that_was_made_with_blanks_in_its_names_is_searched_for_them(asked: str, kept: str) -> None:
    name = unicodedata.normalize("NFC", kept.format("ana\u00a0bo"))
    before = hmac.digest(b"k", b"qmu-edge subject v1\0" + name.encode(), "sha256").hex()
    assert before in pseudonyms(b"k", asked.format("ana bo"))
    assert pseudonyms(b"k", asked.format("ana bo"))[0] == pseudonym(b"k", "ana bo")


def test_other_letters_are_other_people_but_can_be_looked_for() -> None:
    assert pseudonym(b"k", "ana bo") in in_other_letters(b"k", "Ana  Bo")
    assert pseudonym(b"k", "Ana Bo") in in_other_letters(b"k", "ana bo")
    assert pseudonym(b"k", "ana") not in (*in_other_letters(b"k", "ana"), *pseudonyms(b"k", "Ana"))


def csv_file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "subjects.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


PLAIN = "sample,subject\na,ana\nc,\nb,bo\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeffsample,subject\r\na,ana\r\n\r\nb,bo\r\n",
        'sample,subject\n"a",ana\nb,"bo"\na,ana',
        "sample,subject\na, ana \n b,bo\u00a0\na,ana\n",
        "sample;subject\na;ana\nb;bo\n;\n",
        "sample\tsubject\na\tana\nb\tbo\n",
        "Sample, SUBJECT\na,ana\nb,bo\n",
        "subject,sample\nana,a\nbo,b\n",
        "age,sample,subject\n7,a,ana\n8,b,bo\n",
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    ],
    ids=[
        "plain", "spreadsheet", "quoted and repeated", "blanks", "semicolons", "tabs", "other letters",
        "other order", "a third column", "UTF-16", "UTF-16, the other way",
    ],
)  # fmt: skip
def test_subjects_are_read(tmp_path: Path, content: str | bytes) -> None:
    found = read_subjects(csv_file(tmp_path, content), ["c", "b", "a"])
    assert found.subjects == ((), ("bo",), ("ana",))
    assert found.alike == ()


def test_subjects_of_decomposed_names_are_found(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "sample,subject\ncafe\u0301.png,Jose\u0301\n")
    assert read_subjects(path, ["caf\u00e9.png"]).subjects == (("Jos\u00e9",),)


def test_a_sample_whose_name_ends_in_a_blank_is_itself(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "sample,subject\na ,ana\na,bo\n")
    assert read_subjects(path, ["a", "a "]).subjects == (("bo",), ("ana",))


def test_a_picture_may_show_several_people(tmp_path: Path) -> None:
    found = read_subjects(csv_file(tmp_path, "sample,subject\na,ana\nb,bo\na,bo\na, ana\n"), ["a", "b"])
    assert found.subjects == (("ana", "bo"), ("bo",))
    assert found.to_json()["pictures_of_several_people"] == 1


def test_what_was_not_used_and_who_may_be_the_same_is_told_without_a_name(tmp_path: Path) -> None:
    content = "sample,subject,age,\na,Ana Bo,1,\nb,ana bo,2,\nc,AnaBo,3,\nd,eve,4,\ne,Ana Bo,5,\n"
    told = read_subjects(csv_file(tmp_path, content), list("abcde")).to_json()
    assert told == {
        "pictures_of_several_people": 0, "pictures_of_unknown_people": 0, "unused_columns": ["age"],
        "names_that_differ_in_case_or_spacing_only": 1, "first_of_them_in_lines": [[2, 3, 4]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be the header"),
        ("a,secret\n", "must be the header"),
        ("subject,name\na,secret\n", "must be the header"),
        ("sample,subject,Subject\na,secret,secret\n", "must be the header"),
        ("sample|subject\na|secret\n", "must be the header"),
        (PLAIN.replace("ana", "secret").encode("utf-16-le"), "with a byte order mark"),
        ("sample,subject\na,secret\nx,bo\n", "line 3: sample 'x' is not in the dataset"),
        ("sample,subject\na,secret\na,\n", "line 3: sample 'a' has a subject in one line and none in"),
        ("sample,subject\na,\nb,bo\na,secret\n", "line 4: sample 'a' has a subject in one line"),
        ("sample,subject\na,secret,bo\n", "line 2: 3 fields, allowed 2"),
        ("sample,subject,x\na,secret\n", "line 2: 2 fields, allowed 3"),
        ("sample,subject\na\n", "line 2: 1 fields, allowed 2"),
        ('sample,subject\na,"secret\tx"\n', "line 2: the subject has control characters"),
        (f"sample,subject\na,{'secret' * 99}\n", "line 2: the subject has .* more than 512"),
        ('sample,subject\na,"secret\n', "line 2: unexpected end of data"),
        ('sample,subject\na,"secret"x\n', "line 2: ',' expected"),
        ("sample,subject\na," + "secret" * 30_000, "line 2: field larger than"),
        (b"sample,subject\na,secret\xff\n", "not UTF-8"),
        ("sample,subject\na,secret".encode("utf-16")[:-1], "not UTF-16"),
    ],
)
def test_bad_subject_lists_are_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_subjects(csv_file(tmp_path, content), ["a", "b"])
    assert str(caught.value).startswith(str(tmp_path))
    assert "secret" not in str(caught.value)


def test_subject_lists_that_are_no_files_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate((256 << 20) + 1)
    for path, message in (
        (tmp_path / "absent", "cannot be read: No such file"),
        (tmp_path, "allowed a file"),
        (pipe, "allowed a file"),
        (huge, "allowed a file of 268435456"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_subjects(path, ["a"])


def test_people_of_a_set_are_text_numbers_or_lists_and_nobody_gets_lost() -> None:
    assert people_in(None, "row 0") == people_in("", "row 0") == people_in([], "row 0") == ()
    assert people_in(0, "row 0") == ("0",) and people_in(np.int64(3), "row 0") == ("3",)
    assert people_in(["ana", " bo ", "ana"], "row 0") == ("ana", "bo")


@pytest.mark.parametrize("found", [1.0, b"ana", {"name": "ana"}, [["ana"]], np.array(["ana", "bo"])])
def test_a_person_that_nobody_could_ask_for_is_refused(found: object) -> None:
    with pytest.raises(ConfigError, match=r"^row 0: a subject of the type \w+, allowed are text"):
        people_in(found, "row 0")
