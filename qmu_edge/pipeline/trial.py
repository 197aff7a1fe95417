"""A model file, or a network of another package, is tried once in a process of its own.

Afterwards it is run in that of a command.

What the file does there ends that process alone: it cannot end a command as if all were well, run for
ever, or take all memory. It is run with numbers, so that a forward pass that is more than its calls can be
told.
"""

import ast
import resource
from pathlib import Path
from typing import Final

import torch

from qmu_edge.errors import ConfigError
from qmu_edge.io.apart import apart
from qmu_edge.models.build import factory_of
from qmu_edge.models.layers import Layers, Shape
from qmu_edge.models.own import factory_in, is_followed
from qmu_edge.recipe import ModelRecipe

TRIAL_SECONDS: Final = 120.0
TRIAL_BYTES: Final = 2 << 30  # more than the process has at its start
_FINE, _DIFFERS, _MEMORY = b"fine", b"differs", b"memory"


def tried(source: bytes, recipe: ModelRecipe, shape: Shape) -> None:
    """Build the network of a model file, and compare its forward pass with the calls that are followed.

    Without a `source` it is the network of another package that the recipe names.

    What else may be wrong with the file is not said here: it raises an exception wherever it is run.

    Raises:
        ConfigError: The process ends, takes longer than `TRIAL_SECONDS` or needs more than `TRIAL_BYTES`; or
            the forward pass depends on more than the image.
    """
    try:
        said, late = apart(lambda: _said(source, recipe, shape), TRIAL_SECONDS), False
    except TimeoutError:
        said, late = None, True
    if problem := _problem(said, late=late):
        lines = suspects(source) if said == _DIFFERS else []
        look = f"; look at line {', '.join(map(str, lines))}" if lines else ""
        raise ConfigError(f"{recipe.path or recipe.architecture}: {problem}{look}")


def suspects(source: bytes) -> list[int]:
    r"""Lines of a model file that may be why its forward pass depends on more than the image.

    Outside of `__init__` and `build`, they set an attribute, ask for `training`, draw numbers, drop out, or
    change in place.

    >>> suspects(b"def forward(self, x):\n    self.n += 1\n    return x * random.random()")
    [2, 3]
    """
    try:
        inside = [f for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        return []
    nodes = (node for f in inside if f.name not in ("__init__", "build") for node in ast.walk(f))
    return sorted({node.lineno for node in nodes if isinstance(node, ast.expr) and _suspect(node)})


def _suspect(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        is_set = (
            isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
        )
        return is_set or node.attr in ("training", "dropout") or node.attr.endswith("_")
    named = isinstance(node, ast.Name) and node.id in ("random", "dropout")
    return named or (isinstance(node, ast.Call) and any(k.arg == "inplace" for k in node.keywords))


def _problem(said: bytes | None, *, late: bool) -> str:
    if late:
        return f"building it and one pass take longer than the allowed {TRIAL_SECONDS:g} seconds"
    if said == _MEMORY:
        return f"building it and one pass need more than the allowed {TRIAL_BYTES >> 20} MiB of memory"
    if said == _DIFFERS:
        return (
            "forward computes something else than the calls that are followed: it depends on numbers of "
            "Python, on chance or on self.training, or changes in place what is read again"
        )
    return "" if said == _FINE else "building it or one pass ends the process; a file may raise an exception"


def _said(source: bytes, recipe: ModelRecipe, shape: Shape) -> bytes:
    torch.set_num_threads(1)  # threads do not outlive a fork
    _limit_memory()
    try:
        factory = factory_in(source, recipe) if source else factory_of(recipe)
        if factory is None:
            return _FINE
        same = is_followed(factory, Layers(recipe), shape)
    except (Exception, SystemExit) as error:  # which is raised, and named, in the command as well
        causes = (error, error.__cause__, error.__context__)
        full = any(isinstance(e, MemoryError) or "allocate memory" in str(e) for e in causes)
        return _MEMORY if full else _FINE
    return _FINE if same else _DIFFERS


def _limit_memory() -> None:
    """Allow so much address space more; where a system does not say how much there is, nothing is limited."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + TRIAL_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
