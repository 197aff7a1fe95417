"""The example scripts run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def script(name: str, *arguments: Path, code: int = 0) -> str:
    """Run an example in a process of its own, and return what it prints."""
    words = [sys.executable, "-W", "ignore", "-m", f"qmu_edge.api.examples.{name}", *map(str, arguments)]
    ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ}, check=False)
    assert ended.returncode == code, ended.stderr[-3000:]
    return ended.stdout + (ended.stderr if code else "")


def test_a_person_is_forgotten_and_a_device_takes_the_bundle(tmp_path: Path) -> None:
    printed = script("forget_a_person", tmp_path)
    assert "would forget" in printed and "outcome retrained" in printed and "signature: holds" in printed
    device = (tmp_path / "device.tar", tmp_path / "key.pem", tmp_path / "state.json")
    printed = script("check_a_bundle", *device)
    assert "accepted: valid" in printed and "classes of the first pictures: " in printed
    changed = bytearray(device[0].read_bytes())
    changed[len(changed) // 2] ^= 1
    device[0].write_bytes(changed)
    assert script("check_a_bundle", *device, code=4).strip()


def test_a_network_from_elsewhere_is_adopted_and_forgets(tmp_path: Path) -> None:
    printed = script("adopt_a_network", tmp_path)
    assert "accuracy after quantization: " in printed and "outcome retrained" in printed
    assert "the same file as before: False" in printed
