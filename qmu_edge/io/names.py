"""Names of files that documents, rows and archives give: checked where they are read, before a path is made.

Whoever wrote "../x" or "/x" into a document would otherwise have files of whoever reads it overwritten or
removed. Standard library only, so that a device can read a bundle.
"""

import re
from typing import Final

from qmu_edge.errors import IntegrityError, QmuEdgeError
from qmu_edge.io.json import shown

_FORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def is_file_name(text: object) -> bool:
    """Whether a text names one plain file: letters, digits, ". _ -", the first no mark, at most 100.

    >>> [is_file_name(text) for text in ("model.onnx", "../model.onnx", "/model.onnx", "", ".", "a/b", 7)]
    [True, False, False, False, False, False, False]
    """
    return isinstance(text, str) and _FORM.fullmatch(text) is not None


def file_name(text: object, what: str, error: type[QmuEdgeError] = IntegrityError) -> str:
    """A text that was read, as the name of a file or folder in a folder that is known.

    Args:
        text: From anybody.
        what: What messages call the place where it stands.
        error: What to raise.

    Raises:
        QmuEdgeError: An `error`: it could lead out of the folder that it is meant for.
    """
    if not isinstance(text, str) or not is_file_name(text):
        raise error(f"{what}: {shown(text)} is no name of a file: allowed are letters, digits and . _ -")
    return text
