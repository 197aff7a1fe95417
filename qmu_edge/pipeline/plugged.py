"""What a recipe plugs in: confirmed before any work, told of it, and named in receipts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qmu_edge.io.progress import Progress
from qmu_edge.plugins.observers import observed
from qmu_edge.plugins.registry import installed, name_of, plugins, require_confirmed
from qmu_edge.project.inventory import OBSERVED
from qmu_edge.recipe import Recipe
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.unlearn.registry import METHODS


@contextmanager
def plugged(
    recipe: Recipe, ledger: Ledger, root: Path, progress: Progress, *, rungs: bool = False
) -> Iterator[None]:
    """Tell the recipe's observers of the work inside; the ledger notes it before they are told anything.

    Args:
        recipe: Of the project.
        ledger: Likewise.
        root: The project's folder.
        progress: Epochs are told there.
        rungs: Whether the work imports the policy's methods.

    Raises:
        ConfigError: Something that the recipe plugs in is not installed, or not confirmed: all is named.
    """
    network = name_of(recipe.model.architecture)
    named = [("network", network)] if network else []
    if rungs:
        others = installed("method").keys() - METHODS.keys()
        named += [("method", name) for name in recipe.policy.rungs if name in others]
    require_confirmed(plugins([*named, *named_by(recipe)]))

    def note() -> None:
        if not ledger.meta(OBSERVED):
            ledger.set_meta(OBSERVED, True)

    with observed(recipe.plugins.observers, root, progress, note):
        yield


def named_by(recipe: Recipe) -> list[tuple[str, str]]:
    """Kind and name of what its `[plugins]` names."""
    said = recipe.plugins
    return [*(("metric", name) for name in said.metrics), *(("observer", name) for name in said.observers)]


def packages_of(recipe: Recipe, method: str) -> Mapping[str, str]:
    """Versions of the packages that plug something into a run of `method`, of those that are installed."""
    named = [("method", method), *named_by(recipe)]
    for kind, text in (("dataset", recipe.data.source), ("network", recipe.model.architecture)):
        named += [(kind, name)] if (name := name_of(text)) else []
    found = (installed(kind).get(name) for kind, name in named)
    return {one.package: one.version for one in found if one is not None}
