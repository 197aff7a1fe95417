"""Every deliberate error of qmu-edge: one class per exit code, caught in one place (the command line).

A message names the subject, the value found, the value allowed and, where there is one, the file.

    QmuEdgeError                 1  never raised itself: a bug has no class of its own
      ConfigError                2  usage, configuration or environment (a full disk, no GPU)
      RequestError               3  the request cannot be honoured as written
        NoMatchError             3  nothing in the sample index answers to it
      IntegrityError             4  something stored is missing or altered
      UnlearnError               5  a method diverged, or cannot serve this model or scenario
      ExportError                6  the exported graph is wrong (parity, latent weights, checker)
      VerificationFailed         7  everything ran and a threshold is not met
        NotMeasurable            7  of what is left nothing could be said
      LedgerError                8  the ledger or a receipt does not hold
      BusyError                  9  another process holds the store
"""

from collections.abc import Iterable
from typing import ClassVar, Final

FEW: Final = 8  # of many that are named
LONGEST: Final = 200  # of names that are compared: it takes the product of both lengths


def printable(text: str) -> str:
    r"""A text in which nothing steers a terminal, turns what stands around it, or begins a line of its own.

    Whatever is printed goes through here: values of a ledger, a receipt, a model file may be from anybody.

    >>> printable("a" + chr(27) + "[2J" + chr(13) + chr(0x202E) + "b")
    'a\\x1b[2J\\r\\u202eb'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def few(parts: Iterable[str], most: int = FEW) -> str:
    """The first of many, and how many more there are.

    >>> few(["a", "b"]), few("abcdef", 4)
    ('a, b', 'a, b, c, d and 2 more')
    """
    every = [*parts]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def meant(word: str, known: Iterable[str]) -> str:
    """What was probably meant by a word that is not known, to end a message with; "" where none is near.

    >>> meant("haed", ["head", "body"]), meant("x", ["head"]), meant("x" * 999, ["x" * 999])
    ("; did you mean 'head'?", '', '')
    """
    from difflib import get_close_matches  # which only a mistake needs

    words = [name for name in known if len(name) <= LONGEST]
    near = get_close_matches(word, words, n=1) if len(word) <= LONGEST else []
    return f"; did you mean {near[0]!r}?" if near else ""


class QmuEdgeError(Exception):
    """Base of all deliberate errors; `exit_code` is what the command ends with."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        r"""The message in one line; what it quotes from a file cannot steer a terminal or fake a log.

        >>> str(ConfigError("found 'a" + chr(27) + "[2J' in\nb"))
        "found 'a\\x1b[2J' in b"
        """
        return printable(" ".join(super().__str__().splitlines()))


class ConfigError(QmuEdgeError):
    """Usage, configuration or environment: a bad recipe, no dataset, no GPU, a full disk."""

    exit_code = 2


class RequestError(QmuEdgeError):
    """The deletion request cannot be honoured as written.

    Attributes:
        reason: A fixed word for the ledger, when the request itself was understood; else "".
    """

    exit_code = 3

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        """Say what is wrong, and the word that the ledger keeps of it."""
        super().__init__(message)
        self.reason = reason


class NoMatchError(RequestError):
    """Nothing in the sample index answers to the request."""

    def __init__(self, message: str = "", *, reason: str = "no_match") -> None:
        """Say what was looked for."""
        super().__init__(message, reason=reason)


class IntegrityError(QmuEdgeError):
    """Something stored (checkpoint, dataset, model file) is missing or altered."""

    exit_code = 4


class UnlearnError(QmuEdgeError):
    """A method diverged, or cannot serve this model or scenario."""

    exit_code = 5


class ExportError(QmuEdgeError):
    """The exported graph is wrong: parity, latent weights, checker, foreign operators."""

    exit_code = 6


class VerificationFailed(QmuEdgeError):
    """Everything ran, and a threshold of the policy is not met."""

    exit_code = 7


class NotMeasurable(VerificationFailed):
    """Everything ran, and of what is left nothing could be said; no measured value misses its limit."""


class LedgerError(QmuEdgeError):
    """The ledger or a receipt does not hold."""

    exit_code = 8


class BusyError(QmuEdgeError):
    """Another process holds the store."""

    exit_code = 9
