"""Retained images that look like forgotten ones: perhaps the same picture, which would still be known."""

from dataclasses import replace

import numpy as np

from qmu_edge.errors import RequestError
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.split import Split
from qmu_edge.request.stored import Positions


def noticed(samples: ProjectSamples, policy: PolicyRecipe, split: Split) -> tuple[Split, Positions]:
    """The same sets with the number of such images in them, and which these are (m,)."""
    if policy.near_duplicates == "off":
        return split, np.zeros(0, np.int64)
    alike = samples.alike(split.forget, split.retain)
    return replace(split, near_duplicates=len(alike)), alike


def require_none(samples: ProjectSamples, policy: PolicyRecipe, alike: Positions) -> None:
    """Refuse to go on where the policy says so.

    Raises:
        RequestError: There are such images; nothing has been barred yet.
    """
    if policy.near_duplicates == "refuse" and len(alike):
        raise RequestError(
            f"{len(alike)} retained images look like what is to be forgotten, the first is "
            f"{samples.index.ids[alike[0]]}: allowed are none (near_duplicates is refuse); request these "
            "too, or allow them with near_duplicates = warn",
            reason="near_duplicates",
        )
