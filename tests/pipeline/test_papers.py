"""What goes with a release is looked through before it is signed, and says no more than the receipt."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import sha256_of
from qmu_edge.pipeline.make_receipt import require_impersonal
from qmu_edge.pipeline.papers import described, facts_of, released_papers
from qmu_edge.receipt.receipt import sign
from qmu_edge.recipe import ModelRecipe, Recipe
from tests.pipeline.test_make_receipt import CLAIM, INDEX, KEY, RELEASE, ROW, made

RECIPE = Recipe(model=ModelRecipe(architecture="torchvision:resnet18", activation_bits="float"))
RECEIPT = sign(made(), KEY)
DIGESTS: Any = {"report": sha256_of(b"report"), "page": sha256_of(b"page")}
REQUIRE = partial(require_impersonal, row=ROW, claim=CLAIM, index=INDEX, root=Path("/srv/anna"))


def test_facts_are_of_the_release_the_recipe_and_the_receipt() -> None:
    found = facts_of(RELEASE, RECIPE, RECEIPT)
    assert {name: (file.sha256, file.bytes) for name, file in found.files.items()} == {
        name: (RELEASE.files[name], RELEASE.sizes[name]) for name in RELEASE.files
    }
    assert (found.architecture, found.bits["activations"]) == ("torchvision.resnet18", "float")
    assert (found.recipe, found.checkpoint) == (RECIPE.digest(), RELEASE.checkpoint)
    assert found.erasure is not None and found.erasure.receipt == sha256_of(RECEIPT)
    assert facts_of(RELEASE, RECIPE, None).erasure is None


def test_what_is_signed_names_nobody() -> None:
    facts = facts_of(RELEASE, RECIPE, RECEIPT)
    written = released_papers(facts, RECEIPT, key=KEY, require=REQUIRE, **DIGESTS)
    people = [ROW.request_id, "ticket-88", *INDEX.ids, *INDEX.digests, *INDEX.everybody()]
    texts = [*written.values(), *described(facts).values()]
    assert not [name for name in people if any(name.encode() in text for text in texts)]


@pytest.mark.parametrize(
    "planted", [{"architecture": "img-0001"}, {"bits": {"weights": INDEX.digests[0]}}, {"version": "a@b.org"}]
)
def test_what_names_somebody_is_refused_before_anything_is_signed(planted: dict[str, Any]) -> None:
    facts = replace(facts_of(RELEASE, RECIPE, RECEIPT), **planted)
    with pytest.raises(LedgerError, match="the release would hold personal data") as caught:
        released_papers(facts, RECEIPT, key=KEY, require=REQUIRE, **DIGESTS)
    assert "img-0001" not in str(caught.value)
