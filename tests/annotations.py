"""What pytest checks of annotations at every call: shapes where they stand, plain types elsewhere.

The plug-in of jaxtyping decorates every function of the product. Its decorator binds arguments and
keeps an account of dimensions at every call, which the readers of bytes call 100,000 times a file.
"""

from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

SHAPES = jaxtyping.jaxtyped
# What jaxtyping raises is a TypeError too, like what Python raises in a call of these arguments.
PLAIN = beartype(conf=BeartypeConf(violation_type=TypeError))


def checked(*, typechecker: Any) -> Callable[[Any], Any]:
    """Stands for `jaxtyping.jaxtyped`: the same for what names a shape, beartype alone for the rest."""

    def decorate(thing: Any) -> Any:
        notes = list(getattr(thing, "__annotations__", {}).values())
        plain = not isinstance(thing, type) and not any(isinstance(n, str) for n in notes)
        if plain and "jaxtyping" not in repr(notes):
            return PLAIN(thing)
        return SHAPES(thing, typechecker=typechecker)

    return decorate


def install() -> None:
    """Must come before the product is imported."""
    jaxtyping.jaxtyped = checked  # type: ignore[assignment]
