"""Does the fast path make the same networks as Brevitas' own layers?

On scikit-learn's digits, over seeds: training from the same initial weights (learned steps, whose gradients
are summed in another order), then one epoch of fine-tuning from the same checkpoint (frozen steps). Test
accuracies, and the share of integer codes that differ. In float32: under bfloat16 Brevitas' layers divide by
the step and sum its gradient in bfloat16 as well, ours in float32.

    python bench/agreement.py [--seeds 0 1 2] [--epochs 5] [--precision float32] [--threads 1]
"""

import argparse
import copy
from collections.abc import Callable
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from shared.record import write
from speed import LONG, stock

from qmu_edge.audit.codes import code_changes, integer_codes
from qmu_edge.data.index import assign_splits, content_digests
from qmu_edge.data.sources import load
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import DataRecipe, ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, Samples, on_device
from qmu_edge.train.fit import accuracy, fit
from qmu_edge.train.loop import Descent, Optimization, cross_entropy

Way = Callable[[Classifier], Any]
PATHS: dict[str, Way] = {"fast": lambda model: model, "brevitas": stock}


def trained(path: Way, architecture: str, train: Samples, recipe: TrainRecipe) -> Classifier:
    """A network trained on that path; the same weights and batches for every path."""
    wanted = ModelRecipe.model_validate({"architecture": architecture, "width": 0.25})
    model = build(wanted, Shape(channels=1, classes=10), recipe.seed)
    fit(path(model), train, recipe, Augment(), progress=Progress())
    return model


def tuned(path: Way, model: Classifier, train: Samples, recipe: TrainRecipe) -> Classifier:
    """The network after an epoch of fine-tuning, as `finetune` does it, on that path."""
    model = copy.deepcopy(model)
    settings = Optimization(epochs=1, lr=0.01, momentum=0.9, weight_decay=5e-4, precision=recipe.precision)
    descent = Descent(path(model).train(), settings, LONG, Progress())
    batches = train.batches(recipe.batch, torch.Generator().manual_seed(recipe.seed))
    descent.epoch(cross_entropy(descent.model), batches)
    return model.eval()


def differing(a: Classifier, b: Classifier) -> float:
    """Share of all integer codes of weights that differ."""
    return code_changes(integer_codes(a), integer_codes(b))["all"].flipped


def main() -> None:
    """Both networks, all seeds; write bench/results/agreement.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = load(DataRecipe(source="digits", size=16), Progress())
    splits = assign_splits(source.labels, content_digests(source.images), source.given)
    everything = on_device(source.images, source.labels, torch.device("cpu"), limit_bytes=2**40)
    train, test = (everything.take(torch.from_numpy(np.flatnonzero(splits == code))) for code in (0, 2))
    results: dict[str, Any] = {}
    for architecture in ("resnet18", "mobilenet_v2"):
        found: dict[str, list[float]] = {"fast": [], "brevitas": [], "codes": [], "tuned_codes": []}
        for seed in options.seeds:
            recipe = TrainRecipe(
                epochs=options.epochs, batch=64, lr=0.05, seed=seed, precision=options.precision
            )
            models = {name: trained(path, architecture, train, recipe) for name, path in PATHS.items()}
            for name, model in models.items():
                found[name].append(accuracy(model, test))
            found["codes"].append(differing(*models.values()))
            after = [tuned(path, models["fast"], train, recipe) for path in PATHS.values()]
            found["tuned_codes"].append(differing(*after))
        results[architecture] = {
            k: {"mean": mean(v), "deviation": stdev(v), "all": v} for k, v in found.items()
        }
        print(
            architecture, {k: (round(mean(v), 4), round(stdev(v), 4)) for k, v in found.items()}, flush=True
        )
    print(write("agreement", vars(options), results))


if __name__ == "__main__":
    main()
