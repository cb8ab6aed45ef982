"""The programs that use ray-dra: Ray jobs that have said hello. The coordinator ends after the last of them."""

from __future__ import annotations

from ray_dra.ports.ray import RayView
from ray_dra.ports.store import Store
from ray_dra.translate.files.shared_records import MARK
from ray_dra.translate.names import LOCALITY_KEY, SESSION_KEY


class Jobs:
    """Kept in the store, so that a coordinator that starts again knows whom it serves."""

    def __init__(self, store: Store, starter: str) -> None:
        """`starter`: the job that started the coordinator; counted from the start, as it may die before its hello."""
        self.store = store
        store.put(SESSION_KEY + starter, MARK)

    def enter(self, job: str, view: RayView) -> bool:
        """A job says hello; False where Ray does not list it: it could not be told from one that has ended."""
        if job not in view.jobs:
            return False
        self.store.put(SESSION_KEY + job, MARK)
        return True

    def all_ended(self, view: RayView) -> bool:
        """Whether none is left; those that have ended are forgotten."""
        known = {key.removeprefix(SESSION_KEY) for key in self.store.keys(SESSION_KEY)}
        alive = known & view.jobs
        for job in known - alive:
            self.store.delete(SESSION_KEY + job)
            self.store.delete(LOCALITY_KEY + job)
        return not alive
