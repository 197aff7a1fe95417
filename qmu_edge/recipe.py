"""Every number of a run, from one TOML file: data, model, training, unlearning, policy.

A project keeps its recipe in `qmu.toml`; the shipped ones are in `qmu_edge/recipes`. Unknown keys are
errors, because a misspelt threshold that silently falls back to its default is how a wrong verdict is made.
The method's own parameters (`[unlearn.<method>]`) are checked by that method's `Params`, which needs torch.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import PATTERN, Sha256, sha256_of
from qmu_edge.io.json import compact, join, shown
from qmu_edge.io.toml import pairs, parse_toml, value_text

Bits = Annotated[int, Field(ge=2, le=8)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Limit = Fraction | Literal["off"]
Count = Annotated[int, Field(ge=1)]
Word = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]{0,63}$")]  # a bare key of TOML
RETRAIN: Final = "retrain"  # the exact method, the last rung of every ladder
# Of `[policy]`: limits that were held against numbers that say nothing about one person; passed over now.
RETIRED: Final = frozenset({"reference", "max_fa_gap", "max_mia_auc_gap"})


class _Section(BaseModel):
    """A table of the recipe: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Without newer fields at their default: trainings and references are named by a digest of it."""
        passed_over = {name for of, name in _NEWER if type(self) is type(getattr(_DEFAULTS, of))}
        for name, value in super().__repr_args__():
            if name not in passed_over or value != type(self).model_fields[str(name)].default:
                yield name, value


SOURCES: Final = ("digits", "cifar10", "cifar100", "svhn", "fashion_mnist")
"""Datasets that are known by name."""


_PLUGIN: Final = "^plugin:[A-Za-z][A-Za-z0-9_]{0,63}$"


class DataRecipe(_Section):
    """Where the images come from and how the network sees them.

    Attributes:
        source: The page of `data/` says what each is.
        path: The folder or file, or where torchvision downloads to.
        size: Side in pixels to which images are resized; 0 keeps the size of the first image.
        fit: Images that are not square are resized by "stretch", or by "crop" to their middle.
        mean, std: Normalisation per channel in units of 0..1, written into the exported file. They are
            constants, not statistics of the data: what was computed from a deleted image would stay.
        pad: Pixels of padding for the random crop of the training images; 0 for none.
        flip: Random horizontal flips of the training images.
        crop_area: Smallest part of an image that a random crop keeps, which is then resized; 1 for none.
        jitter: Brightness, contrast and colourfulness of the training images vary by up to this part.
        hue: So does the hue, by up to this part of the colour circle.
        rand_ops: How many operations of RandAugment (shears, turns, shifts, colours) change each training
            image; 0 for none.
        rand_level: How strong they are, of 30.
        memory_gb: Image sets larger than this stay on disk and are streamed; a larger .npz is refused.
        disk_gb: `init` refuses sets of files whose decoded images take more than this.
    """

    source: (
        Literal[
            "digits", "cifar10", "cifar100", "svhn", "fashion_mnist",
            "folder", "csv", "parquet", "tar", "arrays", "object",
        ]
        | Annotated[str, Field(pattern="^torchvision:[A-Za-z0-9_]{1,60}$")]
        | Annotated[str, Field(pattern=_PLUGIN)]
    ) = "digits"  # fmt: skip
    path: str | None = None
    size: Annotated[int, Field(ge=0, le=1024)] = 0
    fit: Literal["stretch", "crop"] = "stretch"
    mean: tuple[float, ...] = Field(default=(0.5,), strict=False)
    std: tuple[Positive, ...] = Field(default=(0.25,), strict=False)
    pad: Annotated[int, Field(ge=0, le=64)] = 0
    flip: bool = False
    crop_area: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    jitter: Fraction = 0.0
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    rand_ops: Annotated[int, Field(ge=0, le=16)] = 0
    rand_level: Annotated[int, Field(ge=0, le=30)] = 9
    memory_gb: Positive = 4.0
    disk_gb: Positive = 100.0


Architecture = Literal[
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0", "squeezenet1_1",
    "allcnn", "small_vgg", "vit", "file",
]  # fmt: skip
ARCHITECTURES: Final = tuple(name for name in get_args(Architecture) if name != "file")


class ModelRecipe(_Section):
    """The network and its quantizers.

    Attributes:
        architecture: A ready network ("resnet18"; the page of `models/` lists them), "torchvision:NAME" for
            torchvision's network of that name, "plugin:NAME" for that of another package, or "file" for a
            Python file of the user's own.
        path: Name of that file in the project's folder.
        sha256: Its digest, written by `init`; another content is never run.
        stem: "cifar" (3x3 stride 1, for 32x32 images) or "imagenet".
        width: Multiplies all channel counts.
        weight_bits: Bits of the weights of inner layers.
        activation_bits: Bits of the activations, or "float".
        edge_bits: Bits of the first and last layer and of what enters them, or "float".
        reduce_range: Weights of 8 bits use 7 of them, as in onnxruntime: processors without VNNI add two
            products of 8 bits in 16, and would clip the sum. Recipes that are older do not have it.
        residual_bits: Bits of the signed tensors that meet in an addition, where activations are quantized.
        quantizer: A preset of `qmu_edge.models.quantizers.presets`.
        activation_steps: "power_of_two" keeps the steps of activations on powers of two, which makes
            the exported file agree with the network to the bit; "free" leaves them as they are learned.
    """

    architecture: (
        Architecture
        | Annotated[str, Field(pattern="^torchvision:[a-z0-9_]{1,60}$")]
        | Annotated[str, Field(pattern=_PLUGIN)]
    ) = "resnet18"
    path: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,59}\.py$")] | None = None
    sha256: Annotated[Sha256, Field(pattern=f"^{PATTERN}$")] | None = None
    stem: Literal["cifar", "imagenet"] = "cifar"
    width: Annotated[float, Field(gt=0.0, le=8.0)] = 1.0
    weight_bits: Bits = 4
    activation_bits: Bits | Literal["float"] = 4
    edge_bits: Bits | Literal["float"] = 8
    reduce_range: bool = False
    residual_bits: Bits = 8
    quantizer: Literal["learned_step", "statistics", "pact", "dsq"] = "learned_step"
    activation_steps: Literal["power_of_two", "free"] = "power_of_two"

    @model_validator(mode="after")
    def _file(self) -> "ModelRecipe":
        if (self.architecture == "file") != (self.path is not None) or (self.sha256 and not self.path):
            raise ValueError('architecture "file" needs a path, and no other has a path or a sha256')
        return self

    def unquantized(self) -> "ModelRecipe":
        """The same network with float activations; weights are float without their quantizers."""
        changes = {"activation_bits": "float", "edge_bits": "float", "quantizer": "learned_step"}
        return self.model_copy(update=changes)


class TrainRecipe(_Section):
    """Quantization-aware training with a cosine schedule.

    Attributes:
        epochs: Passes over the training images.
        batch: Images per step. A training needs two; where one would be left alone, a step takes it too.
        lr: Highest learning rate, reached after `warmup` epochs.
        warmup: Epochs of linear warm-up.
        optimizer: "sgd" or "adamw".
        momentum: Of SGD.
        weight_decay: Acts on weights only, never on steps or batch-norm; and on what the quantizers pact and
            dsq penalise.
        label_smoothing: The share of each label that is spread over all classes. It makes the network less
            sure of what it was trained on, and of everything else.
        mixup: Each image is mixed with another one of its batch, and both labels are asked for by their
            shares, drawn from Beta(`mixup`, `mixup`); 0 for none, as a mixed picture is of two people: how
            hard each image was is not noted then, and the method influence is refused.
        average: The network is the exponential moving average of its weights over the steps: so much of it is
            kept in each (0.99 forgets over a hundred); 0 for the last weights. `adopt` does so too.
        distillation: The share of the loss that asks for the answers of a teacher, the same network in float.
            Each run trains its own first, on its own images, and drops it, in twice the time and more; 0 for
            none. The method influence is refused. Not of `adopt`.
        temperature: Answers are softened by it.
        step_lr: Learning rate of quantizer steps, relative to `lr`.
        seed: Of initialisation, order and augmentation.
        precision: "float32", "bfloat16" (mixed), or "auto": bfloat16 where that is faster.
    """

    epochs: Count = 30
    batch: Count = 128
    lr: Positive = 0.1
    warmup: Annotated[float, Field(ge=0.0)] = 1.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    label_smoothing: Fraction = 0.0
    mixup: NotNegative = 0.0
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    distillation: Fraction = 0.0
    temperature: Positive = 4.0
    step_lr: Annotated[float, Field(ge=0.0)] = 0.1
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def shared_steps(self) -> str:
        """What makes the training's objective no sum over single images; "" where nothing does."""
        if self.distillation:
            return f"train.distillation = {self.distillation:g} asks a teacher that has seen all of them"
        return f"train.mixup = {self.mixup:g} mixes two in each" if self.mixup else ""

    @property
    def passes(self) -> float:
        """Images through a network for each image of an epoch: the teacher is trained, and then answers."""
        forward_only = 1 / 3
        return 2.0 + forward_only if self.distillation else 1.0


