"""When things changed: what was current until when, when requests were fulfilled and closed."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from qmu_edge.io.digest import Sha256
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import Pointer, Step

NEVER = "~"  # later than every time, as text


class History:
    """Read once from the events of a ledger. Times are RFC 3339, UTC.

    Attributes:
        requests, removals: All rows.
        noted: When each key of `meta` was last written.
        oldest_open: When the oldest open request was received; `NEVER` when none is open.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Read the events, the requests and the removals."""
        self._pointers: dict[str, list[tuple[Sha256, str]]] = defaultdict(list)
        self._first: dict[int, str] = {}
        self._last: dict[int, str] = {}
        self.noted: dict[str, str] = {}
        for at, what, body in ledger.events("current", "meta", "request"):
            if what == "current":
                self._pointers[body["key"]].append((body["digest"], at))
            elif what == "meta":
                self.noted[body["key"]] = at
            else:
                self._first.setdefault(body["key"], at)
                self._last[body["key"]] = at
        self.requests = ledger.requests()
        self.removals = ledger.removals()
        self._fulfilled = self._times_of_receipts(ledger)
        open_ones = [r for r in self.requests if not self.closed(r)]
        self.oldest_open = min((self._first[r.seq] for r in open_ones), default=NEVER)

    def _times_of_receipts(self, ledger: Ledger) -> dict[str, str]:
        """When each request was given its receipt: those of one attempt together, with the last of them."""
        switched = dict(self._pointers.get(Pointer.RECEIPT, []))
        times = {r.request_id: switched[r.digest] for r in ledger.receipts() if r.request_id is not None}
        together: dict[str, list[str]] = defaultdict(list)
        for step in ledger.all_steps():
            if step.step == Step.RECEIPTED and step.request_id in times:
                together[step.run].append(step.request_id)
        for ids in together.values():
            times.update(dict.fromkeys(ids, max(times[i] for i in ids)))
        return times

    def fulfilled(self, request: RequestRow) -> str:
        """When the request's receipt was issued; "" while it has none."""
        return self._fulfilled.get(request.request_id, "")

    def closed(self, request: RequestRow) -> str:
        """When nothing more was to be done for the request; "" while it is open."""
        return self.fulfilled(request) or ("" if request.is_open else self._last[request.seq])

    def current(self) -> dict[str, Sha256]:
        """What is current now: name to digest."""
        return {name: switches[-1][0] for name, switches in self._pointers.items()}

    def superseded(self, name: Pointer) -> Iterator[tuple[Sha256, str]]:
        """What was current under a name, and until when."""
        return ((a[0], b[1]) for a, b in pairwise(self._pointers.get(name, [])))
