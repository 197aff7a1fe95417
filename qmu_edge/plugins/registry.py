"""Plug-ins of other packages, of all kinds: found by entry points, loaded when they are named and confirmed.

An entry point of the group of a kind leads to a Python object; the page of `api/` says to which. Which ones
are installed is read from the packages' metadata, which runs nothing. One is imported only when a recipe or a
command names it, and only for a user who has confirmed it on this machine: by naming it on a command line, or
by `qmu-edge confirm KIND:NAME`. So a project that came from elsewhere runs none that its recipe names. What
is confirmed is the entry point of a package at its place; the package is trusted as every installed one is.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from qmu_edge.errors import ConfigError, QmuEdgeError
from qmu_edge.io import confirmed
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.json import shown
from qmu_edge.machine.versions import GROUPS

PREFIX: Final = "plugin:"
"""How the name of a dataset or a network begins that is a plug-in."""
_NAME: Final = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")  # a bare key of the recipe
_WORD: Final = re.compile("[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")  # what a receipt can name
_FOLDER: Final = "plugins"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One that is installed.

    Attributes:
        kind: A key of `GROUPS`.
        name: What recipes and commands call it.
        value: Where it is in its package, as "module:object".
        package, version: Of the package that brings it.
        place: The folder that the package lies in.
        point: What loads it.
    """

    kind: str
    name: str
    value: str
    package: str
    version: str
    place: str
    point: metadata.EntryPoint

    def __str__(self) -> str:
        """What messages call it."""
        return f"{self.kind} {self.name} of {self.package} {self.version}"

    @property
    def identity(self) -> Sha256:
        """Digest of what is confirmed; another version of the same package is confirmed with it."""
        return sha256_of("\0".join((self.kind, self.name, self.value, self.package, self.place)).encode())

    def load(self) -> Any:
        """The object that the entry point leads to; its package is imported.

        Raises:
            ConfigError: This user has not confirmed it, or importing it fails.
        """
        self.require_confirmed()
        with self.guarded():
            return self.point.load()

    def require_confirmed(self) -> None:
        """Nothing of it is imported.

        Raises:
            ConfigError: This user has not confirmed it.
        """
        require_confirmed([self])

    @contextmanager
    def guarded(self, error: type[QmuEdgeError] = ConfigError) -> Iterator[None]:
        """Run its code: what it raises becomes one line; stdout is reserved for the result of a command.

        Raises:
            QmuEdgeError: An `error` that names the plug-in; deliberate ones are raised as they are.
            MemoryError: None is left.
        """
        try:
            with redirect_stdout(sys.stderr):
                yield
        except (QmuEdgeError, MemoryError):
            raise
        except (Exception, SystemExit) as found:  # it is not our code
            raise error(f"{self}: {type(found).__name__}: {str(found)[:200]}") from found


def installed(kind: str) -> Mapping[str, Plugin]:
    """All plug-ins of a kind by name; nothing of them is imported.

    Raises:
        ConfigError: Two packages bring one of the same name, or a name is none of letters, digits and _.
    """
    found: dict[str, Plugin] = {}
    for point in metadata.entry_points(group=GROUPS[kind]):
        made = _of(kind, point)
        if made.name in found and made != found[made.name]:
            raise ConfigError(f"{made}: {found[made.name].package} has one of this name, too; remove one")
        found[made.name] = made
    return found


def _of(kind: str, point: metadata.EntryPoint) -> Plugin:
    where = f"entry point {shown(point.name)} = {shown(point.value)}"
    if not _NAME.fullmatch(point.name):
        raise ConfigError(f"{where}: allowed is a name of its own, of letters, digits and _")
    if (package := point.dist) is None:
        raise ConfigError(f"{where}: of no package")
    for word in (package.name, package.version):
        if not _WORD.fullmatch(word):
            raise ConfigError(f"{where}: a package called {shown(word)}, allowed is one word")
    place = str(Path(str(package.locate_file(""))).resolve())
    return Plugin(kind, point.name, point.value, package.name, package.version, place, point)


def plugin(kind: str, name: str) -> Plugin:
    """The plug-in of this kind and name.

    Raises:
        ConfigError: There is none; the message names all.
    """
    found = installed(kind)
    if name not in found:
        known = ", ".join(found) or "none"
        raise ConfigError(f"{kind} {shown(name)}: no installed package brings it; installed: {known}")
    return found[name]


def plugins(named: Iterable[tuple[str, str]]) -> list[Plugin]:
    """The plug-ins of these kinds and names, each once.

    Raises:
        ConfigError: Some are not installed; the message names all of them, and what is installed.
    """
    found, missing = dict[Plugin, None](), list[str]()
    for kind, name in dict.fromkeys(named):
        try:
            found[plugin(kind, name)] = None
        except ConfigError as error:
            missing.append(str(error))
    if missing:
        raise ConfigError("; ".join(missing))
    return [*found]


def require_confirmed(found: Sequence[Plugin]) -> None:
    """Nothing of them is imported.

    Raises:
        ConfigError: This user has not confirmed some; the message names all of them.
    """
    left = [one for one in found if not confirmed.is_noted(_FOLDER, one.identity)]
    if not left:
        return
    what, it = ("this program", "it") if len(left) == 1 else ("these programs", "them")
    confirm = " && ".join(f"qmu-edge confirm {one.kind}:{one.name}" for one in left)
    raise ConfigError(
        f"{', '.join(map(str, left))}: {what} would be run, and you have not confirmed {it} on this machine: "
        f"if you trust {it}, run {confirm}"
    )


def confirm(kind: str, name: str) -> Plugin:
    """Note that this user wants a plug-in run, because a command has named it.

    Raises:
        ConfigError: There is none, or nothing can be noted.
    """
    found = plugin(kind, name)
    confirmed.note(_FOLDER, found.identity)
    return found


def called(kind: str, name: str) -> tuple[Plugin, Any]:
    """A plug-in of a kind that is called, and what to call.

    Raises:
        ConfigError: See `Plugin.load`; or it leads to something else.
    """
    found = plugin(kind, name)
    made = found.load()
    if not callable(made):
        raise ConfigError(f"{found}: leads to {type(made).__name__}, allowed is what can be called")
    return found, made


def name_of(text: str) -> str | None:
    """The name of the plug-in that a recipe's text means; None where it means something else.

    >>> name_of("plugin:tiny"), name_of("resnet18")
    ('tiny', None)
    """
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else None