class AdoptRecipe(_Section):
    """How a network that was trained elsewhere becomes the project's, see `qmu-edge adopt`.

    Attributes:
        epochs: Passes over the training images after its weights have been quantized; 0 for none.
        lr: Highest learning rate of these; everything else is as in `[train]`.
        min_accuracy: Least accuracy after quantization, on test images, or validation images where there are
            none; refused below.
        retrain: Whether `[train]` says how such a network is trained. Without it there is no method retrain.
    """

    epochs: Annotated[int, Field(ge=0)] = 5
    lr: Positive = 0.01
    min_accuracy: Fraction = 0.0
    retrain: bool = True


class ReferencesRecipe(_Section):
    """Small networks that never saw an image: the verdict compares with them (`qmu_edge.verify.residual`).

    Attributes:
        trained: "once" on shards of the training images, right after the network itself: requests are quick;
            "per_request" on what is retained; "never": nothing can be said of what is left.
        count: How many; whoever asks to be forgotten is unknown to all but one.
        epochs: Of their training; as many as the network's own when nothing is said.
        width: Of their layers, relative to the network's own.
    """

    trained: Literal["once", "per_request", "never"] = "once"
    count: Annotated[int, Field(ge=3, le=64)] = 5
    epochs: Count | None = None
    width: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class PolicyRecipe(_Section):
    """What the exported file must reach, and what a request may do by itself.

    Shares and drops are fractions (0.05 is five points).

    Attributes:
        rungs: Methods that `unlearn` tries in this order, until the exported file of one passes; the last
            is "retrain".
        max_residual: The largest share of what the network knew of the forgotten images that may be left:
            the upper end of an interval is held against it.
        when_not_measurable: What to do where the network before could not be told from one that never saw
            the images: "retrain", or "release" and say so.
        max_ta_drop, max_ra_drop: Largest loss of accuracy on the same images; refused where the loss is
            significantly larger. "off" for no limit.
        min_agreement: Share of the parity inputs on which file and network must name the same class.
        parity_inputs: How many images the parity gate uses where a file is not exact, at least 1,000.
        evaluation_images: At most so many retain images are evaluated.
        retention_days: How long `purge` leaves what a release or a served request has superseded.
        encrypt_at_rest: Encrypt new objects (not the files that ship); `purge` then shreds their keys.
        approval_above: A request for a larger share of the training images waits until somebody has
            approved it; 0 makes every request wait.
        approval_above_total: So does every request that brings all deletions together above this share.
        retrain_above: When a larger share of the training images was deleted since the network was last
            trained from scratch, approximate methods are not used: the method is retrain.
        near_duplicates: What to do where retained images look like forgotten ones: "warn", "refuse" (before
            anything is barred), or "off", not to look. `init --previous` treats images alike that look
            like deleted ones.
        deleted_class: What becomes of the output of a class that was deleted whole: "blank", it stays, called
            "removed"; or "remove", it is taken out of the files that ship (the page of `export/` says more).
        keep_thumbnails: Keep a thumbnail of every deleted image (8 x 8 greys), for good, so that a project
            which names this one as `--previous` notices the picture after the image was purged.
    """

    rungs: Annotated[tuple[Word, ...], Field(strict=False, min_length=1, max_length=16)] = (
        "held_out_match",
        RETRAIN,
    )
    max_residual: Fraction = 0.25
    when_not_measurable: Literal["retrain", "release"] = "retrain"
    max_ta_drop: Limit = 0.02
    max_ra_drop: Limit = 0.05
    min_agreement: Fraction = 0.999
    parity_inputs: Annotated[int, Field(ge=1000)] = 1000
    evaluation_images: Count = 10_000
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 30
    encrypt_at_rest: bool = False
    approval_above: Limit = 0.25
    approval_above_total: Limit = 0.5
    retrain_above: Limit = 0.5
    near_duplicates: Literal["warn", "refuse", "off"] = "warn"
    deleted_class: Literal["blank", "remove"] = "blank"
    keep_thumbnails: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if k not in RETIRED} if isinstance(given, dict) else given

    @field_validator("rungs")
    @classmethod
    def _ends_exactly(cls, rungs: tuple[str, ...]) -> tuple[str, ...]:
        if rungs[-1] != RETRAIN or len(set(rungs)) < len(rungs):
            raise ValueError(f"each method once, and {RETRAIN} last")
        return rungs


