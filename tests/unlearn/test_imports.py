"""What importing one module of unlearning loads, in a fresh interpreter: a helper brings no method."""

from pathlib import Path

import pytest

import qmu_edge.unlearn
from tests.verify.test_imports import loaded

START = "qmu_edge.unlearn."
FOLDER = Path(str(qmu_edge.unlearn.__file__)).parent
SHARED = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "registry"}
METHODS = {f"methods.{path.stem}" for path in FOLDER.glob("methods/*.py")} - {"methods.__init__"}


def siblings(*modules: str) -> set[str]:
    """Modules of this package that are loaded after these were imported."""
    names = loaded(", ".join(f"{START}{module}" for module in modules))
    return {name.removeprefix(START) for name in names if name.startswith(START)}


def test_what_the_methods_share_loads_none_of_them() -> None:
    assert siblings(*sorted(SHARED)) == SHARED


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("fisher", set[str]()),
        ("methods.cf_k", {"methods", "method", "last_blocks"}),
    ],
)
def test_a_module_loads_only_the_siblings_that_it_uses(module: str, needs: set[str]) -> None:
    assert siblings(module) == needs | {module}


def test_the_registry_loads_every_method() -> None:
    assert METHODS and siblings("registry") >= METHODS


@pytest.mark.parametrize("package", ["qmu_edge.unlearn", "qmu_edge.unlearn.methods"])
def test_the_packages_themselves_load_nothing(package: str) -> None:
    found = loaded(package)
    assert not any(name.startswith(f"{package}.") for name in found)
    assert not found & {"torch", "numpy", "pydantic"}
