"""Networks are built by their seed alone."""

import pytest
import torch

from qmu_edge.models.build import build
from qmu_edge.recipe import ModelRecipe
from tests.models.test_models import SHAPE
from tests.networks import EACH


@pytest.mark.parametrize("architecture", EACH)
def test_build_depends_on_its_seed_alone(architecture: str) -> None:
    recipe = ModelRecipe.model_validate({"architecture": architecture, "width": 0.125})
    before = torch.get_rng_state()
    first = build(recipe, SHAPE, seed=0).state_dict()
    torch.rand(1)
    again = build(recipe, SHAPE, seed=0).state_dict()
    other = build(recipe, SHAPE, seed=1).state_dict()
    torch.set_rng_state(before)
    build(recipe, SHAPE, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v.nan_to_num(), again[k].nan_to_num()) for k, v in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])
