"""A receipt is signed, has one form, and says its limits."""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmu_edge.errors import LedgerError
from qmu_edge.io.canonical import canonical
from qmu_edge.receipt import envelope, receipt
from qmu_edge.receipt.fields import refusing
from qmu_edge.receipt.statement import PREDICATE_TYPE as TYPE
from qmu_edge.receipt.statement import Statement, StatementV1, StatementV2, StatementV3
from qmu_edge.receipt.verify import verify
from qmu_edge.receipt.version1 import VerdictV1

MODEL = b"the exported model"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC, STRANGER = (k.public_key().public_bytes_raw() for k in (KEY, OTHER))

OLD = Path(__file__).parent / "golden" / "receipt.v1-first.json"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


SHARE = {"value": 0.5, "n": 10, "low": 0.24, "high": 0.76}
EVALUATION = {
    "sha256": sha(MODEL), "bytes": 18, "seconds": 0.5, "fa": SHARE, "ra": SHARE, "ta": SHARE, "va": None,
    "mia_auc": {"value": 0.502, "low": 0.47, "high": 0.53}, "mean_confidence": {"forget": 0.5},
}  # fmt: skip
CHECK = {"name": "fa_gap", "value": 0.01, "allowed": 0.05, "passed": True, "low": 0.24, "high": 0.76}
RESIDUAL = {
    "scope": "samples", "value": 0.05, "low": -0.1, "high": 0.2, "n": 12, "effective": 11.5, "references": 4,
    "detected": True, "power": 0.9,
}  # fmt: skip
DROP = {
    "metric": "ta_drop", "value": 0.03, "low": -0.01, "high": 0.07, "bound": "low", "comparator": "<=",
    "threshold": 0.02, "sample_size": 10, "passed": True,
}  # fmt: skip
LEFT = {
    "metric": "residual", "value": 0.05, "low": -0.1, "high": 0.2, "bound": "high", "comparator": "<=",
    "threshold": 0.25, "sample_size": 12, "passed": True,
}  # fmt: skip
VERDICT = {
    "answer": "forgotten", "passed": True, "residuals": [RESIDUAL], "results": [DROP, LEFT],
    "codes": {"weights": 1000, "changed": 10},
}  # fmt: skip


def make(**changes: Any) -> dict[str, Any]:
    """The document of a statement; `changes` are fields of its predicate."""
    predicate: dict[str, Any] = {
        "request": {
            "digest": sha(b"request"), "form": "opendsr", "regulation": "gdpr", "deadline_met": True,
            "received": "2026-11-02T15:04:11Z", "due": "2026-12-02T15:04:11.250+01:00",
        },
        "batch": {"requests": 3, "forget": 40},
        "completed": "2026-11-02T15:10:00Z",
        "issued": "2026-11-02T15:10:01Z",
        "outcome": "unlearned",
        "method": {
            "name": "ssd", "category": "approximate", "seed": 0,
            "parameters": {"alpha": 10.0, "layers": ["a", "b"], "train": {"epochs": 3}},
        },
        "rungs": [
            {"method": "qmul", "category": "approximate", "result": "threshold_missed"},
            {"method": "ssd", "category": "approximate", "result": "passed"},
        ],
        "recipe": sha(b"recipe"),
        "checkpoints": {"before": sha(b"before"), "after": sha(b"after")},
        "split": {"digest": sha(b"split"), "counts": {"forget": 12, "retain": 40_000}},
        "model": {"architecture": "resnet18", "bits": {"weights": 4, "activations": 4}},
        "metrics": {
            "evaluation": EVALUATION, "mia_efficacy": {"mean": 0.2, "draws": 5}, "bytes": {"model.onnx": 18},
            "parity": {"integer": {"n": 1000, "agreement": 1}},
            "latent_weights": {"integer": {"problems": 0}},
        },
        "thresholds": {"max_residual": 0.25},
        "verdict": VERDICT,
        "derived_artefacts": [{"kind": "split", "count": 1, "bytes": 9, "state": "present"}],
        "tool": {"name": "qmu-edge", "version": "0.1.0", "dependencies": {"torch": "2.11.0+cpu"}},
        "limits": list(receipt.LIMITS),
        "previous": None,
        "ledger": {"events": 40, "head": sha(b"event 40"), "tombstones": 15},
    }  # fmt: skip
    document = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "bundle.zip", "digest": {"sha256": sha(b"bundle")}},
            {"name": "model.onnx", "digest": {"sha256": sha(MODEL)}},
        ],
        "predicateType": "urn:qmu-edge:erasure-receipt:v3",
        "predicate": {**predicate, **changes},
    }
    return copy.deepcopy(document)


