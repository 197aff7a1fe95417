"""The bill of materials: fixed fields, one form, every file with its digest."""

import json
import re
from dataclasses import replace
from typing import Any

from qmu_edge.attestation.bom import bom
from qmu_edge.io.digest import Sha256
from tests.attestation.examples import FILES, facts, measured
from tests.receipt.test_receipt import RESIDUAL, VERDICT, made, sha


def read(data: bytes) -> Any:
    return json.loads(data)


def card_of(document: Any) -> Any:
    return document["metadata"]["component"]["modelCard"]


def test_the_same_facts_make_the_same_bytes_and_others_another_serial_number() -> None:
    receipt = made()
    data = bom(facts(receipt))
    assert data == bom(facts(receipt))
    numbers = {
        read(bom(which))["serialNumber"]
        for which in (facts(receipt), facts(), replace(facts(), checkpoint=Sha256(sha(b"x"))))
    }
    assert len(numbers) == 3
    form = re.compile("urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(form.fullmatch(number) for number in numbers)


def test_it_lists_every_file_with_its_digest_and_where_the_receipt_is() -> None:
    receipt = made()
    document = read(bom(facts(receipt)))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.7")
    listed = {part["name"]: part["hashes"] for part in document["components"]}
    assert listed == {n: [{"alg": "SHA-256", "content": sha(data)}] for n, data in FILES.items()}
    (about,) = document["metadata"]["component"]["externalReferences"]
    assert (about["url"], about["hashes"][0]["content"]) == ("receipt.json", sha(receipt))
    assert document["metadata"]["timestamp"] == "2026-11-02T15:10:01Z"
    refs = {part["bom-ref"] for part in document["components"]} | {"model"}
    assert {part["ref"] for part in document["dependencies"]} == refs and len(refs) == 3


def test_figures_come_with_their_interval() -> None:
    metrics = card_of(read(bom(facts(measured(100)))))["quantitativeAnalysis"]["performanceMetrics"]
    ends = {"lowerBound": "0.20", "upperBound": "0.80"}
    accuracy = {"type": "accuracy", "slice": "test", "value": "0.50", "confidenceInterval": ends}
    assert accuracy in metrics and len(metrics) == 3
    left = metrics[-1]
    assert (left["type"], left["slice"], left["value"]) == ("residual", "forgotten samples", "0.05")


def test_an_end_that_there_is_not_is_left_out() -> None:
    verdict = {**VERDICT, "residuals": [{**RESIDUAL, "value": None, "low": None}]}
    (left,) = card_of(read(bom(facts(made(verdict=verdict)))))["quantitativeAnalysis"]["performanceMetrics"]
    assert left["confidenceInterval"] == {"upperBound": "0.20"} and "value" not in left


def test_figures_of_a_file_that_is_not_shipped_are_left_out() -> None:
    found = facts(measured(100))
    other = replace(found, files={"bundle.zip": found.files["bundle.zip"]})
    metrics = card_of(read(bom(other)))["quantitativeAnalysis"]["performanceMetrics"]
    assert {metric["type"] for metric in metrics} == {"residual"}


def test_before_any_deletion_it_says_nothing_of_one() -> None:
    document = read(bom(facts()))
    card = card_of(document)
    assert "quantitativeAnalysis" not in card and "technicalLimitations" not in card["considerations"]
    assert "timestamp" not in document["metadata"] and "erasure" not in json.dumps(document)
