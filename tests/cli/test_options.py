"""What options may say."""

import sys
from pathlib import Path

import pytest

from qmu_edge.cli.options import profiled, progress, seconds
from qmu_edge.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "found"), [("0s", 0), ("0.125s", 0.125), ("2min", 120), ("999999h", 3599996400)]
)
def test_a_duration_has_a_unit(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize(
    "text", ["", "10", "10 s", "-1s", "1e3s", "1m", "1.h", ".5h", "1234567s", "1s\n", "٣s", "nans"]
)
def test_another_one_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed is a number with s, min or h") as caught:
        seconds(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("profile", [False, True])
def test_quiet_silences_progress_and_no_warning(
    profile: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quiet, said in ((True, "warning\n"), (False, "note\nwarning\n")):
        with (tmp_path / "stderr").open("w+") as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            with profiled(quiet, tmp_path / "trace.json" if profile else None) as one:
                for shown in (one, progress(quiet)):
                    shown.note("note")
                    shown.warn("warning")
            assert (tmp_path / "stderr").read_text() == 2 * said
