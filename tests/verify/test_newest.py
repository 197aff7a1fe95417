"""A device that remembers what it has accepted does not take a bundle from before a later deletion."""

import json
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.verify import performance, verification
from qmu_edge.verify.__main__ import main
from qmu_edge.verify.newest import TYPE, accepted
from tests.verify import files
from tests.verify.bundles import KEY, OTHER_KEY, make_old, sign_again, write, write_alone


@pytest.fixture
def key(tmp_path: Path) -> str:
    """The file of the trusted key."""
    path = tmp_path / "trusted.pub"
    path.write_text(KEY.public_key().public_bytes_raw().hex())
    return str(path)


@pytest.fixture
def bundles(tmp_path: Path) -> dict[int, str]:
    """Bundles of one project, by number."""
    model = files.write(tmp_path / "model.onnx", files.qcdq())
    for number in (2, 3, 5):
        write(tmp_path / f"bundle{number}", model, number=number)
    return {number: str(tmp_path / f"bundle{number}.tar") for number in (2, 3, 5)}


def test_a_bundle_from_before_a_later_deletion_is_refused(
    bundles: dict[int, str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "accepted"
    remembering = ["--key", key, "--state", str(state)]
    for number, status, kept in ((3, 0, 3), (3, 0, 3), (2, 4, 3), (5, 0, 5), (3, 4, 5)):
        assert main([bundles[number], *remembering]) == status
        assert accepted(state).number == kept
    assert "number 3: from before a later deletion; allowed from number 5" in capsys.readouterr().err
    assert main([bundles[3], "--key", key]) == 0, "a device that remembers nothing"
    assert "number          3, of 2026-11-02T15:10:01.123+00:00: not compared" in capsys.readouterr().out


def test_another_history_of_the_same_number_is_refused(
    bundles: dict[int, str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remembering = ["--key", key, "--state", str(tmp_path / "accepted")]
    assert main([bundles[3], *remembering]) == 0
    put_back = tmp_path / "bundle3"
    document = json.loads((put_back / "manifest.json").read_text())
    document["issued"]["time"] = "2026-11-03T09:00:00Z"
    sign_again(put_back, document)
    assert main([str(put_back), *remembering]) == IntegrityError.exit_code
    assert "the project was put back, or is another one" in capsys.readouterr().err


def test_a_device_that_cannot_write_is_told_the_lowest_number(
    bundles: dict[int, str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([bundles[3], "--key", key, "--not-older-than", "3"]) == 0
    assert ", allowed from 3\n" in capsys.readouterr().out
    assert main([bundles[3], "--key", key, "--not-older-than", "4"]) == IntegrityError.exit_code
    state = tmp_path / "accepted"
    assert main([bundles[3], "--key", key, "--state", str(state), "--not-older-than", "4"]) == 4
    assert not state.exists()


def test_only_what_passed_under_a_trusted_key_is_remembered(
    bundles: dict[int, str], key: str, tmp_path: Path
) -> None:
    state = tmp_path / "accepted"
    assert main([bundles[3], "--state", str(state)]) == ConfigError.exit_code
    stranger = tmp_path / "stranger.pub"
    stranger.write_text(OTHER_KEY.public_key().public_bytes_raw().hex())
    assert main([bundles[3], "--state", str(state), "--key", str(stranger)]) == IntegrityError.exit_code
    write_alone(tmp_path / "uncovered", tmp_path / "model.onnx", number=9)
    assert main([str(tmp_path / "uncovered"), "--state", str(state), "--key", key]) == 7
    assert not state.exists()


def test_version_1_has_no_number(bundles: dict[int, str], key: str, tmp_path: Path) -> None:
    make_old(tmp_path / "bundle3")
    remembering = ["--key", key, "--state", str(tmp_path / "accepted")]
    assert main([str(tmp_path / "bundle3"), *remembering]) == 0
    assert accepted(tmp_path / "accepted").number == 0
    assert main([bundles[2], *remembering]) == 0
    assert main([str(tmp_path / "bundle3"), *remembering]) == IntegrityError.exit_code


@pytest.mark.parametrize(
    "text",
    ["", "3", "{}", '{"number": 3}', json.dumps({"number": -1, "type": TYPE}),
     *(json.dumps({"number": 3, "time": None, "type": TYPE} | wrong) for wrong in (
         {"number": -1}, {"number": True}, {"number": "3"}, {"type": "x"}, {"more": 1}, {"time": 3},
     )), "[" * 500],
)  # fmt: skip
def test_a_damaged_state_is_not_taken_for_none(
    bundles: dict[int, str], key: str, tmp_path: Path, text: str
) -> None:
    state = tmp_path / "accepted"
    state.write_text(text)
    assert main([bundles[5], "--key", key, "--state", str(state)]) == IntegrityError.exit_code
    assert state.read_text() == text


def test_what_another_process_accepts_meanwhile_counts(
    bundles: dict[int, str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "accepted"
    words = ["--key", key, "--state", str(state)]
    real = performance.latency

    def meanwhile(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(verification, "latency", real)
        assert main([bundles[5], *words]) == 0
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "latency", meanwhile)
    assert main([bundles[3], *words]) == IntegrityError.exit_code
    assert accepted(state).number == 5
