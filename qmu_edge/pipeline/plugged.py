"""What a recipe plugs in: confirmed before any work, told of it, and named in receipts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qmu_edge.io.progress import Progress
from qmu_edge.plugins.metrics import require_confirmed
from qmu_edge.plugins.observers import observed
from qmu_edge.plugins.registry import installed, name_of, plugin
from qmu_edge.project.inventory import OBSERVED
from qmu_edge.recipe import Recipe
from qmu_edge.store.ledger.ledger import Ledger


@contextmanager
def plugged(recipe: Recipe, ledger: Ledger, root: Path, progress: Progress) -> Iterator[None]:
    """Tell the recipe's observers of the work inside; the ledger notes it before they are told anything.

    Raises:
        ConfigError: A network, metric or observer of the recipe is not installed, or not confirmed.
    """
    if name := name_of(recipe.model.architecture):
        plugin("network", name).require_confirmed()
    require_confirmed(recipe.plugins.metrics)

    def note() -> None:
        if not ledger.meta(OBSERVED):
            ledger.set_meta(OBSERVED, True)

    with observed(recipe.plugins.observers, root, progress, note):
        yield


def packages_of(recipe: Recipe, method: str) -> Mapping[str, str]:
    """Versions of the packages that plug something into a run of `method`, of those that are installed."""
    named = [("method", method), *(("metric", n) for n in recipe.plugins.metrics)]
    named += [("observer", name) for name in recipe.plugins.observers]
    for kind, text in (("dataset", recipe.data.source), ("network", recipe.model.architecture)):
        named += [(kind, name)] if (name := name_of(text)) else []
    found = (installed(kind).get(name) for kind, name in named)
    return {one.package: one.version for one in found if one is not None}
