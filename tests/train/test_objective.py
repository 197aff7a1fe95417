"""What training asks for: formulas against the obvious version, image by image."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from qmu_edge.recipe import TrainRecipe
from qmu_edge.train.batches import Samples
from qmu_edge.train.objective import Mixed, asked, mixed

Toy = Callable[..., Samples]


def batches_of(samples: Samples, alpha: float, seed: int = 0) -> list[Mixed]:
    generator = torch.Generator().manual_seed(seed)
    return list(mixed(samples.batches(10, generator), alpha, generator))


def test_a_mixed_image_is_two_of_its_batch_by_their_shares(toy: Toy) -> None:
    samples = toy(60)
    generator = torch.Generator().manual_seed(0)
    for batch in samples.batches(10, generator):
        (found,) = mixed([batch], 1.0, generator)
        assert len(found) == len(batch) == 10 and 0.5 <= found.share <= 1
        pairs = found.share * batch.images[:, None] + (1 - found.share) * batch.images[None]
        same = (pairs - found.images[:, None]).abs().amax((2, 3, 4)) < 1e-6
        for one, partners in enumerate(same):
            assert partners.any()
            assert found.labels[one] == batch.labels[one]
            assert found.partners[one] in batch.labels[partners]
        assert not torch.equal(found.images, batch.images)


def test_shares_are_those_of_the_distribution(toy: Toy) -> None:
    """The larger of both: with alpha 1 uniform in 0.5..1, with a small alpha mostly near 1."""
    drawn = {
        alpha: [b.share for s in range(80) for b in batches_of(toy(60), alpha, s)] for alpha in (0.1, 1.0)
    }
    found = {alpha: torch.tensor(shares) for alpha, shares in drawn.items()}
    assert abs(found[1.0].mean() - 0.75) < 0.03 and found[1.0].min() < 0.52 and found[1.0].max() > 0.98
    assert (found[0.1] > 0.95).float().mean() > 0.6 and found[0.1].min() < 0.7
    assert len({*drawn[1.0]}) == 480


def test_the_same_seed_mixes_the_same(toy: Toy) -> None:
    first, again, other = (batches_of(toy(40), 0.5, seed) for seed in (3, 3, 4))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.images, b.images) and a.share == b.share and torch.equal(a.partners, b.partners)
        assert not torch.equal(a.images, c.images)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_both_labels_are_asked_for_by_their_shares(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, recipe = torch.randn(5, 3, generator=generator), TrainRecipe(label_smoothing=smoothing)
    labels, partners = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 0, 2, 0])
    batch = Mixed(torch.zeros(5, 1, 2, 2), labels, partners, 0.7)
    wanted = 0.7 * F.one_hot(labels, 3) + 0.3 * F.one_hot(partners, 3)
    wanted = (1 - smoothing) * wanted + smoothing / 3
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(asked(recipe, logits, batch), expected)
