"""How often the methods of a project's recipe go through the sets of a request.

torch is imported only where the ledger has no note of it.
"""

from collections.abc import Mapping

from qmu_edge.project.results import Results
from qmu_edge.recipe import Recipe
from qmu_edge.request.split import Passes


def passes_of(results: Results, recipe: Recipe, method: str | None = None) -> Mapping[str, Passes]:
    """Of the rungs of the policy, and of `method` where one was asked for.

    Raises:
        ConfigError: A method or a hyperparameter is unknown, or out of range.
    """
    known, names = results.passes(recipe.digest()), (method,) if method else recipe.policy.rungs
    if {*names} <= known.keys():
        return known
    from qmu_edge.unlearn.registry import require_known

    return require_known(names, recipe)
