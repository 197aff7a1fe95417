"""The commands as Python functions, under the same names; the command line is a thin layer over them.

Each takes plain values, returns a dictionary that is ready for JSON, and raises the errors of
`qmu_edge.errors`. Functions are imported when they are first asked for, and torch inside those that need it,
so that `status` and `receipt_verify` answer at once.

Call `qmu_edge.machine.processors.settle()` before torch is imported: a container with a quota then gets no
more threads than it may use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmu_edge.api.hub import push, recipients
    from qmu_edge.api.project import SOURCES, confirm, doctor, init, methods, purge, recipes, status
    from qmu_edge.api.receipts import (
        keys_export,
        keys_list,
        keys_revoke,
        keys_rotate,
        receipt_keep,
        receipt_recompute,
        receipt_schema,
        receipt_show,
        receipt_verify,
        report,
    )
    from qmu_edge.api.requests import (
        request_add,
        request_approve,
        request_deny,
        request_extend,
        request_list,
        request_new,
        request_withdraw,
    )
    from qmu_edge.api.run import adopt, audit, export, references_build, train, unlearn, verify

__all__ = (
    "SOURCES",
    "adopt", "audit", "confirm", "doctor", "export", "init", "keys_export", "keys_list", "keys_revoke",
    "keys_rotate", "methods", "purge", "push", "receipt_keep", "receipt_recompute", "receipt_schema",
    "receipt_show", "receipt_verify", "recipes", "recipients", "references_build", "report", "request_add",
    "request_approve", "request_deny", "request_extend", "request_list", "request_new", "request_withdraw",
    "status", "train", "unlearn", "verify",
)  # fmt: skip
# Where a function is, by the beginning of its name; the others are in `project`.
_PLACES = {
    "push": "hub", "recipients": "hub", "request": "requests",
    "receipt": "receipts", "report": "receipts", "keys": "receipts",
    **dict.fromkeys(("adopt", "audit", "export", "references", "train", "unlearn", "verify"), "run"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a function when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES.get(name.partition("_")[0], "project")
    return getattr(import_module(f"{__name__}.{place}"), name)


def __dir__() -> list[str]:
    """The names of all functions."""
    return [*__all__]
