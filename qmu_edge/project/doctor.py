"""Is everything that a project stores still what it was? And what is safe to repair?

    objects      every one hashed; every one that the ledger names is there; those that nothing names
    ledger       SQLite's own check, the chain of events, the rows that the events vouch for, and what signed
                 receipts say of it
    images, key  the registered ones, and the model file that was given to `init`
    release      the link leads to a whole folder with the files of the current release
    leftovers    temporary files, states of trainings that nobody can go on with
    permissions  objects, keys, ledger, images and states are their owner's alone, and nobody else writes into
                 the store, the releases or the recipe

Contract. Looking takes no lock, writes nothing and never keeps a writer waiting. A repair is done under the
lock, never removes what the ledger names, and never changes the ledger or an object. Whether it has helped is
found out by looking again.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypedDict

from qmu_edge.errors import LedgerError, QmuEdgeError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import LITTER, TEMPORARY, UNFINISHED, remove_path, require_plain, unfinished
from qmu_edge.io.json import MAX_BYTES
from qmu_edge.io.progress import Progress
from qmu_edge.project.history import History
from qmu_edge.project.model_file import source_of
from qmu_edge.project.needs import Use, files_of, uses
from qmu_edge.project.project import KEYS, RECIPE, STORE, opened
from qmu_edge.project.publish import LINK, RELEASES, files_in, is_whole, papers_named, publish_current
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.receipt import receipt
from qmu_edge.recipe import ModelRecipe
from qmu_edge.store.encrypted import EncryptedStore
from qmu_edge.store.ledger import issued, keys
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer, RemovalStatus
from qmu_edge.store.lock import lock_holder, locked
from qmu_edge.store.objects import ObjectStore

# What knows people by heart. Of objects their folder: up to version 0.1 they were readable one by one.
PRIVATE: Final = tuple(
    f"{STORE}/{name}"
    for name in ("objects", "keys", "keys/**/*", "ledger.db*", "cache", "cache/*", "work", "work/*")
)
# What is shipped or believed may be read. Whoever can write into a folder can put another in its place.
SHIPPED: Final = (STORE, RECIPE, *(f"{STORE}/{RELEASES}{below}" for below in ("", "/*", "/*/*")))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in one sentence, and what may be done about it without asking.

    Attributes:
        text: Names the file.
        repair: None when only a person can decide.
        of_ledger: The ledger itself does not hold.
    """

    text: str
    repair: Callable[[], object] | None = None
    of_ledger: bool = False


class Examination(TypedDict):
    """What was found in a project.

    Attributes:
        problems: Sentences; empty when all is well.
        repairable: Those that a repair would see to.
        repaired: Those that it has seen to.
        ledger_holds: Whether none is of the ledger itself.
        held_by: Who writes just now; None when nobody does.
        unnamed: How many objects nothing names: what is left of attempts that were given up; `purge` removes
            them.
    """

    problems: list[str]
    repairable: list[str]
    repaired: list[str]
    ledger_holds: bool
    held_by: str | None
    unnamed: int


def examine(root: Path, *, repair: bool = False) -> Examination:
    """Examine the project in `root`, and repair it when asked.

    Raises:
        BusyError: Another process writes, and a repair was asked for.
        IntegrityError: A link in the store leads elsewhere: nothing was looked at.
    """
    require_plain(root / STORE)
    if not repair:
        return _told(root, *_look(root, alone=lock_holder(root / STORE) is None), repaired=[])
    before = [] if lock_holder(root / STORE) else _leftovers(root / STORE)
    with locked(root / STORE):  # which removes them
        before += _look(root, alone=True)[0]
        for problem in before:
            with suppress(QmuEdgeError, OSError):  # what has not helped is told again
                (problem.repair or _nothing)()
        after, unnamed = _look(root, alone=True)
    left = {p.text for p in after}
    repaired = [p.text for p in before if p.text not in left]
    return _told(root, after, unnamed, repaired=repaired)


def _nothing() -> None:
    """The repair of what only a person can repair."""


def _told(root: Path, found: list[Problem], unnamed: int, *, repaired: list[str]) -> Examination:
    return {
        "problems": [p.text for p in found], "repairable": [p.text for p in found if p.repair],
        "repaired": repaired, "ledger_holds": not any(p.of_ledger for p in found),
        "held_by": lock_holder(root / STORE), "unnamed": unnamed,
    }  # fmt: skip


def _look(root: Path, *, alone: bool) -> tuple[list[Problem], int]:
    """All problems, and the number of objects that nothing names.

    Unless alone, what a writer is just about is passed over: its files, and the release it switches to.
    """
    folder = root / STORE
    store = EncryptedStore(folder / "objects", folder / "keys/objects", encrypting=False)  # reads both kinds
    found, begun = [*_permissions(root)], set()
    named: dict[Sha256, list[Use]] = {}
    with ExitStack() as stack:
        try:
            project = stack.enter_context(opened(root, Progress()))
            stack.enter_context(project.ledger.snapshot())
            broken = [Problem(text, of_ledger=True) for text in project.ledger.problems()]
            found += broken
            if not broken:  # else a row may name anything, and hold a number where a text was
                begun = {r.name for r in project.ledger.removals() if r.status is RemovalStatus.STARTED}
                named = _named(project.ledger, project.results, project.store)
                found += [
                    *_dangling(project.ledger, project.store, named),
                    *_contents(project.recipe.model, project.samples, root, lambda: project.key),
                ]
                found += map(Problem, keys.problems(folder / KEYS, project.ledger))
                found += _receipts(project.ledger, project.store, named)
                if alone:
                    found += [
                        *_release(root, project.ledger, project.results, project.store),
                        *_states(folder / "work", project.ledger, project.open_training()),
                    ]
        except QmuEdgeError as error:
            found.append(Problem(str(error), of_ledger=isinstance(error, LedgerError)))
    if alone:
        found += [*_leftovers(folder), *_unfinished_bundles(root)]
    # What a killed purge has begun to remove may have lost its key: the next purge removes it.
    found = [*map(Problem, store.problems(besides=begun)), *found]
    return found, len(set(store) - named.keys()) if named and alone else 0


