"""The commands as Python functions, under the same names; the command line is a thin layer over them.

Each takes plain values, returns a dictionary that is ready for JSON, and raises the errors of
`qmu_edge.errors`. Imports of torch stand inside the functions that need it, so that `status` and
`receipt_verify` answer at once.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, overload

from qmu_edge.data.index import Form
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.digest import sha256 as parse_sha256
from qmu_edge.io.files import AnyPath, path_of
from qmu_edge.io.progress import Progress
from qmu_edge.machine.versions import GROUPS
from qmu_edge.project.plain import Registered
from qmu_edge.project.project import Project, find, opened, search
from qmu_edge.project.recipes import recipe_text, shipped_recipes
from qmu_edge.project.recipients import Recipients
from qmu_edge.recipe import SOURCES, DataRecipe, Recipe, parse_recipe, to_toml
from qmu_edge.store.ledger.states import Pointer, Step

if TYPE_CHECKING:
    from qmu_edge.data.objects import ImageDataset
    from qmu_edge.project.purge import Purged, PurgePreview
    from qmu_edge.queue.foreseen import Verdicts
    from qmu_edge.queue.schedule import RequestStanding
    from qmu_edge.unlearn.method import Method

__all__ = ["SOURCES", "confirm", "doctor", "init", "methods", "purge", "recipes", "status"]


class NewProject(Registered):
    """A project that was made: its folder, and the recipe that was asked for."""

    project: str
    recipe: str


class LedgerHead(TypedDict):
    """How many events a ledger has, and the hash of the last."""

    events: int
    head: str


class ProjectStatus(TypedDict):
    """Where a project stands.

    Attributes:
        project: Its folder.
        dataset: Its source in the recipe.
        samples, deleted, barred: How many are registered, of these deleted, and barred by open requests.
        ledger: How far it is.
        checkpoint, release, receipt: Digests of what is current; None before.
        origin: What is to be said of where the network comes from; None when it was trained here.
        verdicts: What tests of the network can see; None where there are no references.
        take_down: Revisions on a Hub that are from before a later deletion.
        open, overdue: How many requests are.
        requests: All of them.
    """

    project: str
    dataset: str
    samples: int
    deleted: int
    barred: int
    ledger: LedgerHead
    checkpoint: Sha256 | None
    release: Sha256 | None
    receipt: Sha256 | None
    origin: str | None
    verdicts: "Verdicts | None"
    take_down: list[str]
    open: int
    overdue: int
    requests: "list[RequestStanding]"


class ConfirmedModel(TypedDict):
    """A model file, and its digest."""

    model: str
    sha256: Sha256


class ConfirmedPlugin(TypedDict):
    """A plug-in, and the package that brings it."""

    plugin: str
    package: str
    version: str


class ListedMethod(TypedDict):
    """An unlearning method, see `qmu_edge.unlearn.method.Method`, and its default parameters.

    Of another package's, category and summary alone where it was not named: it is not imported.
    """

    category: Literal["exact", "approximate"]
    summary: str
    reads: NotRequired[list[str]]
    touches: NotRequired[list[str]]
    parameters: NotRequired[dict[str, object]]


class ProcessorsJson(TypedDict):
    """`Processors`."""

    threads: int
    why: str
    dynamic: bool
    waiting: Mapping[str, str]


class Health(TypedDict):
    """What `doctor` has found.

    Attributes:
        versions: Of this package, of Python and of libraries; None for what is not installed.
        gpu: Its name; None without one.
        processors: What this process may use.
        project: Its folder. Without one there are no problems, and all that follows is missing.
        problems, repairable, repaired, ledger_holds, held_by, unnamed: See
            `qmu_edge.project.doctor.Examination`.
    """

    versions: dict[str, str | None]
    gpu: str | None
    processors: ProcessorsJson
    project: NotRequired[str]
    problems: list[str]
    repairable: NotRequired[list[str]]
    repaired: NotRequired[list[str]]
    ledger_holds: NotRequired[bool]
    held_by: NotRequired[str | None]
    unnamed: NotRequired[int]


def init(
    folder: AnyPath,
    *,
    dataset: "AnyPath | ImageDataset | Mapping[str, ImageDataset]" = "digits",
    recipe: AnyPath | None = None,
    data_path: AnyPath | None = None,
    subjects: AnyPath | None = None,
    previous: AnyPath | None = None,
    model: AnyPath | None = None,
    weights_from: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> NewProject:
    """Register a dataset and make a project of `folder`.

    Args:
        folder: The user's folder; this path and all others are `Path`s or text.
        dataset: One of `SOURCES`, "torchvision:NAME", a folder or file of images (see `data/README.md`), or
            "plugin:NAME" of another package, which is confirmed by naming it here. Or an object with
            `__len__` and `__getitem__`, or several by split: "train", "validation", "test".
        recipe: Name of a shipped recipe, or a TOML file; None for "digits-resnet18-w4a4" where the dataset is
            "digits", and "photos-resnet18-w4a4-small" elsewhere.
        data_path: Where torchvision keeps its downloads; what a plug-in is given.
        subjects: CSV file `sample,subject`.
        previous: An earlier project of the same data: what was deleted there is refused here.
        model: A Python file that makes the network: it is copied, and run by whatever needs the network. Or
            the name of an architecture, also "plugin:NAME" of another package, which is confirmed by that.
        weights_from: OWNER/NAME@COMMIT:FILE on a Hugging Face Hub: weights that are fetched into `folder`,
            for `adopt`. The commit is a full hash, the file is safetensors. Needs `sha256`.
        sha256: Digest of that file.
        progress: Silent when None.
    """
    from qmu_edge.data.sources import source_of
    from qmu_edge.pipeline.plugged import named_by
    from qmu_edge.plugins.registry import confirm as confirm_plugin
    from qmu_edge.plugins.registry import name_of, plugin, plugins
    from qmu_edge.project.create import create, require_room
    from qmu_edge.project.model_file import chosen_model

    folder = Path(folder)
    if isinstance(dataset, Path):
        dataset = os.path.join(os.curdir, dataset)  # a folder, though it be called as a set is
    photos = "digits-resnet18-w4a4" if dataset == "digits" else "photos-resnet18-w4a4-small"
    chosen_recipe = str(recipe or photos)
    found = parse_recipe(recipe_text(chosen_recipe), chosen_recipe)
    objects = None if isinstance(dataset, str) else dataset if isinstance(dataset, Mapping) else {"": dataset}
    kind, path = source_of(dataset) if isinstance(dataset, str) else ("object", None)
    plugins(named_by(found))  # what is not installed is said before anything is registered
    for what, named in (("dataset", kind), ("network", str(model))):
        if plug := name_of(named):  # whoever names it here wants it run
            confirm_plugin(what, plug)
    if path is None and data_path is not None:
        path = str(Path(data_path).resolve())
    data = DataRecipe.model_validate({**found.data.model_dump(), "source": kind, "path": path})
    network, source = chosen_model(found.model, model)
    if plug := name_of(network.architecture):  # the recipe may have named it
        plugin("network", plug).require_confirmed()
    chosen = Recipe.model_validate(
        {**found.model_dump(), "data": data.model_dump(), "model": network.model_dump()}
    )

    def require(form: Form, classes: int) -> None:
        from qmu_edge.pipeline.networks import require_exportable

        channels, _, size = form.shape
        require_exportable(chosen, source, channels=channels, classes=classes, size=size)

    weights = None
    if weights_from is not None or sha256 is not None:
        require_room(folder, chosen, source)
        weights = _fetched(folder, weights_from, sha256, progress or Progress())
    made = create(
        folder, chosen, path_of(subjects), progress or Progress(), previous=path_of(previous), model=source,
        objects=objects, require=require if model is not None or plug else None,
    )  # fmt: skip
    if weights is not None:
        made["weights"] = str(weights)
    return {"project": str(folder), "recipe": chosen_recipe, **made}


def _fetched(folder: Path, asked: str | None, digest: str | None, progress: Progress) -> Path:
    """The file of weights of a Hub; before the project is made, so that a second try finds it there."""
    from qmu_edge.export.hub import HubFile, fetch

    if asked is None or digest is None:
        raise ConfigError("init --from OWNER/NAME@COMMIT:FILE and --sha256 DIGEST go together")
    file, expected = HubFile.parse(asked), parse_sha256(digest, "--sha256", ConfigError)
    progress.note(f"fetching {file}")
    return fetch(file, expected, folder)


def status(project: AnyPath | None = None) -> ProjectStatus:
    """Where the project stands: current objects, requests with their deadlines, what comes next."""
    from qmu_edge.queue.foreseen import by_number
    from qmu_edge.queue.schedule import may_retrain, standing

    with _project(project, None) as found:
        ledger = found.ledger
        known = found.results.sensitivity()
        deleted = {name for name, _ in ledger.barred(besides=ledger.open_details(Step.TOMBSTONED))}
        requests = standing(
            ledger, found.recipe.policy, datetime.now(UTC), retrain=may_retrain(found.results, found.recipe)
        )
        return {
            "project": str(found.root),
            "dataset": found.recipe.data.source,
            "samples": ledger.sample_count(),
            "deleted": len(deleted),
            "barred": len(ledger.tombstones() - deleted),
            "ledger": {"events": ledger.event_count(), "head": ledger.head()},
            "checkpoint": ledger.current(Pointer.CHECKPOINT),
            "release": ledger.current(Pointer.RELEASE),
            "receipt": ledger.current(Pointer.RECEIPT),
            "origin": found.results.origin() or None,
            "verdicts": by_number(known, found.results, found.recipe) if known else None,
            "take_down": [*map(str, Recipients(ledger).superseded())],
            "open": sum(r["next"] is not None for r in requests),
            "overdue": sum(r["overdue"] for r in requests),
            "requests": requests,
        }


@overload
def purge(
    project: AnyPath | None = None, *, now: bool = False, dry_run: Literal[False] = False
) -> "Purged": ...
@overload
def purge(project: AnyPath | None = None, *, now: bool = False, dry_run: Literal[True]) -> "PurgePreview": ...
@overload
def purge(project: AnyPath | None = None, *, now: bool = False, dry_run: bool) -> "Purged | PurgePreview": ...
def purge(
    project: AnyPath | None = None, *, now: bool = False, dry_run: bool = False
) -> "Purged | PurgePreview":
    """Remove superseded checkpoints and everything else made of deleted data, after the retention window.

    Args:
        project: Folder of the project.
        now: Do not wait for the window; what is current or needed by an open request stays.
        dry_run: Only say what would be removed, and each request's checklist.
    """
    from qmu_edge.project.purge import preview
    from qmu_edge.project.purge import purge as run

    moment = datetime.now(UTC)
    with _project(project, None) as found:
        if dry_run:
            return preview(found, moment, at_once=now)
        with found.locked():
            return run(found, moment, at_once=now)


@overload
def confirm(what: Path) -> ConfirmedModel: ...
@overload
def confirm(what: str) -> ConfirmedModel | ConfirmedPlugin: ...
def confirm(what: AnyPath) -> ConfirmedModel | ConfirmedPlugin:
    """Note that you want a program run where a project on this machine names it.

    Args:
        what: A model file, which you have read; or "KIND:NAME" of a plug-in of a package that you trust, as
            "observer:tensorboard".
    """
    from qmu_edge.plugins.registry import confirm as confirm_plugin
    from qmu_edge.project.model_file import confirm as noted

    kind, _, name = str(what).partition(":")
    if isinstance(what, Path) or kind not in GROUPS:
        return {"model": str(what), "sha256": noted(Path(what))}
    found = confirm_plugin(kind, name)
    return {"plugin": f"{kind}:{name}", "package": found.package, "version": found.version}


def methods(name: str | None = None) -> dict[str, ListedMethod]:
    """The unlearning methods by name.

    Args:
        name: Of the only one; another package's is imported then, if you have confirmed it.
    """
    from qmu_edge.plugins.registry import installed
    from qmu_edge.unlearn.registry import METHODS, method

    if name is not None:
        return {name: _described(name, method(name))}
    own = {key: _described(key, one) for key, one in METHODS.items()}
    others = {
        key: ListedMethod(category="approximate", summary=f"of the package {one.package} {one.version}")
        for key, one in installed("method").items()
    }
    return {**others, **own}


def _described(name: str, method: "Method") -> ListedMethod:
    from qmu_edge.unlearn.registry import parameters

    return {
        "category": method.category, "summary": method.summary,
        "reads": sorted(method.reads), "touches": sorted(method.touches),
        "parameters": _defaults(parameters(name, {}, Recipe().train)),
    }  # fmt: skip


def _defaults(params: Any) -> dict[str, object]:
    names = params.__dataclass_fields__
    return {n: "the recipe's [train]" if n == "train" else getattr(params, n) for n in names}


def recipes(name: AnyPath | None = None) -> dict[str, str]:
    """The recipes that come with the package; or one, or a TOML file, with every value written out.

    Args:
        name: Of a recipe, or path of a TOML file; None for the list.
    """
    if name is None:
        return shipped_recipes()
    asked = str(name)
    return {"recipe": asked, "toml": to_toml(parse_recipe(recipe_text(asked), asked))}


def doctor(project: AnyPath | None = None, *, repair: bool = False) -> Health:
    """Versions, GPU, threads, and the integrity of all that a project stores; see `qmu_edge.project.doctor`.

    Args:
        project: Its folder; found upwards from here when None, and without one only versions are told.
        repair: Do what is safe to do about the problems.
    """
    from qmu_edge.machine.processors import processors
    from qmu_edge.machine.versions import versions
    from qmu_edge.project.doctor import examine

    used = processors()
    threads: ProcessorsJson = {
        "threads": used.threads, "why": used.why, "dynamic": used.dynamic, "waiting": dict(used.waiting),
    }  # fmt: skip
    root = find(project) if project else search()
    if root is None:
        return {"versions": versions(), "gpu": _gpu(), "processors": threads, "problems": []}
    return {
        "versions": versions(), "gpu": _gpu(), "processors": threads, "project": str(root),
        **examine(root, repair=repair),
    }  # fmt: skip


def _gpu() -> str | None:
    try:
        from qmu_edge.runtime.device import gpu_name
    except ImportError:  # PyTorch is not installed
        return None
    return gpu_name()


def _project(
    folder: AnyPath | None, progress: Progress | None, wait_s: float = 0.0
) -> AbstractContextManager[Project]:
    return opened(find(folder), progress or Progress(), wait_s)
