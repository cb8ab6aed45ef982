"""The programs that use ray-dra: Ray jobs that have said hello. The coordinator ends after the last of them."""

from __future__ import annotations

import logging

from ray_dra.errors import RayDraError
from ray_dra.ports.ray import Ray, RayView
from ray_dra.ports.store import Store
from ray_dra.translate.files.shared_records import MARK, JobPolicy, policy_from_bytes, policy_to_bytes
from ray_dra.translate.names import EVERY_JOB, LOCALITY_KEY, SESSION_KEY

logger = logging.getLogger("ray_dra")
TIDY_SECONDS = 60.0  # between two looks for what ended jobs have left


class Jobs:
    """Kept in the store, so that a coordinator that starts again knows whom it serves."""

    def __init__(self, store: Store, starter: str) -> None:
        """`starter`: the job that started the coordinator; counted from the start, as it may die before its hello."""
        self.store = store
        self._tidy_at = 0.0
        self._policies: dict[str, JobPolicy | None] = {}
        store.put(SESSION_KEY + starter, MARK)

    def enter(self, job: str, view: RayView) -> bool:
        """A job says hello; False where Ray does not list it: it could not be told from one that has ended."""
        if job not in view.jobs:
            return False
        self.store.put(SESSION_KEY + job, MARK)
        return True

    def policy(self, job: str) -> JobPolicy | None:
        """What a job's address says of its placement groups; None where it said no hello, or it cannot be read."""
        if job not in self._policies:
            data = self.store.get(LOCALITY_KEY + job)
            try:
                self._policies[job] = None if data is None else policy_from_bytes(data)
            except RayDraError as error:
                logger.warning("what was said of the placement groups of job %s: %s", job, error)
                self._policies[job] = None
        return self._policies[job]

    def set_policy(self, job: str, policy: JobPolicy) -> None:
        self.store.put(LOCALITY_KEY + job, policy_to_bytes(policy))
        self._policies[job] = policy

    def tidy(self, view: RayView, ray: Ray, now: float) -> None:
        """Forget the policies of jobs that make no placement groups any more: an actor may outlive its job, as Serve's
        controller does. Raises RayDraError when Ray does not answer."""
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_SECONDS
        for key in self.store.keys(LOCALITY_KEY):
            job = key.removeprefix(LOCALITY_KEY)
            if job not in view.jobs and job != EVERY_JOB and not ray.has_actors(job):
                self.store.delete(key)
                self._policies.pop(job, None)

    def all_ended(self, view: RayView) -> bool:
        """Whether none is left; those that have ended are forgotten."""
        known = {key.removeprefix(SESSION_KEY) for key in self.store.keys(SESSION_KEY)}
        alive = known & view.jobs
        for job in known - alive:
            self.store.delete(SESSION_KEY + job)
        return not alive
