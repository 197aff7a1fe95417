"""Every attack: what it says, and what it is told apart by."""

import numpy as np
import pytest

from qmu_edge.audit.attack import Sizes
from qmu_edge.audit.registry import ATTACKS, named
from qmu_edge.audit.subject import Known
from qmu_edge.errors import ConfigError
from tests.audit.worlds import known, subject

SIZES = Sizes(forgotten=20, unseen=100, retained=500, training=1000, views=2, epochs=3)
BACKWARD = ("grad-cam", "relearn", "relearn-retain", "bavaria", "shadow")
OF_SCORES = ("rmia", "lira", "retain", "pair", "bavaria")  # the others need files and networks


def test_attacks_are_chosen_by_name_in_the_registrys_order() -> None:
    assert [*named(())] == [*ATTACKS]
    assert [*named(("pair", "rmia"))] == ["rmia", "pair"]
    with pytest.raises(ConfigError, match=r"--attack 'svm': allowed are rmia, lira, "):
        named(("svm",))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_says_what_it_costs_and_names_its_quantities(name: str) -> None:
    attack = ATTACKS[name]
    work = attack.work(SIZES)
    assert (work.forward + work.trained + work.exports > 0) == attack.compares
    assert (work.trained + work.references > 0) == (name in BACKWARD)
    assert work.forward + work.networks > 0
    assert len(set(attack.quantities)) == len(attack.quantities) > 0 and attack.summary


@pytest.mark.parametrize("name", OF_SCORES)
def test_an_attack_says_what_it_has_announced_and_the_same_again(name: str) -> None:
    found = ATTACKS[name].run(subject())
    assert {row.quantity for row in found} <= set(ATTACKS[name].quantities)
    assert found == ATTACKS[name].run(subject())


def test_effective_numbers_are_of_people() -> None:
    there = subject()
    assert there.effective(there.forgotten) == 400.0
    alike = known(10, people=np.zeros(10, np.int64))
    object.__setattr__(there, "intraclass", 1.0)
    assert there.effective(alike) == 1.0


def test_a_part_of_a_set_is_one() -> None:
    whole = known(4, np.arange(4.0))
    part = whole.take(np.array([1, 3]))
    assert isinstance(part, Known) and len(part) == 2
    assert part.expected is not None and part.expected.tolist() == [1.0, 3.0]
    assert known(4).take(np.array([0])).expected is None
