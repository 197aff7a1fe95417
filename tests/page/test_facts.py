"""What a page is made of: the receipt, and what each method has cost."""

from qmu_edge.page.facts import Tried, tried
from tests.page.examples import STEPS, facts


def test_the_methods_that_were_judged_are_told_with_their_cost_in_order() -> None:
    assert tried(STEPS, "ssd") == [
        Tried("finetune", "threshold_missed", 3.0, 400.0, 1.5),
        Tried("ssd", "passed", 75.0, 900.0, 18.0),
    ]


def test_without_a_receipted_step_nothing_has_passed() -> None:
    assert [t.method for t in tried(STEPS[:-1], "ssd")] == ["finetune"]
    assert tried([], "ssd") == []


def test_the_receipt_is_named_by_its_digest_and_its_key() -> None:
    found = facts()
    assert found.statement.predicate.method.name == "ssd"
    assert len(found.receipt) == 64 and len(found.key) == 16
