"""Devices by name, with and without a GPU."""

import pytest
import torch

from qmu_edge.errors import ConfigError
from qmu_edge.runtime.device import device_named, gpu_name


@pytest.mark.parametrize(
    ("name", "gpu", "kind"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_device_is_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, name: str, gpu: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert device_named(name).type == kind


@pytest.mark.parametrize(
    ("name", "said"),
    [("cuda", "no usable NVIDIA GPU"), ("tpu", "'tpu' is not one of"), ("cuda:1", "not one of")],
)
def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_name() is None
    with pytest.raises(ConfigError, match=said):
        device_named(name)
