"""Retraining: a fresh network of another seed, trained by the recipe on what is retained."""

from collections.abc import Callable

import torch

from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import TrainRecipe
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.train.fit import fit
from qmu_edge.unlearn.methods.retrain import Params, replace_seed, run


def test_only_the_seed_of_the_recipe_is_replaced() -> None:
    recipe = TrainRecipe(epochs=7, lr=0.3, seed=1)
    assert replace_seed(recipe, 2) == TrainRecipe(epochs=7, lr=0.3, seed=2)
    assert recipe.seed == 1


def test_it_is_training_from_scratch_under_the_drawn_seed(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    data = ForgetRetain(forget=toy(3), retain=toy(12, seed=1), validation=toy(3, seed=2))
    train, model = TrainRecipe(epochs=1, batch=6), network()
    found = run(model, data, Params(train=train), torch.Generator().manual_seed(5)).state_dict()
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(5)))
    expected = build(model.recipe, model.shape, seed)
    fit(expected, data.retain, replace_seed(train, seed), data.augment, progress=Progress())
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    start = model.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in network().state_dict().items())


def test_it_starts_from_pretrained_weights_where_there_are_any(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    data = ForgetRetain(forget=toy(3), retain=toy(12, seed=1), validation=toy(3, seed=2))
    train, model = TrainRecipe(epochs=1, batch=6, lr=1e-9, weight_decay=0.0), network()
    start = {
        name: torch.full_like(t, 0.25) for name, t in model.state_dict().items() if name == "head.weight"
    }
    model.start = start
    found = run(model, data, Params(train=train), torch.Generator().manual_seed(5))
    assert torch.allclose(found.state_dict()["head.weight"], start["head.weight"], atol=1e-6)
    assert found.start is start
