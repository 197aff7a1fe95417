"""A model of the user's own: a Python file in the project's folder, run while its digest is the recipe's.

Running a file is running code, so nothing runs because a document names it. A person gives the file to
`qmu-edge init --model`; the project keeps a copy, the recipe and every checkpoint its SHA-256. A changed
file is refused. The digest covers this one file: what it imports is trusted as installed packages are.

Whoever opens a project that came from elsewhere has given nothing: the file is run only if its digest was
confirmed by the same user on the same machine, by `init --model` or `qmu-edge confirm`. Confirmed digests are
empty files named by them, in `qmu-edge/models` below XDG_STATE_HOME, see `qmu_edge.io.confirmed`.
"""

import os
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from qmu_edge.errors import ConfigError, IntegrityError, meant
from qmu_edge.io import confirmed
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import read_regular
from qmu_edge.io.json import shown
from qmu_edge.recipe import ARCHITECTURES, ModelRecipe

MAX_BYTES: Final = 1 << 20
_FOLDER: Final = "models"


def chosen_model(recipe: ModelRecipe, given: Path | str | None) -> tuple[ModelRecipe, bytes]:
    """The recipe with the network that a person chose: a file, see `brought`, or the name of an architecture.

    Raises:
        ConfigError: See `brought`; or there is neither a file nor an architecture of this name.
    """
    if given is None or Path(given).suffix == ".py" or os.path.lexists(given):
        return brought(recipe, Path(given) if given is not None else None)
    try:
        fields = {**recipe.model_dump(), "architecture": str(given), "path": None, "sha256": None}
        fields |= {"width": 1.0} if str(given).startswith("torchvision:") else {}  # they have no other
        return ModelRecipe.model_validate(fields), b""
    except ValidationError:
        raise ConfigError(
            f"model {shown(str(given))}: no such file, and no architecture; allowed are "
            f"{', '.join(ARCHITECTURES)}, torchvision:NAME and plugin:NAME"
            f"{meant(str(given), ARCHITECTURES)}"
        ) from None


def brought(recipe: ModelRecipe, given: Path | None) -> tuple[ModelRecipe, bytes]:
    """The recipe with the file that a person gave.

    Args:
        recipe: May name the file already, and its digest.
        given: The file; None for none.

    Returns:
        The recipe with the file's name and digest, which is confirmed now, and its content; b"" without one.

    Raises:
        ConfigError: The recipe names a file and none is given, or another one; or it cannot be named.
    """
    if given is None:
        if recipe.path is not None:
            raise ConfigError(
                f"the recipe's model is the Python file {recipe.path}: read it, for it will be run, "
                "then give it with --model"
            )
        return recipe, b""
    source = read_regular(given, limit=MAX_BYTES, error=ConfigError)
    digest = sha256_of(source)
    for field, found in (("path", given.name), ("sha256", digest)):
        if getattr(recipe, field) not in (None, found):
            raise ConfigError(f"{given}: {field} is {found}, the recipe says {getattr(recipe, field)}")
    fields = {**recipe.model_dump(), "architecture": "file", "path": given.name, "sha256": digest}
    try:
        named = ModelRecipe.model_validate(fields)
    except ValidationError:
        raise ConfigError(
            f"model file {shown(given.name)}: allowed are names of letters, digits and _ that end in .py"
        ) from None
    confirmed.note(_FOLDER, digest)  # of what was read: the file may be another by now
    return named, source


def confirm(given: Path) -> Sha256:
    """Note that this user has read a model file, and wants it run where a project names its digest.

    Raises:
        ConfigError: It cannot be read, or nothing can be noted.
    """
    digest = sha256_of(read_regular(given, limit=MAX_BYTES, error=ConfigError))
    confirmed.note(_FOLDER, digest)
    return digest


def confirmed_source(recipe: ModelRecipe, folder: Path) -> bytes:
    """As `source_of`, for whoever runs it.

    Raises:
        IntegrityError: It is missing, or not the one that was given to `init`.
        ConfigError: This user has not confirmed it on this machine.
    """
    source = source_of(recipe, folder)
    if source and not confirmed.is_noted(_FOLDER, sha256_of(source)):
        path = folder / str(recipe.path)
        raise ConfigError(
            f"{path}: this program would be run, and you have not confirmed it on this machine: "
            f"read it, then run qmu-edge confirm {path}"
        )
    return source


def source_of(recipe: ModelRecipe, folder: Path) -> bytes:
    """The model file of a project, its digest checked; b"" when the recipe names none.

    Raises:
        IntegrityError: It is missing, or not the one that was given to `init`.
    """
    if recipe.path is None:
        return b""
    path = folder / recipe.path
    source = read_regular(path, limit=MAX_BYTES, error=IntegrityError)
    digest = sha256_of(source)
    if digest != recipe.sha256:
        raise IntegrityError(f"{path}: SHA-256 is {digest}, allowed is {recipe.sha256}; it was not run")
    return source
