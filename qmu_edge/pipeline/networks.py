"""The project's networks as stored checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.models.build import factory_of
from qmu_edge.models.convnets import torchvision
from qmu_edge.models.layers import Classifier, Factory, Layers, Shape
from qmu_edge.models.own import checked, factory_in
from qmu_edge.pipeline.trial import tried
from qmu_edge.plugins.registry import name_of
from qmu_edge.project.model_file import confirmed_source
from qmu_edge.project.project import Project
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import ModelRecipe, Recipe
from qmu_edge.store.objects import ObjectStore
from qmu_edge.train import checkpoint

MAX_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Networks:
    """Checkpoints of one project.

    Attributes:
        store: Where they are.
        recipe: What network it is.
        root: The user's folder, with the model file where the recipe names one.
        pretrained: Digest of the weights that retraining starts from; None to start from scratch.
    """

    store: ObjectStore
    recipe: ModelRecipe
    root: Path
    pretrained: Sha256 | None = None

    @classmethod
    def of(cls, project: Project) -> "Networks":
        """The networks of a project."""
        return cls(project.store, project.recipe.model, project.root, project.results.pretrained())

    @property
    def source(self) -> bytes | None:
        """Content of the user's own model file; None without one.

        Raises:
            IntegrityError: The file is missing, or not the one that was given to `init`.
            ConfigError: This user has not confirmed it.
        """
        return confirmed_source(self.recipe, self.root) or None

    @property
    def factory(self) -> Factory | None:
        """What makes the network, when that is one of the user's own: their file is run.

        Raises:
            IntegrityError: See `source`.
            ConfigError: The file is not confirmed, or cannot be run.
        """
        source = self.source
        return factory_in(source, self.recipe) if source else None

    def origin(self, digest: Sha256) -> checkpoint.Origin:
        """What the checkpoint of a network says about itself; the network is not built.

        Raises:
            IntegrityError: Missing, altered, or of another model.
        """
        data = self.store.get_bytes(digest, limit=MAX_BYTES)
        return checkpoint.origin_in(data, f"checkpoint {digest[:12]}", self.recipe)

    def load(self, digest: Sha256) -> tuple[Classifier, checkpoint.Origin]:
        """A network, and what its checkpoint says about itself.

        Raises:
            IntegrityError: Missing, altered, or of another model.
        """
        data = self.store.get_bytes(digest, limit=MAX_BYTES)
        return checkpoint.loads(data, f"checkpoint {digest[:12]}", self.recipe, self.factory)

    @property
    def start(self) -> Mapping[str, Tensor] | None:
        """What retraining starts from, see `qmu_edge.models.build.build`.

        Raises:
            IntegrityError: It is missing or altered.
        """
        return (
            load_tensors(self.store.get_bytes(self.pretrained, limit=MAX_BYTES)) if self.pretrained else None
        )

    def save_start(self, tensors: Mapping[str, Tensor]) -> Sha256:
        """Store what retraining is to start from."""
        return self.store.put_bytes(save_tensors(dict(tensors)))

    def save(self, model: Classifier, origin: checkpoint.Origin) -> Sha256:
        """Store a network and return its digest."""
        return self.store.put_bytes(checkpoint.dumps(model, origin))


def require_exportable(recipe: Recipe, source: bytes, *, channels: int, classes: int, size: int) -> None:
    """Refuse, before anything is trained, a network of the user's own that cannot be exported.

    A user's file is run in a process of its own first, see `qmu_edge.pipeline.trial`. Here nothing is
    computed: shapes are worked out on the device "meta", or with numbers where a file needs them.

    Args:
        recipe: Names the network.
        source: Of the user's file, which is run; b"" without one.
        channels: Of the images.
        classes: The network tells apart.
        size: Side of the images in pixels.

    Raises:
        ConfigError: It cannot be built or exported; the call and, where it is known, the line is named.
    """
    shape = Shape(channels=channels, classes=classes, size=size, mean=recipe.data.mean, std=recipe.data.std)
    if source or name_of(recipe.model.architecture):
        tried(source, recipe.model, shape)
    factory = factory_in(source, recipe.model) if source else factory_of(recipe.model)
    if factory is None:
        return
    if recipe.references.width != 1.0 and factory is torchvision:
        raise ConfigError(
            f"references.width is {recipe.references.width}; a network of torchvision takes 1 alone"
        )
    try:
        with torch.device("meta"):
            checked(factory, Layers(recipe.model), shape, lines=True)
    except ConfigError as error:
        if isinstance(error.__cause__, ConfigError):  # a call that cannot be exported, whatever its numbers
            raise
        checked(factory, Layers(recipe.model), shape, lines=True)


def origin_of(samples: ProjectSamples, method: str, parent: str = "") -> checkpoint.Origin:
    """What a new checkpoint says about itself: trained on `samples`, by `method`, from `parent`."""
    index = samples.index
    return checkpoint.Origin(
        class_names=index.class_names, size=samples.images.shape[-1], split=index.digest(),
        method=method, parent=parent,
    )  # fmt: skip
