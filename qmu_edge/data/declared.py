"""What a network that was trained elsewhere has seen, as whoever brings it declares.

The declared samples are the training images from then on. No other sample counts as trained on: to every
measurement it is unseen, and a request for it is answered by saying so.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex, SampleSplit, move_share
from qmu_edge.errors import ConfigError, meant
from qmu_edge.io.files import read_regular
from qmu_edge.io.json import shown

REGISTERED: Final = "registered"
MAX_BYTES: Final = 1 << 30
TUNING: Final = 1 / 3  # of the test images of a class, where everything else was trained on


def declared_in(trained_on: str, index: SampleIndex) -> NDArray[np.bool_]:
    """Which samples (n,) a declaration names.

    Args:
        trained_on: "registered" for every image that is not a test image; else a file, an id in each line.
        index: As the project has it.

    Raises:
        ConfigError: The file cannot be read, names nothing, or something that is not in the index.
    """
    if trained_on == REGISTERED:
        return ~index.in_split(SampleSplit.TEST)
    try:
        text = read_regular(Path(trained_on), limit=MAX_BYTES, error=ConfigError).decode()
    except ConfigError as error:
        raise ConfigError(f"{error}{meant(trained_on, [REGISTERED])}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{trained_on}: not UTF-8 at byte {error.start}") from None
    names = [line for line in (line.strip() for line in text.splitlines()) if line]
    found = index.ids.mask(names)
    known = {index.ids[i] for i in np.flatnonzero(found).tolist()}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"{trained_on}: {len(unknown)} of {len(names)} lines are no samples of this project, first "
            f"{shown(unknown[0])}; allowed are ids such as {shown(index.ids[0])}, one in each line, or "
            f"the word {REGISTERED}"
        )
    if not known:
        raise ConfigError(f"{trained_on}: names no sample, and so there is nothing to forget")
    return found


def with_declared(index: SampleIndex, declared: NDArray[np.bool_]) -> SampleIndex:
    """The index in which exactly the declared samples (n,), and those with their pixels, are for training.

    Of the others, test samples stay test samples and the rest is for validation. Where there is no rest, a
    third of the test samples of each class is: methods are tuned on images that the network never saw.
    """
    chosen = np.flatnonzero(declared).tolist()
    train = declared | index.digests.mask({index.digests[i] for i in chosen})
    test = index.in_split(SampleSplit.TEST)
    splits = np.select([train, test], [SampleSplit.TRAIN, SampleSplit.TEST], SampleSplit.VALIDATION)
    codes = splits.astype(np.int8)
    if not (codes == SampleSplit.VALIDATION).any():
        keys = np.array(list(index.digests), dtype="S64")
        pool = np.flatnonzero(codes == SampleSplit.TEST)
        move_share(codes, pool, index.labels, keys, share=TUNING, to=SampleSplit.VALIDATION)
    return replace(index, splits=codes)
