"""The shadow attack, with shadow networks that answer from a table."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qmu_edge.audit import shadow
from qmu_edge.audit.subject import Known
from tests.audit.worlds import Nothing, subject


class Shadows(Nothing):
    """Networks that are surer of what they were trained on, by three in log-odds."""

    def __init__(self) -> None:
        """None is trained yet."""
        super().__init__()
        self.trained: list[Known] = []

    def shadow(self, training: Known, asked: Sequence[Known], number: int) -> list[NDArray[np.float32]]:
        """See `Means`."""
        self.trained.append(training)
        rng, found = np.random.default_rng(number), []
        for known in asked:
            logits = np.zeros((len(known), 2), np.float32)
            sure = rng.normal(0.0, 1.0, len(known)) + 3.0 * (known is training)
            logits[np.arange(len(known)), known.labels] = sure
            found.append(logits)
        return found


def test_what_it_learns_from_its_own_networks_it_finds_in_the_file() -> None:
    means = Shadows()
    there = replace(subject(known_before=4.0, n=600), means=means)
    area, *_ = shadow.run(there)
    assert area.original is not None and area.original.low is not None and area.original.low > 0.6
    assert area.file is not None and area.file.low is not None and area.file.high is not None
    assert area.file.low <= 0.5 <= area.file.high
    assert shadow.run(replace(there, means=Shadows()))[0] == area


def test_no_shadow_network_sees_a_forgotten_image() -> None:
    means, there = Shadows(), subject(n=100)
    there.retained.images[:], there.forgotten.images[:] = 1, 2
    shadow.run(replace(there, means=means))
    assert len(means.trained) == shadow.SHADOWS
    assert all((known.images == 1).all() and len(known) == 50 for known in means.trained)
