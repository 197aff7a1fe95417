"""What importing one module of the export loads, in a fresh interpreter: never more than it needs."""

import pytest

from tests.verify.test_imports import loaded

NAMES = {"torch", "brevitas", "onnx", "onnxruntime", "numpy", "cryptography"}


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("qmu_edge.export", set[str]()),
        ("qmu_edge.export.formats", set[str]()),
        ("qmu_edge.export.targets", set[str]()),
        ("qmu_edge.export.graph", {"onnx", "numpy"}),
        ("qmu_edge.export.input", {"onnx", "numpy"}),
        ("qmu_edge.export.formats.qonnx", {"onnx", "numpy"}),
        ("qmu_edge.export.formats.packed", {"onnx", "numpy"}),
        ("qmu_edge.export.gates", {"onnx", "numpy", "onnxruntime"}),
        ("qmu_edge.export.bundle", {"numpy", "onnxruntime", "cryptography"}),
    ],
)
def test_a_module_loads_only_the_packages_that_it_needs(module: str, needs: set[str]) -> None:
    assert loaded(module) & NAMES == needs


@pytest.mark.parametrize("module", ["qmu_edge.export", "qmu_edge.export.formats"])
def test_the_packages_themselves_load_no_module_of_theirs(module: str) -> None:
    assert not any(name.startswith(f"{module}.") for name in loaded(module))
