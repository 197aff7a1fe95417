"""Versions that a result depends on; a library that is missing is said to be."""

from importlib import metadata

import pytest

import qmu_edge
from qmu_edge.machine.versions import LIBRARIES, versions


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["qmu-edge"] == qmu_edge.__version__ and found["torch"] == metadata.version("torch")
    assert set(found) == {"qmu-edge", "python", *LIBRARIES}


def test_a_library_that_is_missing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert all(versions()[name] is None for name in LIBRARIES)
