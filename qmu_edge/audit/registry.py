"""All attacks by name, the cheap ones first."""

from typing import Final

from qmu_edge.audit import (
    bavaria,
    bits,
    features,
    grad_cam,
    lira,
    pair,
    relearn,
    relearn_retain,
    retain,
    rmia,
    shadow,
    weights,
)
from qmu_edge.audit.attack import Attack
from qmu_edge.errors import ConfigError

ATTACKS: Final[dict[str, Attack]] = {
    "rmia": rmia.ATTACK,
    "lira": lira.ATTACK,
    "retain": retain.ATTACK,
    "pair": pair.ATTACK,
    "weights": weights.ATTACK,
    "features": features.ATTACK,
    "grad-cam": grad_cam.ATTACK,
    "relearn": relearn.ATTACK,
    "relearn-retain": relearn_retain.ATTACK,
    "bits": bits.ATTACK,
    "bavaria": bavaria.ATTACK,
    "shadow": shadow.ATTACK,
}


def named(names: tuple[str, ...]) -> dict[str, Attack]:
    """The attacks of these names, in the registry's order; all of them for no name.

    Raises:
        ConfigError: There is no such attack.
    """
    for name in names:
        if name not in ATTACKS:
            raise ConfigError(f"--attack {name!r}: allowed are {', '.join(ATTACKS)}")
    return {name: attack for name, attack in ATTACKS.items() if not names or name in names}
