"""The page of heat maps of an audit: which pictures it shows, and what the networks look at in them."""

from typing import Final

import numpy as np

from qmu_edge.audit.grad_cam import maps_of
from qmu_edge.audit.subject import Known, Subject
from qmu_edge.page.heat_maps import Set, Shown, heat_map_page
from qmu_edge.page.language import ENGLISH, language

PICTURES: Final = 8  # of either set


def heat_maps_of(subject: Subject, *, forgotten_too: bool) -> bytes:
    """The page of a few retained images, and of forgotten ones where they are to be seen."""
    sets: dict[Set, Known] = {"forgotten": subject.forgotten} if forgotten_too else {}
    sets["retained"] = subject.retained
    return heat_map_page({name: _shown(subject, known) for name, known in sets.items()}, language(ENGLISH))


def _shown(subject: Subject, known: Known) -> list[Shown]:
    """Some images of a set, as many classes as there are, with their maps."""
    if not len(known):
        return []
    order = np.random.default_rng(subject.seed).permutation(len(known))
    firsts = np.unique(known.labels[order], return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(order)), firsts)
    some = known.take(order[np.concatenate([np.sort(firsts), rest])[:PICTURES]])
    device = subject.means.samples(some.take(np.arange(1))).device
    before, after = (maps_of(file, some, device) for file in (subject.original, subject.file))
    return [
        Shown(image=image, before=old, after=new)
        for image, old, new in zip(some.images, before, after, strict=True)
    ]
