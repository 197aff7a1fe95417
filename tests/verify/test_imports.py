"""What importing one module loads, in a fresh interpreter: never more than the module needs."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import qmu_edge.verify

DEVICE = {"numpy", "onnxruntime"}
HEAVY = {"torch", "onnx", "qonnx", "brevitas", "sklearn", "scipy", "pydantic", "jaxtyping", "cryptography"}
FOLDER = Path(str(qmu_edge.verify.__file__)).parent
MODULES = sorted(
    ".".join(("qmu_edge.verify", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in FOLDER.rglob("*.py")
    if path.name != "__init__.py"
)
RUNTIME = {"__main__", "outputs", "performance", "render", "session", "verification"}  # may load onnxruntime


@cache
def loaded(module: str) -> set[str]:
    """Names of the modules that are loaded after `module` was imported."""
    code = f"import json, sys, {module}; print(json.dumps([n for n, m in sys.modules.items() if m]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_verifier_loads_numpy_and_onnxruntime_at_most(module: str) -> None:
    found = loaded(module) & (DEVICE | HEAVY)
    assert found <= (DEVICE if module.rpartition(".")[2] in RUNTIME else {"numpy"})


@pytest.mark.parametrize(
    ("module", "siblings"),
    [
        ("metrics", set[str]()),
        ("codes", set[str]()),
        ("parity", set[str]()),
        ("onnx.wire", {"onnx"}),
        ("mia", {"metrics"}),
        ("residual", {"metrics"}),
        ("verdict", {"codes", "evaluation", "metrics", "mia", "residual"}),
        ("latent_weights", {"codes", "metadata", "onnx", "onnx.graph", "onnx.weight_source", "onnx.wire"}),
    ],
)
def test_a_module_loads_only_the_siblings_that_it_uses(module: str, siblings: set[str]) -> None:
    start = "qmu_edge.verify."
    found = {name.removeprefix(start) for name in loaded(start + module) if name.startswith(start)}
    assert found == siblings | {module}


def test_the_package_itself_loads_nothing() -> None:
    assert not loaded("qmu_edge.verify") & (DEVICE | HEAVY)
    assert not any(name.startswith("qmu_edge.verify.") for name in loaded("qmu_edge.verify"))
