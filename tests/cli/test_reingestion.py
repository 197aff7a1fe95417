"""The re-ingestion guard: one test for each path from samples to a network or to what it is measured by."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qmu_edge.errors import IntegrityError
from qmu_edge.io.progress import Progress
from qmu_edge.pipeline import evaluate, inputs, release, train_run, unlearn_run
from qmu_edge.pipeline.unlearn_run import attempt
from qmu_edge.project.project import Project, opened
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.verify.onnx.reader import read


@pytest.fixture
def planted(served: Path) -> Any:
    """A project with a deleted training sample, and the split of its request with that sample put back."""
    with opened(served, Progress()) as project:
        (row,) = project.ledger.requests()
        found = project.results.fulfilled_steps(row.request_id)["unlearned"]
        split = Split.parse(project.store.get_bytes(found.stored("split")))
        yield project, row, split


def back_in(split: Split, part: str) -> Split:
    values = {f: getattr(split, f) for f in split.__dataclass_fields__}
    deleted = split.forget if part == "retain" else split.also_erased
    return Split(**{**values, part: np.sort(np.append(getattr(split, part), deleted[:1]))})


CPU = torch.device("cpu")


def sets_of(project: Project, split: Split, folder: Path) -> ForgetRetain:
    return inputs.forget_retain(
        project.samples, project.recipe.data, CPU, split, state=folder / "state", progress=Progress()
    )


@pytest.mark.parametrize("part", ["retain", "validation"])
def test_methods_refuse_a_deleted_sample(planted: Any, part: str, tmp_path: Path) -> None:
    project, _, split = planted
    with pytest.raises(IntegrityError, match=f"{part} set: 1 of"):
        sets_of(project, back_in(split, part), tmp_path)


def test_a_class_that_an_earlier_request_has_emptied_is_no_way_out(planted: Any, tmp_path: Path) -> None:
    project, _, split = planted
    left = split.retain[project.samples.index.labels[split.retain] != 3]
    data = sets_of(project, replace(split, retain=left), tmp_path)
    assert data.unretained == (3,) and data.classes == ()
    assert sets_of(project, split, tmp_path).unretained == ()


def test_calibration_refuses_a_deleted_sample(planted: Any) -> None:
    project, row, split = planted
    run = attempt(project, [row], back_in(split, "retain"), "qmul", CPU)
    with pytest.raises(IntegrityError, match="calibration: 1 of"):
        unlearn_run.requantized(run, project.current(Pointer.CHECKPOINT))


@pytest.mark.parametrize("part", ["retain", "validation", "test"])
def test_measurement_refuses_a_deleted_sample_among_those_kept(planted: Any, part: str) -> None:
    project, _, split = planted
    with pytest.raises(IntegrityError, match=f"measured {part} set: 1 of"):
        evaluate.evaluate_file(
            read(project.root / "release/model.onnx"), project.samples,
            evaluate.positions_of(back_in(split, part), most=10**6), flip=False, progress=Progress(),
        )  # fmt: skip


def test_training_refuses_a_deleted_sample(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project, _, split = planted
    monkeypatch.setattr(ProjectSamples, "trainable", lambda self: back_in(split, "retain").retain)
    with pytest.raises(IntegrityError, match="training set: 1 of"):
        train_run.train_project(project, "cpu", replace=True)


def test_parity_inputs_refuse_a_deleted_sample(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project, _, _ = planted
    real = ProjectSamples.barred
    seen: list[int] = []

    def barred(self: ProjectSamples, **besides: Any) -> Any:
        seen.append(1)  # the first answer, that makes the choice, is wrong; the guard's own is right
        return np.zeros(len(self.index.ids), bool) if len(seen) == 1 else real(self, **besides)

    chosen = project.samples.images[np.argsort(-project.samples.index.splits, kind="stable")[:1000]]
    assert len(chosen) == 1000
    monkeypatch.setattr(ProjectSamples, "barred", barred)
    with pytest.raises(IntegrityError, match="parity inputs: "):
        release.parity_images(project.samples, project.recipe.policy.parity_inputs)


def test_what_is_measured_or_compared_is_free_of_deleted_samples(planted: Any) -> None:
    project, _, split = planted
    gone = np.concatenate([split.forget, split.also_erased])
    deleted = {project.samples.images[i].tobytes() for i in gone}
    parity = {
        image.tobytes()
        for image in release.parity_images(project.samples, project.recipe.policy.parity_inputs)[
            : len(split.test)
        ]
    }
    assert deleted and not deleted & parity
