"""Methods are compared with loops in float32, on processors that would choose otherwise too."""

import pytest


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mixed precision unless it is asked for."""
    monkeypatch.setattr(
        "qmu_edge.train.loop.mixed_precision", lambda precision, model: precision == "bfloat16"
    )
