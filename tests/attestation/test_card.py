"""The model card: fields that hubs read, and the same facts as text."""

import json
from dataclasses import replace
from typing import Any

from qmu_edge.attestation.card import ANSWERS, card
from qmu_edge.receipt.receipt import LIMITS
from qmu_edge.receipt.statement import Verdict
from tests.attestation.examples import FILES, facts, measured
from tests.receipt.test_receipt import made, sha


def fields(data: bytes) -> dict[str, Any]:
    """The fields above the text: each line a name and JSON, which is YAML too."""
    _, head, _ = data.decode().split("---\n", 2)
    return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in head.splitlines())}


def test_the_same_facts_make_the_same_bytes() -> None:
    receipt = made()
    assert card(facts(receipt)) == card(facts(receipt)) != card(facts())


def test_hubs_find_the_fields_that_they_know() -> None:
    found = fields(card(facts(measured(100))))
    assert (found["library_name"], found["pipeline_tag"]) == ("onnx", "image-classification")
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert result["metrics"] == [{"type": "accuracy", "name": "accuracy on test images", "value": 0.5}]
    assert set(result) == {"task", "dataset", "metrics"}
    other = replace(facts(measured(100)), files={})
    assert "model-index" not in fields(card(other)) and "model-index" not in fields(card(facts()))


def test_it_says_what_was_deleted_and_what_that_does_not_prove() -> None:
    receipt = made()
    text = card(facts(receipt)).decode()
    assert all(f"- {limit}\n" in text for limit in LIMITS) and sha(receipt) in text
    assert all(f"| `{name}` | {len(data)} | `{sha(data)}` |" in text for name, data in FILES.items())
    assert (
        ANSWERS["forgotten"] in text
        and "| left of forgotten samples | 5.0 % | -10.0 % to 20.0 % (90 %) |" in text
    )
    assert "| images | 20-to-99 |" in text


def test_before_any_deletion_it_says_so() -> None:
    assert "No receipt of a deletion covers these files." in card(facts()).decode()


def test_every_answer_that_may_be_released_has_a_sentence() -> None:
    answers = set(Verdict.model_fields["answer"].annotation.__args__)  # type: ignore[union-attr]
    refused = {"still_present", "over_forgotten", "inconclusive"}
    assert set(ANSWERS) == answers - refused
