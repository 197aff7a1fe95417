"""What is written for other tools with the receipts of a run, and with a bundle.

As with the receipt, everything follows from what the ledger and the stored objects say, and is looked
through for personal data before it is signed.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from qmu_edge.attestation.bom import BOM, bom
from qmu_edge.attestation.card import CARD, card
from qmu_edge.attestation.facts import Facts, File, erasure_of
from qmu_edge.attestation.papers import papers
from qmu_edge.attestation.results import result_of
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.plain import to_json
from qmu_edge.pipeline.make_receipt import model_of
from qmu_edge.project.publish import PAGE, RECEIPT, REPORT, SUMS
from qmu_edge.project.records import Release
from qmu_edge.receipt import receipt
from qmu_edge.recipe import Recipe

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def facts_of(release: Release, recipe: Recipe, covering: bytes | None) -> Facts:
    """What is known about a release.

    Args:
        release: The files.
        recipe: They were made by.
        covering: The receipt that covers them; None where none does.
    """
    model = model_of(recipe.model)
    stated = None if covering is None else receipt.loads(covering, "receipt")
    return Facts(
        files={name: File(sha, release.sizes[name]) for name, sha in release.files.items()},
        architecture=model.architecture, bits=model.bits,
        recipe=recipe.digest(), checkpoint=release.checkpoint,
        erasure=erasure_of(stated, sha256_of(covering)) if stated and covering is not None else None,
    )  # fmt: skip


def described(facts: Facts) -> dict[str, bytes]:
    """Bill of materials and model card, by name."""
    return {BOM: bom(facts), CARD: card(facts)}


def released_papers(
    facts: Facts, covering: bytes, *, report: Sha256, page: Sha256, key: "Ed25519PrivateKey",
    require: Callable[[Mapping[str, object]], None],
) -> dict[str, bytes]:  # fmt: skip
    """What goes with a release that a receipt is about, by the name of the file.

    Args:
        facts: See `facts_of`.
        covering: The receipt that lies beside the files.
        report: Digest of the report that lies there too.
        page: And of the page.
        key: The one that signed the receipt.
        require: Raises where it finds personal data in a JSON object.
    """
    digest = sha256_of(covering)
    require({"facts": to_json(facts), "result": result_of(receipt.loads(covering, "receipt"), digest)})
    released = {name: file.sha256 for name, file in facts.files.items()}
    return papers(facts, covering, {**released, RECEIPT: digest, REPORT: report, PAGE: page}, [SUMS], key)
