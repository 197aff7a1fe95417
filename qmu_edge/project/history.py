"""When things changed: what was current until when, when requests were fulfilled and closed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TypeVar

from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import Sha256
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import Pointer, Step

NEVER = "~"  # later than every time, as text
K = TypeVar("K")
V = TypeVar("V")


class History:
    """Read once from the events of a ledger. Times are RFC 3339, UTC.

    Whatever asks for something that the ledger does not hold raises `LedgerError`: it was altered.

    Attributes:
        requests, removals: All rows.
        oldest_open: When the oldest open request was received; `NEVER` when none is open.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Read the events, the requests and the removals."""
        self._pointers: dict[str, list[tuple[Sha256, str]]] = defaultdict(list)
        self._first: dict[int, str] = {}
        self._last: dict[int, str] = {}
        self._noted: dict[str, str] = {}
        for at, what, body in ledger.events("current", "meta", "request"):
            if what == "current":
                self._pointers[body["key"]].append((body["digest"], at))
            elif what == "meta":
                self._noted[body["key"]] = at
            else:
                self._first.setdefault(body["key"], at)
                self._last[body["key"]] = at
        self.requests = ledger.requests()
        self._by_id = {row.request_id: row for row in self.requests}
        self.removals = ledger.removals()
        self._fulfilled = self._times_of_receipts(ledger)
        open_ones = [r for r in self.requests if not self.closed(r)]
        self.oldest_open = min((_known(self._first, r.seq) for r in open_ones), default=NEVER)

    def _times_of_receipts(self, ledger: Ledger) -> dict[str, str]:
        """When each request was given its receipt: those of one attempt together, with the last of them."""
        switched = dict(self._pointers.get(Pointer.RECEIPT, []))
        times = {
            r.request_id: _known(switched, r.digest) for r in ledger.receipts() if r.request_id is not None
        }
        together: dict[str, list[str]] = defaultdict(list)
        for step in ledger.all_steps():
            if step.step == Step.RECEIPTED and step.request_id in times:
                together[step.run].append(step.request_id)
        for ids in together.values():
            times.update(dict.fromkeys(ids, max(times[i] for i in ids)))
        return times

    def request(self, request_id: str) -> RequestRow:
        """The request of that id."""
        return _known(self._by_id, request_id)

    def noted(self, key: str) -> str:
        """When a key of `meta` was last written."""
        return _known(self._noted, key)

    def fulfilled(self, request: RequestRow) -> str:
        """When the request's receipt was issued; "" while it has none."""
        return self._fulfilled.get(request.request_id, "")

    def closed(self, request: RequestRow) -> str:
        """When nothing more was to be done for the request; "" while it is open."""
        return self.fulfilled(request) or ("" if request.is_open else _known(self._last, request.seq))

    def current(self) -> dict[str, Sha256]:
        """What is current now: name to digest."""
        return {name: switches[-1][0] for name, switches in self._pointers.items()}

    def superseded(self, name: Pointer) -> Iterator[tuple[Sha256, str]]:
        """What was current under a name, and until when."""
        return ((a[0], b[1]) for a, b in pairwise(self._pointers.get(name, [])))


def _known(table: Mapping[K, V], key: K) -> V:
    try:
        return table[key]
    except KeyError:
        raise LedgerError("the ledger names what it does not hold: qmu-edge doctor says what") from None
