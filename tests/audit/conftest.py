"""A subject of real files: two small networks, exported."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from qmu_edge.audit.subject import Attacked, Known, Subject
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples, on_device
from qmu_edge.train.requantize import requantize
from tests.audit.worlds import Nothing


class OnCpu(Nothing):
    """Sets as samples on the CPU."""

    def samples(self, known: Known) -> Samples:
        """See `Means`."""
        return on_device(known.images, known.labels, torch.device("cpu"), limit_bytes=1 << 30)


@pytest.fixture(scope="session")
def real(
    network: Callable[..., Classifier], toy: Callable[..., Samples], tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    """Forgotten, unseen and retained toy images, and the files of two networks."""
    folder = tmp_path_factory.mktemp("real")

    def known(seed: int) -> Known:
        samples, rng = toy(60, seed=seed), np.random.default_rng(seed)
        return Known(
            images=samples.images().numpy(), labels=samples.labels.numpy(), people=np.arange(60),
            expected=rng.normal(0.0, 1.0, 60),
        )  # fmt: skip

    def file(name: str, noise: float) -> Attacked:
        model = network()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    drawn = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise * parameter.std() * drawn)
        requantize(model, toy(32, seed=1), batch=8, seed=0, progress=Progress())
        plan = ExportPlan(formats=(Format.INTEGER,), class_names=("a", "b", "c"))
        images = toy(32, seed=1).images().numpy()
        (made,) = export(model, plan, images=images, min_agreement=0.9, min_inputs=1)
        (folder / name).write_bytes(made.data)
        return Attacked(folder / name, lambda: copy.deepcopy(model), flip=False)

    return Subject(
        forgotten=known(2), unseen=known(3), retained=known(4), original=file("original.onnx", 0.0),
        file=file("model.onnx", 0.1), intraclass=0.0, means=OnCpu(),
    )  # fmt: skip