def _named(ledger: Ledger, results: Results, store: ObjectStore) -> dict[Sha256, list[Use]]:
    """Uses of every object; what is altered of a release is told by the store."""
    return uses(ledger, results, History(ledger), files_of(results, store, unreadable=set(store)))


def _leftovers(folder: Path) -> list[Problem]:
    return [
        Problem(f"left over from an interrupted write: {p}", partial(remove_path, p))
        for p in unfinished(folder)
    ]


def _unfinished_bundles(root: Path) -> list[Problem]:
    """Of a bundle in the project's folder; elsewhere the next export to the same place removes it."""
    found = sorted(root.glob(f"{UNFINISHED}*"))
    return [Problem(f"left over from an interrupted export: {p}", partial(remove_path, p)) for p in found]


def _dangling(ledger: Ledger, store: ObjectStore, named: dict[Sha256, list[Use]]) -> Iterator[Problem]:
    """Objects that are missing though no purge has removed them."""
    for digest in named.keys() - ledger.removed_names():
        path = store.path(digest)
        if not path.exists():
            yield Problem(f"object {digest}: {named[digest][0].by} needs it, and it is missing ({path})")


def _receipts(ledger: Ledger, store: ObjectStore, named: dict[Sha256, list[Use]]) -> Iterator[Problem]:
    """What receipts say that the ledger does not: those that it lists, and those that it may have lost."""
    listed = {row.digest for row in ledger.receipts()}
    good = {key.raw for key in keys.known(ledger) if key.reason != "compromised"}
    statements = []
    for digest in listed | (set(store) - named.keys()):
        with suppress(QmuEdgeError):  # what is damaged is told by the store; the others are no receipts
            data = store.get_bytes(digest, limit=MAX_BYTES)
            statement = receipt.loads(data, digest)
            statements += [statement] if digest in listed or receipt.signer(data) in good else []
    for problem in issued.problems(ledger, statements):
        yield Problem(f"ledger {ledger.path}: {problem}", of_ledger=True)


def _contents(
    model: ModelRecipe, samples: ProjectSamples, root: Path, key: Callable[[], bytes]
) -> Iterator[Problem]:
    for look in (key, lambda: samples.images, lambda: source_of(model, root)):
        try:
            look()
        except QmuEdgeError as error:
            yield Problem(str(error))


def _release(root: Path, ledger: Ledger, results: Results, store: ObjectStore) -> Iterator[Problem]:
    """The link and the folders of released files."""
    link, folders = root / LINK, root / STORE / RELEASES
    digest = ledger.current(Pointer.RELEASE)
    linked = link.resolve() if link.is_symlink() else None
    for folder in sorted(folders.iterdir()) if folders.is_dir() else ():
        if folder.resolve() != linked and folder.name not in LITTER and not is_whole(folder):
            yield Problem(f"{folder}: not whole, and not current", partial(remove_path, folder))
    if digest is None:
        return
    release = results.release(digest)
    files = dict(release.files)
    with suppress(QmuEdgeError):  # a damaged receipt is told by the store
        files |= papers_named(release, ledger, store)
    found = files_in(link) if link.is_dir() else {}
    if linked is None or linked.parent != folders.resolve() or not files.items() <= found.items():
        what = "not the files of the current release"
    elif not is_whole(linked):
        what = "altered"
    else:
        return
    yield Problem(f"{link}: {what}", None if _is_users(link) else lambda: _publish(root))


def _publish(root: Path) -> None:
    with opened(root, Progress()) as project:
        publish_current(root, project.store, project.ledger, project.results)


def _is_users(link: Path) -> bool:
    return link.exists() and not link.is_symlink()


def _states(work: Path, ledger: Ledger, training: str) -> Iterator[Problem]:
    """States of unfinished training; one that no command would go on with is of no use to anybody."""
    for path in sorted(work.glob("*.safetensors")):
        run, _, method = path.stem.partition("-")
        live = training.startswith(method) if run == "train" else ledger.is_open_attempt(run)
        live |= run == "reference"  # whoever trains references next goes on with it or removes it
        if not live:
            yield Problem(
                f"{path}: state of a training that nothing goes on with", partial(remove_path, path)
            )


def _permissions(root: Path) -> Iterator[Problem]:
    private, shipped = _matching(root, PRIVATE), _matching(root, SHIPPED)
    closed = [(root, 0o002), *((path, 0o077) for path in private), *((path, 0o022) for path in shipped)]
    for path, bits in closed:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & bits and not path.is_symlink():
            what = "lets others in" if mode & bits & ~0o022 else "lets others write"
            allowed = mode & ~bits
            repair = partial(path.chmod, allowed)
            yield Problem(f"{path}: mode {mode:04o} {what}; allowed is {allowed:04o}", repair)


def _matching(root: Path, patterns: Iterable[str]) -> list[Path]:
    found = (p for pattern in patterns for p in sorted(root.glob(pattern)))
    return [p for p in found if p.name not in LITTER and not p.name.startswith(TEMPORARY)]
