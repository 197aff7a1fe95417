"""Training, retraining and unlearning by all processes that torchrun has started.

    torchrun --nproc-per-node 2 --no-python qmu-edge unlearn --request request.json

The first process serves the command; only it opens the project. The others wait for jobs. A job is everything
that a run is made of (network, images, hyperparameters, seed), so that the others may be on machines that
have neither project nor dataset. Then all run the same method on the same batches, as
`qmu_edge.runtime.parallel` tells, and the first one goes on with the result. Jobs travel as safetensors:
no pickle.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from qmu_edge.errors import ConfigError, QmuEdgeError
from qmu_edge.io.json import compact, parse_stored
from qmu_edge.io.plain import from_json
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.own import factory_in
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.runtime.determinism import determinism
from qmu_edge.runtime.parallel import processes
from qmu_edge.train import checkpoint
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.fit import fit
from qmu_edge.unlearn.registry import apply, parameters

TRAINING: Final = "training"  # the job that is not a method
SETS: Final = ("forget", "retain", "validation")
CONTENTS: Final = ("about", "model", "source", "state", "start")  # bytes in a job
PATIENCE: Final = timedelta(days=7)  # the first process exports and verifies while the others wait


@contextmanager
def group() -> Iterator[bool]:
    """Join the other processes.

    Yields:
        Whether this is the first one. When it ends well it lets the others go; torchrun ends them when not.

    Raises:
        ConfigError: More processes than GPUs, or one of them was lost.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun: {local + 1} processes, and this machine has {torch.cuda.device_count()} GPUs"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    first = dist.get_rank() == 0
    try:
        yield first
    except SystemExit as end:
        if end.code:
            raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "onnection" not in str(error):  # gloo's own are plain
            raise
        raise ConfigError(
            "a process of this run was lost: the same command goes on where it stopped"
        ) from None
    if first:
        _broadcast(b"")
    dist.destroy_process_group()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run is made of.

    Attributes:
        method: Its name, or `TRAINING`.
        model: On the computing device; a fresh one before training.
        data: Everything is in `retain` before training.
        given: What the recipe says about the method.
        train: The recipe's training section.
        seed: Of all randomness.
        source: The file that makes a network of the user's own.
    """

    method: str
    model: Classifier
    data: ForgetRetain
    given: Mapping[str, bool | int | float | str]
    train: TrainRecipe
    seed: int
    source: bytes | None

    @classmethod
    def training(
        cls, model: Classifier, images: Samples, train: TrainRecipe, augment: Augment, *,
        source: bytes | None, progress: Progress, state: Path | None = None,
    ) -> "Job":  # fmt: skip
        """The training of a fresh network.

        Args:
            model: On the device of the images.
            images: What it is trained on.
            train: Hyperparameters, with the seed.
            augment: Augmentation of the images.
            source: The file that makes a network of the user's own.
            progress: Where images are counted.
            state: File for the state of an unfinished training.
        """
        nothing = images.take(torch.empty(0, dtype=torch.int64))
        data = ForgetRetain(
            forget=nothing, retain=images, validation=nothing, augment=augment, progress=progress, state=state
        )
        return cls(
            method=TRAINING, model=model, data=data, given={}, train=train, seed=train.seed, source=source
        )

    def run(self) -> Classifier:
        """Compute it; the same in every process."""
        torch.manual_seed(self.seed)
        data = self.data
        if self.method == TRAINING:
            fit(
                self.model, data.retain, self.train, data.augment,
                progress=data.progress, resume=data.state,
            )  # fmt: skip
            return self.model
        params = parameters(self.method, self.given, self.train)
        generator = torch.Generator().manual_seed(self.seed)
        return apply(self.method, self.model, data, params, generator)

    def shared(self) -> Classifier:
        """Compute it together with the processes that `follow`, or alone where there are none."""
        if processes() > 1:
            _broadcast(_packed(self))
        return self.run()


def follow() -> None:
    """Compute every job of the first process, until it has no more."""
    with tempfile.TemporaryDirectory() as folder:
        while data := _awaited():
            job, deterministic = _unpacked(data, Path(folder) / "state")
            try:
                with determinism(deterministic):
                    job.run()
            except QmuEdgeError:
                continue  # the first process has the same error, and says it


def _awaited() -> bytes:
    """The next job; b"" when there is none, or the first process has ended, which says why itself."""
    try:
        return _broadcast(None)
    except RuntimeError:
        return b""


def _broadcast(data: bytes | None) -> bytes:
    """Bytes from the first process to all; the others give None."""
    size = torch.tensor([0 if data is None else len(data)])
    dist.broadcast(size, 0)
    text = torch.empty(int(size), dtype=torch.uint8)
    if data:
        text = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if int(size):
        dist.broadcast(text, 0)
    return text.numpy().tobytes()


def _packed(job: Job) -> bytes:
    data, shape = job.data, job.model.shape
    sets = {name: getattr(data, name) for name in SETS}
    used, places = torch.unique(torch.cat([s.index.cpu() for s in sets.values()]), return_inverse=True)
    tensors: dict[str, Tensor] = {"pool": data.retain.pool[used.to(data.retain.pool.device)].cpu()}
    for (name, s), at in zip(sets.items(), places.split([len(s) for s in sets.values()]), strict=True):
        tensors |= {name: at.clone(), f"{name}.labels": s.labels.cpu().clone()}
    state = data.state.read_bytes() if data.state is not None and data.state.is_file() else b""
    origin = checkpoint.Origin(class_names=tuple(map(str, range(shape.classes))), size=shape.size, split="")
    model = b"" if job.method == TRAINING else checkpoint.dumps(job.model, origin)
    about = {
        "method": job.method, "given": job.given, "train": job.train.model_dump(mode="json"),
        "seed": job.seed, "augment": asdict(data.augment),
        "classes": data.classes, "unretained": data.unretained,
        "recipe": job.model.recipe.model_dump(mode="json"), "shape": asdict(shape),
        "device": data.retain.device.type,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }  # fmt: skip
    if job.model.difficulty is not None:
        tensors[checkpoint.DIFFICULTY] = job.model.difficulty[used.cpu()]
    start = save_tensors(dict(job.model.start)) if job.model.start else b""
    contents = (compact(about), model, job.source or b"", state, start)
    for name, content in zip(CONTENTS, contents, strict=True):
        tensors[name] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0)
    return save_tensors(tensors)


def _unpacked(packed: bytes, state: Path) -> tuple[Job, bool]:
    """A job, and whether the first process computes it by deterministic algorithms only."""
    tensors = load_tensors(packed)
    text, model, source, kept, start = (tensors.pop(name).numpy().tobytes() for name in CONTENTS)
    about = parse_stored(text, "a job")
    device = torch.device(about["device"])
    state.unlink(missing_ok=True)
    if kept:
        state.write_bytes(kept)
    pool = tensors["pool"].to(device)
    forget, retain, validation = (
        Samples(pool, tensors[name].to(device), tensors[f"{name}.labels"].to(device), pool.device)
        for name in SETS
    )
    data = ForgetRetain(
        forget=forget, retain=retain, validation=validation, classes=tuple(about["classes"]),
        unretained=tuple(about["unretained"]), augment=Augment(**about["augment"]), state=state,
    )  # fmt: skip
    recipe = ModelRecipe.model_validate_json(compact(about["recipe"]))
    train = TrainRecipe.model_validate_json(compact(about["train"]))
    factory = factory_in(source, recipe) if source else None
    begin = load_tensors(start) if start else None
    if about["method"] == TRAINING:
        network = build(recipe, from_json(Shape, about["shape"], "a job"), train.seed, factory, begin)
    else:
        network = checkpoint.loads(model, "the network of a job", recipe, factory)[0]
        network.start = begin
    network.difficulty = tensors.get(checkpoint.DIFFICULTY)
    job = Job(
        method=about["method"], model=network.to(device), data=data, given=about["given"], train=train,
        seed=about["seed"], source=source,
    )  # fmt: skip
    return job, about["deterministic"]
