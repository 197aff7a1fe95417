"""What importing one module of the networks loads, in a fresh interpreter: never more than it needs."""

from tests.verify.test_imports import loaded

START = "qmu_edge.models."
PACKAGES = {"onnx", "onnxruntime", "qonnx", "sklearn", "cryptography"}


def siblings(module: str) -> set[str]:
    """Modules of this package that are loaded after one of them was imported."""
    return {name.removeprefix(START) for name in loaded(START + module) if name.startswith(START)}


def test_a_kernel_loads_only_the_siblings_that_it_uses() -> None:
    assert siblings("kernels.fused") == {"kernels", "kernels.steps", "kernels.fused"}


def test_networks_are_built_without_the_export_and_without_compiled_kernels() -> None:
    found = siblings("build")
    assert {"resnet", "mobilenet", "layers"} <= found
    assert not found & {"deploy", "kernels.native", "kernels.triton"}
    assert not loaded("qmu_edge.models.build") & PACKAGES
