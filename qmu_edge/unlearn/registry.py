"""Unlearning methods: one file each, registered in a plain dictionary; and those of other packages.

A method is `run(model, data, params, generator) -> model` with its properties, see `method`. It never chooses
a device, reads a command line, or knows the name of a dataset. Quantizer scales are frozen unless a method
says otherwise.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any, Final, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from qmu_edge.errors import ConfigError
from qmu_edge.machine.versions import METHODS_GROUP
from qmu_edge.models.calibration import require_calibrated
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Recipe, TrainRecipe
from qmu_edge.request.split import Passes
from qmu_edge.runtime.malloc import kept_memory
from qmu_edge.train.batches import ForgetRetain
from qmu_edge.train.difficulty import without
from qmu_edge.unlearn.method import Method
from qmu_edge.unlearn.methods import (
    bad_teacher,
    boundary_expand,
    boundary_shrink,
    cf_k,
    ct,
    eu_k,
    ficabu,
    finetune,
    fisher_forgetting,
    grad_ascent,
    held_out_match,
    influence,
    l1_sparse,
    lotus,
    msg,
    munba,
    natmu,
    neg_grad_plus,
    oeu,
    pgu,
    qmul,
    random_label,
    regun,
    retrain,
    salun,
    scrub_r,
    sfron,
    ssd,
    unsir,
)

_NAME: Final = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")  # a section of the recipe

OWN: Final[Mapping[str, Method]] = {
    "qmul": qmul.METHOD,
    "random_label": random_label.METHOD,
    "munba": munba.METHOD,
    "natmu": natmu.METHOD,
    "sfron": sfron.METHOD,
    "msg": msg.METHOD,
    "ct": ct.METHOD,
    "grad_ascent": grad_ascent.METHOD,
    "finetune": finetune.METHOD,
    "l1_sparse": l1_sparse.METHOD,
    "salun": salun.METHOD,
    "influence": influence.METHOD,
    "fisher_forgetting": fisher_forgetting.METHOD,
    "cf_k": cf_k.METHOD,
    "eu_k": eu_k.METHOD,
    "neg_grad_plus": neg_grad_plus.METHOD,
    "scrub_r": scrub_r.METHOD,
    "bad_teacher": bad_teacher.METHOD,
    "ssd": ssd.METHOD,
    "ficabu": ficabu.METHOD,
    "lotus": lotus.METHOD,
    "regun": regun.METHOD,
    "oeu": oeu.METHOD,
    "pgu": pgu.METHOD,
    "unsir": unsir.METHOD,
    "boundary_shrink": boundary_shrink.METHOD,
    "boundary_expand": boundary_expand.METHOD,
    "held_out_match": held_out_match.METHOD,
    "retrain": retrain.METHOD,
}


def _installed() -> Iterator[tuple[str, Method]]:
    """Methods of other packages, by the entry points of the group `qmu_edge.methods`.

    None of them is exact, whatever it says: an exact method's network goes out without a verdict on what it
    still knows.

    Raises:
        ConfigError: One cannot be imported, is no `Method`, calls itself exact, or has a name that is taken.
    """
    for point in metadata.entry_points(group=METHODS_GROUP):
        where = f"entry point {point.name} = {point.value}"
        if point.name in OWN or not _NAME.fullmatch(point.name):
            raise ConfigError(f"{where}: allowed is a name of its own, of letters, digits and _")
        try:
            made = point.load()
        except Exception as error:  # it is not our code
            raise ConfigError(f"{where}: {type(error).__name__}: {str(error)[:200]}") from error
        if not isinstance(made, Method) or made.category == "exact":
            raise ConfigError(f"{where}: allowed is an approximate Method")
        yield point.name, made


METHODS: Final[Mapping[str, Method]] = {**OWN, **dict(_installed())}


def method(name: str) -> Method:
    """The method of this name.

    Raises:
        ConfigError: There is no such method; the message names all methods.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]


def apply(
    name: str, model: Classifier, data: ForgetRetain, params: Any, generator: torch.Generator
) -> Classifier:
    """Run a method after the checks common to all methods.

    Raises:
        UnlearnError: The network is not calibrated, a set is empty, the method cannot serve this
            request, or it diverged.
    """
    require_calibrated(model)
    data.forget.require_some("forget")
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # for dropout
    method(name).check(model, data, params)
    difficulty = model.difficulty
    with kept_memory(data.retain.device):
        changed = method(name).run(model, data, params, generator)
    changed.difficulty = without(
        difficulty if changed.difficulty is None else changed.difficulty, data.forget
    )
    for parameter in changed.parameters():
        parameter.requires_grad_(True)  # a method may have frozen some
    return changed.eval()


def require_known(names: Iterable[str], recipe: Recipe) -> dict[str, Passes]:
    """Check names of methods and their parameters in the recipe, before any work.

    Returns:
        How often each goes through the sets of a request.

    Raises:
        ConfigError: See `parameters`.
    """
    tried = tuple(names)
    found = {  # also of methods that are not tried: a misspelt one is told
        name: parameters(name, recipe.unlearn.get(name, {}), recipe.train)
        for name in dict.fromkeys((*recipe.unlearn, *tried))
    }
    return {name: method(name).work(found[name]) for name in tried}


def parameters(name: str, given: Mapping[str, Any], train: TrainRecipe) -> Any:
    """Hyperparameters of a method: its defaults, overridden by `given`.

    Args:
        name: Name of the method.
        given: Parameters in the recipe's section `[unlearn.<name>]`.
        train: The recipe's training section, the parameter of `retrain`.

    Raises:
        ConfigError: An unknown parameter, or a value of the wrong type or out of range.
    """
    params = method(name).params
    allowed = [f.name for f in dataclasses.fields(params)]
    unknown = [key for key in given if key not in allowed]
    if unknown:
        raise ConfigError(f"unlearn.{name}.{unknown[0]}: unknown; allowed are {', '.join(allowed)}")
    hints = get_type_hints(params, include_extras=True)
    values = {"train": train} if "train" in allowed else {}
    for key, value in given.items():
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"unlearn.{name}.{key}: {problem}, found {value!r}") from None
    made = params(**values)
    where, of = ("train", train) if "train" in allowed else (f"unlearn.{name}", made)
    if "bn_stats" in method(name).touches and of.batch < 2:
        raise ConfigError(
            f"{where}.batch: found {of.batch}, allowed at least 2: one image has no batch statistics"
        )
    return made
