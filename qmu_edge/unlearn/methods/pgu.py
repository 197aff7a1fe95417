"""PGU, projected gradient unlearning: change weights orthogonally to the layer inputs of retain images.

A change of a layer's weights that is orthogonal to all inputs which retain images give the layer does not
change its outputs for them. So the forget gradient is projected onto the orthogonal complement of the
principal directions of those inputs, and no step needs a retain image. Rounding moves some of the change back
into their subspace: a run reports at its end which share of the change of the quantized weights lies there.

Source: Hoang, Rana, Gupta and Venkatesh, "Learn to Unlearn for Deep Neural Networks: Minimizing Unlearning
    Interference with Gradient Projection", WACV 2024, arXiv:2312.04095.
Differs: inputs are taken as in `input_space`, at the stride of each layer; at stride 1, as released, they are
    not those that the layer has. For classes as for samples `gamma` alone bounds the subspace; the released
    script for classes adds one direction and a smallest size. The gradient is projected after the quantizer
    has masked saturated weights and not masked again, which keeps the change of the latent weights
    orthogonal. The learning rate is ten times the paper's, under which few codes change and images at random
    are hardly forgotten; it falls in each step, not in each epoch. The run also stops when both accuracies
    are equal, and a crossing in the first epoch is kept with a note. Outputs of forgotten classes are not
    removed, so that the network keeps its shape; their rows become the mean of the others: but for rounding,
    such a logit is never the largest. As released, forget images are not augmented: the space is that of
    images as they are.
Shapes: n images, k classes.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from qmu_edge.models.calibration import quantized_weights, weight_layers
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, NotNegative, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Batch, ForgetRetain, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.input_space import basis, covariances, inside, load, outside, save
from qmu_edge.unlearn.method import Images, Method, validation_for_samples
from qmu_edge.unlearn.stopping import Crossing


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of PGU; all but the learning rate are the paper's for ResNet18.

    Attributes:
        epochs: Passes over the forget set at most; single samples usually take far fewer.
        lr: Learning rate of the first step; plain SGD.
        final: Learning rate of the last step, relative to `lr`.
        batch: Images per step.
        gamma: Share of the sum of singular values in the protected subspace. The papers take 0.90..0.98; a
            smaller value constrains the weights less.
        margin: Added inside the logarithm of the loss, to keep it finite.
        entropy: Weight of the entropy of the prediction, which is maximised.
    """

    epochs: Count = 100
    lr: Positive = 0.5
    final: Positive = 0.2
    batch: Count = 128
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    margin: Positive = 0.05
    entropy: NotNegative = 0.2


def forget_loss(
    logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"], margin: float, entropy: float
) -> Float[Tensor, ""]:
    """Mean of -log(1 + margin - p[label]) - entropy * H(p): bounded, low where the label is unlikely.

    >>> logits, labels = torch.log(torch.tensor([[0.5, 0.5]])), torch.tensor([0])
    >>> torch.exp(-forget_loss(logits, labels, 0.1, 0.0)), torch.exp(-forget_loss(logits, labels, 0.5, 1.0))
    (tensor(0.6000), tensor(2.))
    """
    log_p = logits.float().log_softmax(1)
    p = log_p.exp()
    away = -torch.log(1.0 + margin - p.gather(1, labels[:, None])[:, 0])
    return (away + entropy * (p * log_p).sum(1)).mean()


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Where `data.state` is a file of `input_space.save` for this network and all training images, no retain
    image is read. The file is replaced by the retain set's covariances under the new network's fingerprint,
    for the next request.

    Raises:
        UnlearnError: A set is empty, the file does not cover the forget set, or the loss is not finite.
    """
    data.retain.require_some("retain")
    stored = load(data.state, model)
    if stored is None:
        retain = covariances(model, data.retain, data.progress)
    else:
        forget = covariances(model, data.forget, data.progress)
        retain = {name: stored[name] - forget[name] for name in forget}
    spaces = {f"{name}.weight": basis(c, params.gamma) for name, c in retain.items()}
    before = quantized_weights(model)
    _descend(model, data, spaces, params, generator)
    share = share_inside(before, quantized_weights(model), spaces)
    data.progress.note(f"pgu: share of the change of codes in the space of retain inputs {share:.3f}")
    if data.classes:
        remove_outputs(model, data.classes)
    if stored is not None and data.state is not None:
        save(data.state, model, retain)
    return model


def _descend(
    model: Classifier,
    data: ForgetRetain,
    spaces: dict[str, Tensor],
    params: Params,
    generator: torch.Generator,
) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in spaces)
    settings = Optimization.of(params, schedule="exponential")
    steps = params.epochs * steps_per_epoch(len(data.forget), params.batch)
    descent = Descent(model, settings, steps, data.progress)
    crossing = None if data.classes else Crossing(descent, data)

    def loss(b: Batch) -> Tensor:
        return forget_loss(model(b.images), b.labels, params.margin, params.entropy)

    data.progress.start("pgu", params.epochs * len(data.forget))
    for _ in range(params.epochs):
        train_mode(model, statistics=False)
        for b in data.forget.batches(params.batch, generator):
            flat = descent.gradient(loss, b)
            for span, view in zip(descent.spans, descent.views(flat), strict=True):
                view.copy_(outside(view, spaces[span.name]))
            descent.follow(flat, len(b))
        descent.require_finite()
        if crossing is not None and crossing.reached():
            break
    data.progress.finish()


def share_inside(
    before: dict[str, Tensor], after: dict[str, Tensor], spaces: dict[str, Tensor]
) -> Float[Tensor, ""]:
    """Norm of the component of a weight change inside the subspaces, relative to the whole; NaN for none."""
    changes = {name: after[name] - before[name] for name in spaces}
    seen = torch.stack([inside(change, spaces[name]).norm() for name, change in changes.items()])
    whole = torch.stack(torch._foreach_norm(list(changes.values())))
    share: Tensor = seen.norm() / whole.norm()
    return share


@torch.no_grad()
def remove_outputs(model: Classifier, classes: tuple[int, ...]) -> None:
    """Give the outputs of these classes the mean of the rows and biases of all others."""
    head: Any = dict(weight_layers(model))["head"]
    forgotten = torch.tensor(classes, device=head.weight.device)
    kept = torch.ones(len(head.weight), dtype=torch.bool, device=forgotten.device).index_fill_(
        0, forgotten, False
    )
    for rows in (head.weight, *([] if head.bias is None else [head.bias])):
        rows[forgotten] = rows[kept].mean(0)


def work(params: Params) -> Passes:
    """Retain inputs once, though they may be stored; all epochs, though runs on samples mostly end before."""
    return Passes(params.epochs * (1.0 + FORWARD_ONLY), FORWARD_ONLY)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="up the loss of the forget set, orthogonal to the inputs that retain images give a layer (PGU)",
    touches=frozenset({"weights", "head"}), reads=frozenset[Images]({"forget", "retain", "validation"}),
    check=validation_for_samples,
)  # fmt: skip
