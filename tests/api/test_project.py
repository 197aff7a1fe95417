"""What `status` says of a project, before and after a request is fulfilled."""

from qmu_edge import api
from qmu_edge.project.project import Project
from qmu_edge.queue import lifecycle
from qmu_edge.recipe import Recipe, to_toml
from qmu_edge.store.ledger.states import Outcome, State
from tests.queue.conftest import project
from tests.queue.people import ask, bar

__all__ = ["project"]


def test_what_open_requests_bar_is_not_counted_as_deleted(project: Project) -> None:
    (project.root / "qmu.toml").write_text(to_toml(Recipe()))
    first, second = (lifecycle.register(project, ask(who)) for who in "12")

    def counted() -> tuple[int, int]:
        found = api.status(project.root)
        return found["deleted"], found["barred"]

    assert counted() == (0, 0)
    bar(project, first)
    assert counted() == (0, 10)
    with project.ledger.change():
        project.ledger.set_outcome(first.request_id, State.COMPLETED, Outcome.RETRAINED)
    bar(project, second)
    assert counted() == (10, 10)
