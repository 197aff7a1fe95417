"""What is said of the JSON of each dataclass is what `to_json` makes of it."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from qmu_edge.audit import svm
from qmu_edge.io.digest import Sha256
from qmu_edge.verify import (
    codes,
    evaluation,
    figures,
    latent_weights,
    mia,
    parity,
    performance,
    plain,
    residual,
    rounding,
    verdict,
    verification,
)  # fmt: skip

ROOM = (
    codes, evaluation, figures, latent_weights, mia, parity, performance, residual, rounding, verdict,
    verification, svm,
)  # fmt: skip
FORMS = [form for form in vars(plain).values() if is_typeddict(form)]


def dataclass_of(name: str) -> Any:
    (found,) = {vars(module)[name] for module in ROOM if name in vars(module)}
    return found


def as_json(kind: Any) -> Any:
    """How JSON says what a field of this type holds, as the module writes it."""
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return vars(plain)[f"{getattr(kind, '__name__', '')}Json"]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Literal[tuple(member.value for member in kind)]
    if origin in (Union, UnionType):
        return Union[tuple(map(as_json, inner))]  # noqa: UP007
    if origin is tuple:
        return list[as_json(inner[0])]  # type: ignore[misc]
    return Mapping[as_json(inner[0]), as_json(inner[1])] if origin is Mapping else kind  # type: ignore[misc]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_has_the_fields_of_its_dataclass(form: Any) -> None:
    kind = dataclass_of(form.__name__.removesuffix("Json"))
    expected = {
        name: as_json(hint) for name, hint in get_type_hints(kind).items() if name in field_names(kind)
    }
    said = get_type_hints(form)
    if kind is verification.Verification:
        against_a_project = {"note", "mia_efficacy", "request"}
        assert form.__optional_keys__ == {"bundle", "whole", *against_a_project}
        expected |= {"bundle": plain.BundleReportJson, "whole": Sha256, "passed": bool}
        said = {name: hint for name, hint in said.items() if name not in against_a_project}
    else:
        assert list(said) == list(expected) and not form.__optional_keys__
    assert said == expected


def field_names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]
