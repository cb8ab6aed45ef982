"""Which calls wait for which phase of a gang. Waits are found by the gang, so that a change costs nothing to all those
who wait for other gangs. Their number is limited, as each costs its caller's process, and the coordinator's some 57 KB.

Neighbours: `processes/coordinator_actor.py` says which gangs have changed.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import CoordinatorUnavailable, GangGone, RayDraError, UnsatisfiableError

MOST_WAITS = 25_000


@dataclass(frozen=True, eq=False)
class _Wait:
    wanted: Callable[[Status], bool]
    job: str
    found: asyncio.Future[Status | RayDraError]


class Waits:
    """`status`: a gang's as it is now, or the error that says why it is not there."""

    def __init__(self, status: Callable[[str], Status]) -> None:
        self._status = status
        self._of: dict[str, set[_Wait]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def gangs(self) -> Collection[str]:
        """Those that are waited for."""
        return self._of.keys()

    async def until(self, gang: str, phases: Collection[Phase], timeout: float | None, job: str = "") -> Status:
        """The gang's status once it is in one of these phases, or when the time is over. Raises as `once`."""
        return await self.once(gang, lambda status: status.phase in phases, timeout, job)

    async def once(self, gang: str, wanted: Callable[[Status], bool], timeout: float | None, job: str = "") -> Status:
        """The gang's status once it is as wanted, or when the time is over.

        Raises:
            GangGone, UnsatisfiableError: the gang is not there, or has gone meanwhile.
            CoordinatorUnavailable: too many wait already.
        """
        status = self._status(gang)
        if wanted(status) or (timeout is not None and timeout <= 0):
            return status
        if self._count >= MOST_WAITS:
            raise CoordinatorUnavailable(
                "Too many calls wait for gangs; wait for each gang in one place, or call wait() with a timeout.",
                place=gang,
                available=f"{MOST_WAITS} waits",
            )
        wait = _Wait(wanted, job, asyncio.get_running_loop().create_future())
        self._of.setdefault(gang, set()).add(wait)
        self._count += 1
        try:
            found = await asyncio.wait_for(wait.found, timeout)
        except asyncio.TimeoutError:
            return self._status(gang)
        finally:
            self._count -= 1
            self._of[gang].discard(wait)
            if not self._of[gang]:
                del self._of[gang]
        if isinstance(found, RayDraError):
            raise copy.copy(found)  # raised as it is by each of many, its traceback would grow with each
        return found

    def tell(self, gang: str) -> None:
        """The gang may have changed."""
        waiting = [wait for wait in self._of.get(gang, ()) if not wait.found.done()]
        if not waiting:
            return
        found: Status | RayDraError
        try:
            found = self._status(gang)
        except RayDraError as error:
            found = error
        for wait in waiting:
            if isinstance(found, RayDraError) or wait.wanted(found):
                wait.found.set_result(found)

    def forget(self, jobs: Collection[str]) -> None:
        """Those who waited for other jobs than these have ended."""
        for waiting in self._of.values():
            for wait in waiting:
                if wait.job and wait.job not in jobs:
                    wait.found.cancel()


def why_gone(status: Status) -> RayDraError:
    """Why a gang that is being given back will not be there."""
    if status.failed:
        return UnsatisfiableError(f"The gang was given up: {status.failed}", place=status.gang)
    return GangGone("The gang is being given back.", place=status.gang)
