"""NatMU: hybrids pixel by pixel, whose labels they have, and what cannot be blended."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict
from qmu_edge.unlearn.methods import natmu
from qmu_edge.unlearn.methods.natmu import Params, hybrids, likeliest, partners, ramps
from qmu_edge.unlearn.registry import apply
from tests.unlearn.toys import split

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


def test_ramps_are_those_of_the_paper_at_its_size() -> None:
    middle = [i / 16 for i in range(16)] + [(15 - i) / 16 for i in range(16)]
    found = ramps(32, 32, 0.0)
    for mask, down, inside in zip(found, (True, False) * 2, (True, True, False, False), strict=True):
        line = mask[:, 5] if down else mask[5]
        assert line.tolist() == [v if inside else 15 / 16 - v for v in middle]
    shifted = ramps(32, 32, -0.03)
    torch.testing.assert_close(shifted, (found - 0.03).clamp_min(0.0))
    assert ramps(3, 7, 1.0).eq(1.0).all()


def test_likeliest_are_the_best_others_that_are_left() -> None:
    logits = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 9
    available = torch.tensor([0, 1, 2, 4, 5, 7, 8])
    found = likeliest(logits, labels, available, 4).tolist()
    for row, label, chosen in zip(logits.tolist(), labels.tolist(), found, strict=True):
        others = [k for k in available.tolist() if k != label]
        assert chosen == sorted(others, key=lambda k: -row[k])[:4]


def test_partners_have_the_wanted_label_and_all_take_part() -> None:
    labels = torch.tensor([3, 1, 1, 3, 0, 3, 1])
    wanted = torch.tensor([3, 0, 1]).repeat(500).view(-1, 3)
    found = partners(wanted, labels, torch.Generator().manual_seed(0))
    assert torch.equal(labels[found], wanted)
    counts = Counter(found.flatten().tolist())
    assert counts[4] == 500
    assert all(counts[i] == pytest.approx(500 / 3, abs=50) for i in (0, 1, 2, 3, 5, 6))


@pytest.mark.parametrize("whole_class", [False, True])
def test_hybrids_are_blends_pixel_by_pixel(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch, whole_class: bool
) -> None:
    model, data = network(), split(toy, 18, 6)
    if whole_class:
        everything = toy(18)
        ours = everything.labels == 1
        data = replace(
            data, forget=everything.take(torch.nonzero(ours)[:, 0]),
            retain=everything.take(torch.nonzero(~ours)[:, 0]), classes=(1,),
        )  # fmt: skip
    chosen: list[torch.Tensor] = []
    monkeypatch.setattr(natmu, "partners", lambda *a: chosen.append(partners(*a)) or chosen[-1])  # type: ignore[func-returns-value]
    made = hybrids(model, data, Params(), torch.Generator().manual_seed(0))

    n = len(data.forget)
    logits = predict(model, data.forget)
    masks = ramps(8, 8, -0.03).tolist()
    forget, retain, found = (s.images() for s in (data.forget, data.retain, made))
    assert len(made) == 2 * n  # three classes: two others
    for position in range(2 * n):
        rank, image = divmod(position, n)
        label = int(data.forget.labels[image])
        others = sorted((k for k in range(3) if k != label), key=lambda k: -float(logits[image, k]))
        assert int(made.labels[position]) == others[rank]
        partner = int(chosen[0][image, rank])
        assert int(data.retain.labels[partner]) == others[rank]
        for y in range(8):
            for x in range(8):
                share = masks[rank][y][x]
                blend = share * int(forget[image, 0, y, x]) + (1 - share) * int(retain[partner, 0, y, x])
                assert int(found[position, 0, y, x]) == pytest.approx(blend, abs=0.501)


def test_retain_set_of_the_own_class_alone_is_refused_before_work(network: Network, toy: Toy) -> None:
    data = split(toy, 18, 6)
    data = replace(data, retain=data.retain.relabelled(torch.full((12,), 2)))
    with pytest.raises(UnlearnError, match="all retain images are of class 2"):
        apply("natmu", network(), data, Params(), torch.Generator())
    others = data.forget.relabelled(torch.zeros(6, dtype=torch.int64))
    apply("natmu", network(), replace(data, forget=others), Params(epochs=1), torch.Generator())


def test_each_batch_mixes_hybrids_and_retain_images(
    network: Network, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = split(toy, 18, 6), network()
    made: list[Samples] = []
    monkeypatch.setattr(natmu, "hybrids", lambda *a: made.append(hybrids(*a)) or made[-1])  # type: ignore[func-returns-value]
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda _, x, y: seen.append((x[0] * 255).round()) if model.training else None)
    natmu.run(model, data, Params(epochs=1, batch=8), torch.Generator().manual_seed(0))
    pools = [made[0].images().float(), data.retain.images().float()]
    assert len(seen) == 3
    for batch in seen:
        kinds = [[any(torch.equal(image, p) for p in pool) for image in batch] for pool in pools]
        assert [sum(k) for k in kinds] == [4, 4]
