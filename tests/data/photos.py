"""Eight small colour pictures, for every kind of source the same."""

import io
from typing import Any

import numpy as np
from PIL import Image

from qmu_edge.data.pictures import Source
from qmu_edge.data.sources import load, source_of
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import DataRecipe

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), np.uint8)
LABELS = ("cat", "dog") * 4
SPLITS = ("train",) * 4 + ("validation",) * 2 + ("test",) * 2
SUBJECTS = ("ana", "bo", "", "ana", "", "", "cy", "")


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[i]).save(file, "PNG")
    return file.getvalue()


def loaded(path: Any, **options: Any) -> Source:
    """What is read of a path, of the source that the command line takes it for."""
    kind, found = source_of(str(path))
    return load(DataRecipe.model_validate({"source": kind, "path": found, **options}), Progress())


def holds_all(source: Source, subjects: bool = True) -> bool:
    """Whether these are the pictures, in order, with their labels, splits and people."""
    names = [source.class_names[label] for label in source.labels]
    people = [" ".join(who) for who in source.subjects] if subjects else list(SUBJECTS)
    return (
        np.array_equal(source.images, PIXELS.transpose(0, 3, 1, 2)) and tuple(names) == LABELS
        and tuple(source.given) == SPLITS and tuple(people) == SUBJECTS and len(set(source.ids)) == 8
    )  # fmt: skip
