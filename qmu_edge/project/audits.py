"""What attacks of an audit have found: sums over many images, and nothing of a single one.

One object of the store for each attack on the file of one network. It is no part of a receipt, and no gate
reads it. Numbers of images are rounded to fives; of fewer than `figures.LEAST` images nothing is stored.
"""

from dataclasses import dataclass

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256, salted
from qmu_edge.io.json import compact, parse_stored
from qmu_edge.io.plain import from_json, to_json


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; an end is None where the attack gives none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of what an attack has found.

    Attributes:
        quantity: What was measured, a fixed text of the attack.
        part: Name of the layer that it is about; "" for the file as a whole.
        original, file: Of the file before, and of the one that was released; None where it has none.
        unknowing: What a file shows that never saw the images; None where nobody knows.
    """

    quantity: str
    part: str = ""
    original: Estimate | None = None
    file: Estimate | None = None
    unknowing: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """What one attack has found on the file of one network.

    Attributes:
        attack: Its name.
        made_of: Salted digest of all that went into it.
        forgotten, unseen: Images compared, in fives.
        findings: The rows; () where `without` says why.
        without: Why nothing can be said, a fixed text of the attack; "" where something is.
        seconds: What it took.
        salt: Random text: what the ledger's chain keeps of this confirms no guess once it is gone.
    """

    attack: str
    made_of: Sha256
    forgotten: int
    unseen: int
    findings: tuple[Finding, ...] = ()
    without: str = ""
    seconds: float = 0.0
    salt: str = ""

    @classmethod
    def parse(cls, data: bytes) -> "AttackResult":
        """What `to_bytes` wrote.

        Raises:
            IntegrityError: It wrote something else.
        """
        document = parse_stored(data, "a stored audit")
        return from_json(cls, document, "a stored audit is not as it was written", error=IntegrityError)

    def to_bytes(self) -> bytes:
        """The same bytes for the same result."""
        return compact(to_json(self))

    def is_of(self, name: Sha256) -> bool:
        """Whether all of this, by its digest, went into it."""
        return self.made_of == salted(name, self.salt)
