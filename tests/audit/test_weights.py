"""Distances between two networks, layer by layer."""

from dataclasses import replace

import torch

from qmu_edge.audit import weights
from qmu_edge.audit.subject import Subject


def test_every_layer_is_told_and_the_whole_file(real: Subject) -> None:
    rows = weights.run(real)
    of = {(row.quantity, row.part): row.file for row in rows}
    assert {quantity for quantity, _ in of} == set(weights.ATTACK.quantities)
    changed = of[weights.CHANGED, ""]
    assert changed is not None and 0.0 < changed.value < 1.0
    layers = {part for quantity, part in of if quantity == weights.LATENT}
    assert layers and layers >= {part for quantity, part in of if quantity == weights.CHANGED and part}


def test_the_same_network_is_no_distance_away(real: Subject) -> None:
    rows = weights.run(replace(real, file=real.original))
    assert {row.file.value for row in rows if row.file is not None} == {0.0}


def test_a_weight_of_zeros_has_a_distance() -> None:
    assert weights.relative_distance(torch.zeros(2), torch.zeros(2)) == 0.0
