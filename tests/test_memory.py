"""Out of memory is one line that names the batch size; other errors stay what they are."""

import pytest
import torch

from qmu_edge.errors import ConfigError
from qmu_edge.memory import within_memory


def allocate() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def in_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("work", [allocate, on_a_gpu, in_python])
@pytest.mark.parametrize(
    ("batch", "advice"), [(128, "lower it to 64 or less"), (1, r"lower \[model\] width")]
)
def test_the_message_names_what_to_lower(work: object, batch: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"^\[train\] batch = {batch} takes .*: {advice}"):
        with within_memory("[train] batch", batch):
            assert callable(work)
            work()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        with within_memory("[train] batch", 128):
            torch.ones(2, 3) @ torch.ones(2, 3)