def make_v2(**changes: Any) -> dict[str, Any]:
    """The same in version 2."""
    document = make(**changes)
    del document["predicate"]["ledger"]
    return {**document, "predicateType": "urn:qmu-edge:erasure-receipt:v2"}


def make_old(**changes: Any) -> dict[str, Any]:
    """The same in version 1."""
    old = {
        "reference": None, "thresholds": {"max_fa_gap": 0.05}, "verdict": {"passed": True, "checks": [CHECK]},
        "limits": json.loads(envelope.read(OLD.read_bytes(), OLD).payload)["predicate"]["limits"],
    }  # fmt: skip
    return {**make_v2(**{**old, **changes}), "predicateType": "urn:qmu-edge:erasure-receipt:v1"}


def made(key: Ed25519PrivateKey = KEY, **changes: Any) -> bytes:
    return receipt.sign(StatementV3.model_validate(make(**changes)), key)


def made_old(key: Ed25519PrivateKey = KEY, **changes: Any) -> bytes:
    return receipt.sign(StatementV1.model_validate(make_old(**changes)), key)


def changed(where: str, value: object) -> bytes:
    """A signed receipt with one field, named by dots, set to something else or taken out."""
    statement: Any = make()
    *path, last = where.split(".")
    part = statement
    for name in path:
        part = part[int(name)] if name.isdigit() else part[name]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return envelope.sign(json.dumps(statement, sort_keys=True, separators=(",", ":")).encode(), KEY)


