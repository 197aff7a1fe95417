"""One onnxruntime session on the CPU: uint8 images in, logits out.

The session is made from exactly the bytes that passed the model-file policy, and only where what they compute
is bounded. Images are scaled batch by batch, and a batch is as large as that bound allows. A file takes float
0..1 or uint8, channels first or last: the element type says one, the metadata the other.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, ExportError, IntegrityError
from qmu_edge.verify.metadata import Layout, input_layout
from qmu_edge.verify.onnx.operators import require_bounded
from qmu_edge.verify.onnx.reader import OnnxFile, read

OPTIMIZATION: Final = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
MAX_BATCH_BYTES: Final = 2**30
# The oldest version that files were tried on, and those with tensors of these types.
OLDEST: Final = "1.18"
NARROW: Final = (({"INT2", "UINT2"}, "1.24"), ({"INT4", "UINT4"}, "1.23"))
# One MatMulInteger of uint8 a by int8 b: opset 10, which every version of onnxruntime takes.
PRODUCT: Final = (
    b'\x08\x05:P\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01p'
    b"Z\x0f\n\x01a\x12\n\n\x08\x08\x02\x12\x04\n\x00\n\x00Z\x0f\n\x01b\x12\n\n\x08\x08\x03\x12\x04\n\x00\n\x00"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x06\x12\x04\n\x00\n\x00B\x04\n\x00\x10\n"
)


class OrtRunner:
    """A model file ready to run.

    Attributes:
        file: What runs: exactly these bytes.
        path: Where they came from.
        sha256: Hex digest of the bytes that run.
        size_bytes: How many they are.
        threads: Threads inside an operator.
        optimization: What onnxruntime may rewrite: "disabled", "basic" or "all".
    """

    def __init__(self, model: Path | OnnxFile, *, threads: int = 1, optimization: str = "all") -> None:
        """Apply the model-file policy, then load the file.

        Args:
            model: A file, or what was read of it, with one input (n, c, h, w) or (n, h, w, c), uint8 or
                float32 of 0..1, and one output (n, k).
            threads: At least 1; speed only, results stay the same.
            optimization: "disabled", "basic" or "all".

        Raises:
            ConfigError: Unknown optimization or thread count.
            IntegrityError: See `read`; or onnxruntime cannot load the file.
            ExportError: See `read` and `require_bounded`; a QONNX file; other inputs or outputs.
        """
        if threads < 1 or optimization not in OPTIMIZATION:
            raise ConfigError(
                f"runner: {threads} threads, optimization {optimization!r}; "
                f"allowed at least 1, one of {[*OPTIMIZATION]}"
            )
        file = model if isinstance(model, OnnxFile) else read(Path(model))
        path = file.path
        if file.is_qonnx:
            raise ExportError(
                f"{path}: a QONNX file, which onnxruntime cannot run; run the QCDQ file of the same release"
            )
        require_bounded(file)
        self.file, self._bounded = file, {1}
        self.path, self.sha256, self.size_bytes = file.path, file.sha256, len(file.data)
        self.threads, self.optimization = threads, optimization
        self._session = _session(file, threads, optimization)
        self._input = _only(self._session.get_inputs(), 4, f"{path}: input")
        self._last = input_layout(file) is Layout.NHWC
        self._output = _only(self._session.get_outputs(), 2, f"{path}: output")

    @property
    def input_shape(self) -> tuple[int | None, int, int, int]:
        """The input's shape as (n, c, h, w); n is None when any batch is taken."""
        n, *sizes = self._input.shape
        c, h, w = (sizes[2], sizes[0], sizes[1]) if self._last else sizes
        return (n if isinstance(n, int) else None), c, h, w

    def logits(self, images: NDArray[Any], *, batch: int = 256) -> NDArray[np.float32]:
        """Run the model.

        Args:
            images: uint8 (n, c, h, w), n at least 1; scaled to 0..1 here.
            batch: Images per run, or fewer where they would compute too much at once; a file with a fixed
                batch uses its own.

        Returns:
            float32 (n, k).

        Raises:
            ConfigError: Other shape or dtype, no images, batch below 1.
            ExportError: onnxruntime fails, or a logit is not finite.
        """
        fixed, *shape = self.input_shape
        if images.dtype != np.uint8 or images.ndim != 4 or [*images.shape[1:]] != shape:
            raise ConfigError(
                f"{self.path}: images {images.dtype} {images.shape}; allowed uint8 (n, *{shape})"
            )
        if len(images) == 0 or batch < 1:
            raise ConfigError(f"{self.path}: {len(images)} images in batches of {batch}; allowed 1")
        size = fixed or self._most(batch)
        starts = range(0, len(images), size)
        return np.concatenate([self._run(images[i : i + size], fixed) for i in starts])

    def _most(self, batch: int) -> int:
        """The largest part of a batch, halved again and again, that stays below the bound."""
        while batch not in self._bounded:
            try:
                require_bounded(self.file, batch)
                self._bounded.add(batch)
            except ExportError:
                batch = -(-batch // 2)
        return batch

    def fed(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Images uint8 (n, c, h, w) as the file takes them."""
        turned = images.transpose(0, 2, 3, 1) if self._last else images
        return turned / np.float32(255) if self._input.type == "tensor(float)" else turned

    def _run(self, images: NDArray[np.uint8], fixed: int | None) -> NDArray[np.float32]:
        """Run one batch; a short one is filled up with black images where the batch is fixed."""
        n = len(images)
        fed = self.fed(images)
        if fixed and n < fixed:
            fed = np.concatenate([fed, np.zeros((fixed - n, *fed.shape[1:]), fed.dtype)])
        try:
            (found,) = self._session.run([self._output.name], {self._input.name: fed})
        except Exception as error:  # onnxruntime's classes share no base but this
            raise ExportError(f"{self.path}: running failed: {_reason(error)}") from error
        if found.ndim != 2 or len(found) != len(fed):
            raise ExportError(f"{self.path}: output {found.shape}, allowed ({len(fed)}, k)")
        if not np.isfinite(found[:n]).all():
            raise ExportError(f"{self.path}: a logit is not finite")
        return np.asarray(found[:n], dtype=np.float32)


def oldest_onnxruntime(file: OnnxFile) -> str:
    """The oldest version that such a file was tried on."""
    elements = {tensor.element.name for tensor in file.tensors()}
    return next((version for names, version in NARROW if names & elements), OLDEST)


def lacking(file: OnnxFile) -> str:
    """What this onnxruntime lacks for a file, for people; "" where it is new enough."""
    oldest = oldest_onnxruntime(file)
    new_enough = _release(ort.__version__) >= _release(oldest)
    return "" if new_enough else f"needs onnxruntime {oldest} or newer, this is {ort.__version__}"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


def clips_pairs() -> bool:
    """Whether onnxruntime clips the sum of two products of 8 bits here, as on x86 without VNNI."""
    session = ort.InferenceSession(PRODUCT, providers=["CPUExecutionProvider"])
    largest = {"a": np.full((1, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)}
    return bool((session.run(None, largest)[0] != 64 * 255 * 127).any())


def _session(file: OnnxFile, threads: int, optimization: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = OPTIMIZATION[optimization]
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(file.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes share no base but this
        if lacks := lacking(file):
            raise IntegrityError(f"{file.path}: {lacks}") from error
        needs = f"opset {file.opset_imports.get('', '?')}, IR {file.ir_version}"
        raise IntegrityError(
            f"{file.path}: onnxruntime {ort.__version__} cannot load it ({needs}): {_reason(error)}"
        ) from error


def _only(arguments: list[ort.NodeArg], rank: int, what: str) -> ort.NodeArg:
    """Take the one input or output; its sizes must be known, but for the batch and the classes."""
    found = [(a.name, a.type, a.shape) for a in arguments]
    types = ("tensor(float)", "tensor(uint8)") if rank == 4 else ("tensor(float)",)
    if len(found) != 1 or found[0][1] not in types or len(found[0][2]) != rank:
        raise ExportError(f"{what}: {found}; allowed one of {' or '.join(types)} with {rank} axes")
    batch, *sizes = found[0][2]
    known = all(isinstance(size, int) and size > 0 for size in sizes)
    fixed = batch if isinstance(batch, int) else 1
    if rank == 4 and (not known or fixed < 1 or 4 * fixed * np.prod(sizes, dtype=float) > MAX_BATCH_BYTES):
        raise ExportError(f"{what}: shape {found[0][2]}; allowed (n, c, h, w), 1 GiB at most")
    return arguments[0]


def _reason(error: Exception) -> str:
    """Keep the first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