class PluginsRecipe(_Section):
    """What other packages plug in beside data, network and methods; the page of `api/` says how.

    Attributes:
        metrics: Are measured on the released file, for report and receipt; no gate reads them.
        observers: Are told of every epoch. What they write lies outside of what a purge reaches.
    """

    metrics: Annotated[tuple[Word, ...], Field(strict=False, max_length=16)] = ()
    observers: Annotated[tuple[Word, ...], Field(strict=False, max_length=16)] = ()


# Fields that recipes did not have when the first ones were named by their digest.
_NEWER: Final = (
    ("data", "fit"), ("data", "disk_gb"), ("data", "crop_area"), ("data", "jitter"), ("data", "hue"),
    ("data", "rand_ops"), ("data", "rand_level"), ("train", "optimizer"), ("train", "label_smoothing"),
    ("train", "mixup"), ("train", "average"), ("train", "distillation"), ("train", "temperature"),
    ("policy", "near_duplicates"), ("policy", "deleted_class"), ("policy", "keep_thumbnails"),
)  # fmt: skip


class Recipe(_Section):
    """One run, whole."""

    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    train: TrainRecipe = TrainRecipe()
    adopt: AdoptRecipe = AdoptRecipe()
    unlearn: dict[Word, dict[Word, bool | int | float | str]] = Field(default_factory=dict)
    references: ReferencesRecipe = ReferencesRecipe()
    policy: PolicyRecipe = PolicyRecipe()
    plugins: PluginsRecipe = PluginsRecipe()

    def digest(self) -> Sha256:
        """SHA-256 of the stored JSON form, without newer fields at their default: its name in receipts."""
        document = self.model_dump(mode="json")
        for section, known in (("adopt", AdoptRecipe()), ("plugins", PluginsRecipe())):
            if getattr(self, section) == known:
                del document[section]
        for section, name in _NEWER:
            if getattr(getattr(self, section), name) == getattr(getattr(_DEFAULTS, section), name):
                del document[section][name]
        return sha256_of(compact(document))


_DEFAULTS: Final = Recipe()


def parse_recipe(text: str, source: str) -> Recipe:
    """Read a recipe from TOML.

    Args:
        text: The TOML document.
        source: What to call it in an error.

    Raises:
        ConfigError: Not TOML, an unknown key, or a value out of range.
    """
    document = parse_toml(text, source)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = reduce(join, first["loc"], "")
        raise ConfigError(f"{source}: {where}: {first['msg']}, found {shown(first['input'])}") from None


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, every value written out, so that `qmu.toml` hides no default.

    >>> parse_recipe(to_toml(Recipe()), "text") == Recipe()
    True
    """
    document = recipe.model_dump(mode="json", exclude_none=False)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    lines = [f"{key} = {value_text(v)}" for key, v in document.items() if key not in tables]
    for name, table in tables.items():
        if name == "unlearn":
            continue
        lines += ["", f"[{name}]", *pairs(table)]
    for name, table in recipe.unlearn.items():
        lines += ["", f"[unlearn.{name}]", *pairs(table)]
    return "\n".join(lines) + "\n"
