"""Unlearning methods: one file each, registered in a plain dictionary; others are plug-ins.

A method is `run(model, data, params, generator) -> model` with its properties, see `method`. It never chooses
a device, reads a command line, or knows the name of a dataset. Quantizer scales are frozen unless a method
says otherwise.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from qmu_edge.errors import ConfigError, QmuEdgeError, UnlearnError
from qmu_edge.models.calibration import require_calibrated
from qmu_edge.models.layers import Classifier
from qmu_edge.plugins.registry import installed, plugin
from qmu_edge.recipe import Recipe, TrainRecipe
from qmu_edge.request.split import Passes
from qmu_edge.runtime.malloc import kept_memory
from qmu_edge.runtime.memory import ran_out
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

METHODS: Final[Mapping[str, Method]] = {
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


def method(name: str) -> Method:
    """The method of this name: of ours, else of another package, which is imported then.

    One of another package is never exact, whatever it says: an exact method's network goes out without a
    verdict on what it still knows.

    Raises:
        ConfigError: There is no such method; the message names all. Or another package's is not confirmed,
            cannot be imported, is no `Method`, or calls itself exact.
    """
    if name in METHODS:
        return METHODS[name]
    if name not in (others := installed("method")):
        raise ConfigError(f"method {name!r} is not one of {', '.join((*METHODS, *others))}")
    made = others[name].load()
    if not isinstance(made, Method) or made.category == "exact":
        raise ConfigError(f"{others[name]}: allowed is an approximate Method")
    return made


@contextmanager
def _guarded(name: str, error: type[QmuEdgeError]) -> Iterator[None]:
    """What the code of another package raises, as an `error` in one line; ours is not touched."""
    if name in METHODS or name not in installed("method"):
        yield
        return
    with plugin("method", name).guarded(error):
        try:
            yield
        except RuntimeError as found:
            if ran_out(found):  # which is said elsewhere
                raise MemoryError(str(found)) from found
            raise


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
    difficulty, chosen = model.difficulty, method(name)
    with kept_memory(data.retain.device), _guarded(name, UnlearnError):
        chosen.check(model, data, params)
        changed = chosen.run(model, data, params, generator)
        if not isinstance(changed, Classifier):
            raise UnlearnError(f"method {name}: returned {type(changed).__name__}, allowed is a network")
    kept = difficulty if chosen.category != "exact" else None  # the original's notes know the forget set
    changed.difficulty = without(kept if changed.difficulty is None else changed.difficulty, data.forget)
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
    return {name: _work(name, found[name]) for name in tried}


def _work(name: str, params: Any) -> Passes:
    with _guarded(name, ConfigError):
        made = method(name).work(params)
        if not isinstance(made, Passes):
            raise TypeError(f"its work is {type(made).__name__}, allowed is Passes")
        return made


def parameters(name: str, given: Mapping[str, Any], train: TrainRecipe) -> Any:
    """Hyperparameters of a method: its defaults, overridden by `given`.

    Args:
        name: Name of the method.
        given: Parameters in the recipe's section `[unlearn.<name>]`.
        train: The recipe's training section, the parameter of `retrain`.

    Raises:
        ConfigError: An unknown parameter, or a value of the wrong type or out of range.
    """
    with _guarded(name, ConfigError):
        return _parameters(name, given, train)


def _parameters(name: str, given: Mapping[str, Any], train: TrainRecipe) -> Any:
    params = method(name).params
    if method(name).sums and (shared := train.shared_steps()):
        raise ConfigError(f"method {name}: undoes the steps of single images, and {shared}")
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
