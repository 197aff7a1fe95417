"""What others have made of a network before it comes here: floats, and files of three tools."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Images = np.ndarray  # uint8 (n, c, h, w)


class Whole(nn.Module):
    """A network with the normalisation of the recipe before it, as it is exported."""

    def __init__(self, network: nn.Module) -> None:
        """Keep it."""
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images 0..1."""
        out: Tensor = self.network((x - 0.5) / 0.25)
        return out


def trained(network: nn.Module, images: Images, labels: np.ndarray, *, steps: int) -> nn.Module:
    """Plain PyTorch, whatever the layers are; the rate ends at 0, as that of a finished training does."""
    torch.manual_seed(0)
    whole, generator = Whole(network).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator).numpy()
        optimizer.zero_grad()
        given = torch.from_numpy(images[rows]) / 255.0
        loss = nn.functional.cross_entropy(whole(given), torch.from_numpy(labels[rows]).long())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval()


def written(write: Callable[[Path], Any]) -> bytes:
    """What is written to a file by tools that warn about themselves."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        write(Path(folder) / "made.onnx")
        return (Path(folder) / "made.onnx").read_bytes()


def float_file(network: nn.Module, images: Images) -> bytes:
    """A float network as a file."""
    example = torch.from_numpy(images[:2]) / 255.0
    return written(
        lambda path: torch.onnx.export(
            Whole(network).eval(), (example,), str(path), dynamo=False, opset_version=17,
            input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        )
    )  # fmt: skip


def onnxruntime_file(network: nn.Module, images: Images, **options: Any) -> bytes:
    """The same after onnxruntime's static quantization; `options` are those of `quantize_static`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            """A few batches."""
            batches = np.split(images[:256].astype(np.float32) / 255.0, 8)
            self.left: Iterator[Any] = iter([{"image": batch} for batch in batches])

        def get_next(self) -> Any:
            """The next one."""
            return next(self.left, None)

    def write(path: Path) -> None:
        floats = path.with_name("float.onnx")
        floats.write_bytes(float_file(network, images))
        quant_pre_process(str(floats), str(floats), skip_symbolic_shape=True)
        whole = {"per_channel": True, "weight_type": QuantType.QInt8, **options}
        quantize_static(str(floats), str(path), Reader(), **whole)

    return written(write)


def nncf_file(network: nn.Module, images: Images, *, mixed: bool) -> bytes:
    """The same after NNCF's quantization: `mixed` is its preset with zero points; needs nncf."""
    import nncf
    import onnx

    batches = [{"image": image[None].astype(np.float32) / 255.0} for image in images[:256]]
    preset = nncf.QuantizationPreset.MIXED if mixed else nncf.QuantizationPreset.PERFORMANCE
    quantized = nncf.quantize(
        onnx.load_from_string(float_file(network, images)), nncf.Dataset(batches, lambda one: one),
        preset=preset, subset_size=len(batches),
    )  # fmt: skip
    data: bytes = quantized.SerializeToString()
    return data


def brevitas_file(network: nn.Module, images: Images) -> bytes:
    """A network of Brevitas' layers by Brevitas' own exporter."""
    with warnings.catch_warnings(action="ignore"):  # it warns about parts of its own
        from brevitas.export import export_onnx_qcdq

    example = torch.from_numpy(images[:2]) / 255.0
    return written(
        lambda path: export_onnx_qcdq(
            Whole(network).eval(), args=example, export_path=str(path), opset_version=17, dynamo=False,
            input_names=["image"], output_names=["logits"], keep_initializers_as_inputs=False,
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        )
    )  # fmt: skip