def test_a_receipt_is_an_in_toto_statement_in_dsse_that_says_its_limits() -> None:
    data = made()
    signed = envelope.read(data, "r")
    statement = json.loads(signed.payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:qmu-edge:erasure-receipt:v3"
    assert [file["name"] for file in statement["subject"]] == ["bundle.zip", "model.onnx"]
    assert statement["predicate"]["limits"] == list(receipt.LIMITS)
    assert receipt.loads(data, "r").document() == statement and receipt.signer(data) == PUBLIC
    assert "operator who ran it is honest" in receipt.render(statement)


def test_one_statement_and_one_key_have_one_byte_string() -> None:
    data = made()
    shuffled = json.loads(json.dumps(make()), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    read = StatementV3.model_validate(shuffled)
    assert receipt.sign(read, KEY) == data != receipt.sign(read, OTHER)
    assert sha(data) == "1879d1b3004cb2cb84832e2b3174aa4c4fff35363beeeec73920c3ba7e1eeaf0"
    payload = envelope.read(data, "r").payload
    assert payload == json.dumps(make(), sort_keys=True, separators=(",", ":")).replace("10.0", "10").encode()


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("predicate.method", ..., "predicate.method: missing"),
        ("predicate.extra", 1, "predicate.extra: not a field"),
        ("predicate.subjects.x", 1, "predicate.subjects: not a field"),
        ("predicate.method.category", "certified", "category: .*'exact' or 'approximate'"),
        ("predicate.method.seed", True, "seed: .*valid integer"),
        ("predicate.split.counts.forget", -1, "forget: .*greater than or equal to 0"),
        ("predicate.request.digest", sha(b"").upper(), "digest: .*pattern"),
        ("predicate.request.received", "yesterday", "received: .*pattern"),
        ("predicate.request.received", "2026-13-02T15:04:11Z", "received: .*pattern"),
        ("predicate.split.counts", {"forget": "12"}, "forget: .*valid integer"),
        ("predicate.verdict.passed", 1, "passed: .*valid boolean"),
        ("predicate.verdict.answer", "perhaps", "answer: .*'forgotten'"),
        ("predicate.verdict.answer", None, "answer: .*'forgotten'"),
        ("predicate.verdict.codes", None, "codes: .*Codes"),
        ("predicate.verdict.results.0.comparator", "<", "comparator: .*'<='"),
        ("predicate.verdict.results.0.bound", "middle", "bound: .*'value', 'low' or 'high'"),
        ("predicate.verdict.results.0.threshold", ..., "threshold: missing"),
        ("predicate.verdict.residuals.0.n", 0, "n: .*greater than or equal to 1"),
        ("predicate.verdict.residuals.0.power", 1.1, "power: .*less than or equal to 1"),
        ("predicate.verdict.residuals", [RESIDUAL] * 3, "residuals: .*at most 2"),
        ("predicate.reference", None, "reference: not a field"),
        ("predicate.rungs", [], "rungs: .*at least 1"),
        ("predicate.metrics", [], "metrics: .*Metrics"),
        ("predicate.metrics.evaluation.fa.low", 1.5, "low: .*less than or equal to 1"),
        ("predicate.metrics.parity", {"a b": 1}, "'a b': .*pattern"),
        ("predicate.metrics.parity", {"x": "Ana Miller"}, "x: allowed are numbers"),
        ("predicate.metrics.parity", {"x": {"y": {"z": 1}}}, "x: allowed are numbers"),
        ("predicate.metrics.parity", {"x": [1] * 17}, "x: allowed are numbers"),
        ("predicate.metrics.parity", {f"x{i}": 1 for i in range(65)}, "at most 64"),
        ("predicate.derived_artefacts", {}, "derived_artefacts: .*list"),
        ("predicate.derived_artefacts.0.kind", "photo 17", "kind: .*pattern"),
        ("predicate.request", [], "request: .*Request"),
        ("predicate.outcome", "asked by Ana", "outcome: .*'unlearned'"),
        ("predicate.batch.requests", 0, "requests: .*greater than or equal to 1"),
        ("predicate.limits", [], "limits: .*at least 1"),
        ("subject", [], "subject: .*at least 1"),
        ("subject.0.name", "model.onnx", "each once"),
        ("subject.0.name", "/srv/model.onnx", "name: .*pattern"),
        ("_type", "https://example.org/v1", "_type: .*in-toto.io/Statement/v1"),
        ("predicateType", "urn:qmu-edge:erasure-receipt:v4", "erasure-receipt:v3"),
        ("predicateType", "urn:qmu-edge:erasure-receipt:v2", "ledger: not a field"),
        ("predicate.ledger", ..., "ledger: missing"),
        ("predicate.ledger.events", 0, "events: .*greater than or equal to 1"),
        ("predicateType", "urn:qmu-edge:erasure-receipt:v1", "reference: missing"),
    ],
)
def test_a_wrong_field_is_named(where: str, value: object, said: str) -> None:
    if where == "predicate.subjects.x":
        where, value = "predicate.subjects", {"x": 1}
    with pytest.raises(LedgerError, match=rf"^r\.json: not a receipt: .*{said}"):
        receipt.loads(changed(where, value), Path("r.json"))


def test_what_could_not_be_read_is_never_signed() -> None:
    wrongs: list[dict[str, Any]] = [{"thresholds": {"x": float("nan")}}, {"outcome": ""}, {"extra": 1}]
    for wrong in wrongs:
        with pytest.raises(LedgerError, match=r"^new receipt: not a receipt: \$\.predicate\."):
            with refusing("new receipt"):
                made(**wrong)
    good = StatementV3.model_validate(make())
    with pytest.raises(LedgerError, match=r"subject: .*at least 1"), refusing("new receipt"):
        Statement.about({}, good.predicate)
    for changes in ({"outcome": "unheard-of"}, {"thresholds": {"x": float("nan")}}):
        unchecked = good.model_copy(update={"predicate": good.predicate.model_copy(update=changes)})
        with pytest.raises(LedgerError):
            receipt.sign(unchecked, KEY)


def test_the_same_json_in_another_form_is_refused_although_signed() -> None:
    payload = envelope.read(made(), "r").payload
    for other in (
        payload + b"\n",
        json.dumps(make()).encode(),
        payload.replace(b'"seed":0', b'"seed":0.0'),
        payload.replace(b'"seed":0', b'"seed":0,"seed":0'),
        payload.replace(b"ssd", b"ss\\u0064"),
        b"[]", b"null", b"\xff", b"",
    ):  # fmt: skip
        assert other != payload
        with pytest.raises(LedgerError, match="not a receipt"):
            receipt.loads(envelope.sign(other, KEY), "r")


