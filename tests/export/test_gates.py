"""Planted faults that the gates of the export must find."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import qmu_edge.export.exporter
from qmu_edge.errors import ExportError
from qmu_edge.export.exporter import Exported
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.formats.qcdq import to_qcdq
from qmu_edge.export.formats.qonnx import quantizers
from qmu_edge.export.gates import Arbitration, arbitrate, parity_by_level, runnable
from qmu_edge.export.graph import initializers, set_initializer
from qmu_edge.export.targets import Format
from qmu_edge.models.calibration import weight_layers
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves

Change = Callable[[onnx.ModelProto], None]
Faulty = Callable[[str, Change], list[Exported]]


@pytest.fixture(params=[Format.QCDQ, Format.INTEGER])
def faulty(request: pytest.FixtureRequest, one: Case, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """Export with a fault planted after the trace ("trace") or in the finished graph ("file")."""
    form = request.param

    def run(place: str, change: Change) -> list[Exported]:
        def traced(*_: Any) -> onnx.ModelProto:
            graph = one.graph()
            if place == "trace":
                change(graph)
            return graph

        def converted(convert: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
            def run(graph: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
                made = convert(graph, **options)
                if place == "file":
                    change(made)
                return made

            return run

        monkeypatch.setattr(qmu_edge.export.exporter, "trace", traced)
        monkeypatch.setattr(qmu_edge.export.exporter, "to_qcdq", converted(to_qcdq))
        monkeypatch.setattr(qmu_edge.export.exporter, "to_integer", converted(to_integer))
        return one.export(formats=(form,))

    return run


def _edit(graph: onnx.ModelProto, name: str, change: Callable[[np.ndarray], object]) -> None:
    values = initializers(graph)[name].copy()
    change(values)
    set_initializer(graph, name, values)


def test_without_a_fault_the_faulty_path_passes(faulty: Faulty) -> None:
    faulty("file", lambda graph: None)


def test_latent_weights_left_in_place_are_found(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = one.graph()
    latent = dict(weight_layers(one.model))["blocks.0.first.0"].weight.detach().numpy()
    set_initializer(graph, "blocks.0.first.0.weight", latent)
    monkeypatch.setattr(qmu_edge.export.exporter, "trace", lambda *_: graph)
    with pytest.raises(ExportError, match="latent-weight gate"):
        one.export(formats=(Format.QONNX,))


@pytest.mark.parametrize("place", ["trace", "file"])
def test_one_flipped_code_is_found(one: Case, faulty: Faulty, place: str) -> None:
    features: list[torch.Tensor] = []
    head: Any = one.deployed.get_submodule("head.0")
    with torch.no_grad(), head.register_forward_pre_hook(lambda _, x: features.append(x[0])):
        one.deployed(torch.from_numpy(one.images) / 255.0)
    weight = head.quant_weight().value.detach()
    affine: Any = one.deployed.get_submodule("head.1")
    weight, bias = weight * affine.gain.view(-1, 1), (affine.bias * affine.gain).view(-1)
    before = features[0] @ weight.T + bias
    lost = {}
    for k, j in np.ndindex(*weight.shape):
        after = before.clone()
        after[:, k] -= 2 * weight[k, j] * features[0][:, j]
        lost[k, j] = int((after.argmax(1) != before.argmax(1)).sum())
    position = max(lost, key=lambda p: lost[p])
    assert lost[position] > 1  # more than the gate lets pass

    def flip(values: np.ndarray) -> None:
        values[position] = -values[position]

    with pytest.raises(ExportError, match="parity"):
        faulty(place, lambda graph: _edit(graph, "head.0.weight", flip))


def test_wrong_scale_is_found(faulty: Faulty) -> None:
    def halve(values: np.ndarray) -> None:
        values[0] /= 2

    with pytest.raises(ExportError, match="parity"):
        faulty("file", lambda graph: _edit(graph, "head.0.weight.scale", halve))


def test_code_out_of_range_is_found(faulty: Faulty) -> None:
    def widen(values: np.ndarray) -> None:
        values.reshape(-1)[0] = 8

    with pytest.raises(ExportError, match=r"latent-weight gate: .*codes from -\d to 8"):
        faulty("file", lambda graph: _edit(graph, "blocks.0.first.0.weight", widen))


def test_stowaway_tensor_is_found(faulty: Faulty) -> None:
    def stow(graph: onnx.ModelProto) -> None:
        graph.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "stowaway"))

    with pytest.raises(ExportError, match="stowaway"):
        faulty("file", stow)


def test_weight_without_quantizer_is_found(faulty: Faulty) -> None:
    def bare(graph: onnx.ModelProto) -> None:
        (quant,) = [q.node for q in quantizers(graph) if q.weight == "blocks.0.first.0.weight"]
        for node in graph.graph.node:
            for place, name in enumerate(node.input):
                if name == quant.output[0]:
                    node.input[place] = "blocks.0.first.0.weight"
        graph.graph.node.remove(quant)

    with pytest.raises(ExportError, match=r"float weights in the graph: blocks\.0\.first\.0\.weight"):
        faulty("trace", bare)


def test_graph_that_is_not_valid_is_found(faulty: Faulty) -> None:
    def shuffle(graph: onnx.ModelProto) -> None:
        node = graph.graph.node.pop()
        graph.graph.node.insert(0, node)

    with pytest.raises(ExportError, match=r"onnx\.checker: "):
        faulty("file", shuffle)


def test_only_files_that_are_not_exact_are_compared_on_all_images(
    one: Case, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nudge(values: np.ndarray) -> None:
        values *= np.float32(1.001)

    monkeypatch.setattr(qmu_edge.export.exporter, "EXACT_IMAGES", 8)
    (exact,) = faulty("trace", lambda graph: None)
    (near,) = faulty("trace", lambda graph: _edit(graph, "head.1.gain", nudge))
    assert (exact.parity.n, exact.parity.max_abs_difference) == (8, 0.0)
    assert near.parity.n == len(one.images)
    assert near.parity.max_abs_difference > 0


def test_integer_reference_says_who_is_right(one: Case) -> None:
    data, logits = one.files[Format.INTEGER].data, one.logits
    other = logits.copy()
    other[:2] = np.roll(other[:2], 1, axis=1)
    assert arbitrate(data, one.images, logits, logits) == Arbitration(0, 0, 0)
    assert arbitrate(data, one.images, other, logits) == Arbitration(2, 2, 2)
    assert arbitrate(data, one.images, logits, other) == Arbitration(2, 2, 0)
    for name in (Format.QONNX, Format.QCDQ):  # whose layers are float ones
        assert arbitrate(one.files[name].data, one.images, other, logits) == Arbitration(2, 0, 0)


def test_a_message_says_with_whom_the_reference_agrees() -> None:
    assert str(Arbitration(3, 0, 0)) == ""
    assert str(Arbitration(3, 2, 1)) == "; on 1 of 2 that differ, exact integers say what the file says"


def test_only_files_with_foreign_operators_are_converted_to_run(one: Case) -> None:
    for form, file in one.files.items():
        converted = runnable(file.data)
        assert (converted == file.data) == (form is not Format.QONNX)
        assert {entry.domain for entry in onnx.load_from_string(converted).opset_import} <= {"", "ai.onnx"}


def test_parity_is_measured_at_every_other_level(one: Case) -> None:
    data, logits = one.files[Format.INTEGER].data, one.logits
    found = parity_by_level(data, one.images, logits)
    assert [*found] == [
        "disabled, 1 threads",
        "disabled, 2 threads",
        "basic, 1 threads",
        "basic, 2 threads",
        "all, 1 threads",
    ]
    assert all((p.n, p.max_abs_difference) == (8, 0.0) for p in found.values())