def test_a_receipt_under_another_name_is_refused() -> None:
    renamed = made().replace(PUBLIC.hex().encode(), STRANGER.hex().encode())
    for read in (
        lambda: receipt.loads(renamed, "r"),
        lambda: verify(renamed, files={}, keys=[STRANGER]),
    ):
        with pytest.raises(LedgerError, match="the signature does not hold"):
            read()


def test_a_bare_statement_is_not_a_receipt() -> None:
    with pytest.raises(LedgerError, match="not a signed envelope"):
        receipt.loads(envelope.read(made(), "r").payload, "r")


def test_a_receipt_of_version_1_is_read_as_it_was_written() -> None:
    data = made_old()
    assert sha(data) == "dca97248a241b0e9ecb1f6fc8bbda5beec57be807be6bd3035cf2424f05eca64"
    statement = receipt.loads(data, "r")
    verdict = statement.predicate.verdict
    assert isinstance(verdict, VerdictV1)
    assert (verdict.answer, verdict.residuals, verdict.codes) == ("", (), None)  # later receipts say it
    assert [(r.metric, r.threshold) for r in verdict.results] == [(c.name, c.allowed) for c in verdict.checks]
    assert statement.to_bytes() == envelope.read(data, "r").payload
    older = make_old()
    del older["predicate"]["rungs"]  # which the first receipts do not have
    signed = receipt.sign(StatementV1.model_validate(older), KEY)
    assert receipt.loads(signed, "r").document() == json.loads(envelope.read(signed, "r").payload)
    for mixed in ({**make(), "predicateType": older["predicateType"]}, {**make_old(), "predicateType": TYPE}):
        with pytest.raises(LedgerError, match="not a receipt"):
            receipt.loads(envelope.sign(canonical(mixed), KEY), "r")


def test_a_receipt_of_version_2_is_read_as_it_was_written() -> None:
    data = receipt.sign(StatementV2.model_validate(make_v2()), KEY)
    assert sha(data) == "0dcce4126c0e5266681078f50974b874f96648cade731b5d8fa6dea727f973f9"
    assert receipt.loads(data, "r").to_bytes() == envelope.read(data, "r").payload
    assert verify(data, files={}) == verify(made(), files={})
    for mixed in ({**make_v2(), "predicateType": TYPE}, {**make_old(), "predicateType": TYPE}):
        with pytest.raises(LedgerError, match="ledger: missing"):
            receipt.loads(envelope.sign(canonical(mixed), KEY), "r")


def test_render_shows_every_value_and_steers_no_terminal() -> None:
    statement = StatementV3.model_validate(make()).document()
    statement["predicate"]["outcome"] = "\x1b[2Jgone\u202e"
    text = receipt.render(statement)
    for shown in (sha(MODEL), "resnet18", "0.502", "kind: split", "forget: 12", "torch: 2.11.0"):
        assert shown in text
    assert r"\x1b[2Jgone\u202e" in text
    assert all(c.isprintable() or c == "\n" for c in text)
    for limit in receipt.LIMITS:
        assert limit in text
    assert re.search(r"Batch\n  forget: 40\n  requests: 3", text)


RECORDED = sorted(Path(__file__).parent.glob("golden/*.json")) + sorted(
    (Path(__file__).parents[1] / "pipeline/golden").glob("*.json")
)


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_a_receipt_of_every_version_is_told_on_one_screen(path: Path) -> None:
    document = receipt.loads(path.read_bytes(), path).document()
    text = receipt.summary(document)
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 120 and all(line.isprintable() for line in lines)
    assert document["subject"][0]["digest"]["sha256"] in text and "receipt show --full" in lines[-1]
    assert document["predicate"]["method"]["name"] in text and "passed" in text


def test_only_version_3_has_a_word_for_what_could_not_be_measured() -> None:
    rungs = [
        {"method": "qmul", "category": "approximate", "result": "not_measurable"},
        make()["predicate"]["rungs"][1],
    ]
    assert StatementV3.model_validate(make(rungs=rungs)).document()["predicate"]["rungs"] == rungs
    for old, document in ((StatementV2, make_v2(rungs=rungs)), (StatementV1, make_old(rungs=rungs))):
        with pytest.raises(LedgerError, match="no word for"), refusing("receipt"):
            old.model_validate(document)
