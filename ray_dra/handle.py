"""The handle to a gang. It also makes the gang's placement group, which Ray binds to the program that makes it."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from ray_dra.calls import ask
from ray_dra.core.allocation import Allocation
from ray_dra.core.lifecycle import Phase
from ray_dra.errors import GangGone, GangTimeout, RayDraError, UnsatisfiableError
from ray_dra.runtime.coordinator import Status
from ray_dra.runtime.orders import Order
from ray_dra.translate.explain import explain_gang

SLICE_SECONDS = 1.0  # how long to wait in Ray before asking the coordinator whether the gang moved
RELEASE_SECONDS = 30.0
HELD = (Phase.HELD.value, Phase.PLACING.value, Phase.READY.value, Phase.DEGRADED.value, Phase.RELEASING.value)


class GangPlacementGroup:
    """A gang: the handle to its placement group, its devices and its state. A context manager that removes it."""

    def __init__(
        self, actor: Any, order: Order, bundles: list[dict[str, float]], strategy: str, status: Status
    ) -> None:
        self._actor = actor
        self._order = order
        self._bundles = bundles
        self._strategy = strategy
        self._group: PlacementGroup | None = None
        self._status = status
        self._lock = threading.Lock()
        self._driving = False
        self._commit: Any = None  # the coordinator's answer about the placement group, until it is read

    @property
    def id(self) -> str:
        return self._order.request.gang

    @property
    def bundle_count(self) -> int:
        return len(self._bundles)

    @property
    def placement_group(self) -> PlacementGroup:
        """Ray's placement group. Waits while the gang is queued."""
        self._settle()
        while self._group is None:
            self._create(self._await(HELD, SLICE_SECONDS))
            self._settle()
        return self._group

    @property
    def allocation(self) -> Allocation | None:
        """The decision: nodes and devices of each bundle; None while the gang is queued."""
        return self._status.allocation if self._group is not None else self._refresh().allocation

    @property
    def phase(self) -> Phase:
        """Where the gang is in its life; GONE when it is not there any more."""
        try:
            return self._refresh().phase
        except GangGone:
            return Phase.GONE

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every bundle is placed; True.

        Raises:
            GangTimeout: after `timeout` seconds. The gang is given back: nothing stays held.
            GangGone: the gang was removed meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = SLICE_SECONDS if deadline is None else min(SLICE_SECONDS, deadline - time.monotonic())
            if left <= 0:
                self._give_up(timeout or 0.0)
            if self._group is None:
                self._create(self._await(HELD, left))
            elif self._placed(left):
                self._settle()
                if self._group is not None:
                    return True
            else:
                self._settle()
                self._follow(self._refresh())

    def ready(self) -> Any:
        """An ObjectRef that resolves when every bundle is placed, like Ray's."""
        with self._lock:
            if not self._driving:
                self._driving = True
                threading.Thread(target=self._drive, daemon=True).start()
        return self._actor.await_ready.remote(self.id)

    def explain(self) -> str:
        """Who sits where and why, or what the gang waits for."""
        return explain_gang(self._refresh(), self._order.request)

    def remove(self) -> None:
        """Give everything back; when this returns the GPUs are free. Removing twice is harmless."""
        try:
            self._settle()
        except GangGone:
            pass
        ask(self._actor.release.remote(self.id, RELEASE_SECONDS), timeout=RELEASE_SECONDS + 30)

    def __enter__(self) -> GangPlacementGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"GangPlacementGroup({self._order.name or self.id}, {self.bundle_count} bundles)"

    # -- inside

    def _refresh(self) -> Status:
        self._settle()
        self._status = ask(self._actor.status.remote(self.id))
        return self._status

    def _await(self, phases: tuple[str, ...], timeout: float) -> Status:
        return ask(self._actor.await_phase.remote(self.id, phases, timeout), timeout=timeout + 30)  # type: ignore[no-any-return]

    def _create(self, status: Status) -> None:
        """Make Ray's placement group on the planned nodes, and tell the coordinator, once devices are held."""
        self._status = status
        if status.allocation is None or self._group is not None or status.phase is Phase.PROVISIONING:
            return
        if status.phase is Phase.RELEASING:
            raise _gone(status)
        group = ray.util.placement_group(
            self._bundles,
            strategy=self._strategy,
            name=self._order.name,
            lifetime="detached" if self._order.detached else None,
            bundle_label_selector=[dict(s) for s in status.selectors],
        )
        # Ray places the bundles while the coordinator takes note; `_settle` waits for the latter.
        self._group = group
        self._commit = self._actor.commit.remote(self.id, group.id.hex(), status.moves)

    def _settle(self) -> None:
        """Wait for the coordinator's note of the placement group; before it, workers would not find their GPUs."""
        commit, self._commit = self._commit, None
        if commit is None or self._group is None:
            return
        try:
            self._status = ask(commit)
        except BaseException:
            ray.util.remove_placement_group(self._group)
            self._group = None
            raise
        if self._status.group != self._group.id.hex():  # planned again between the two calls
            ray.util.remove_placement_group(self._group)
            self._group = None

    def _placed(self, timeout: float) -> bool:
        """Whether Ray places the bundles within `timeout`; False too when the coordinator took the group away."""
        assert self._group is not None
        try:
            return bool(self._group.wait(timeout))
        except Exception:  # Ray has no type for "this placement group was removed"
            if self._refresh().group == self._group.id.hex():
                raise
            return False

    def _follow(self, status: Status) -> None:
        """The coordinator may have planned the gang again elsewhere."""
        if status.phase is Phase.RELEASING:
            raise _gone(status)
        if self._group is not None and status.group != self._group.id.hex():
            self._group = None
            self._create(status)

    def _give_up(self, timeout: float) -> None:
        status = self._refresh()
        self.remove()
        waited = "; ".join(map(str, status.waits_for)) or status.said
        waited = waited or f"Ray has not placed the bundles ({status.phase.value})"
        raise GangTimeout(
            f"The gang was not ready within {timeout:g} s and has been given back.",
            place=", ".join(dict.fromkeys(status.allocation.nodes)) if status.allocation else "the queue",
            wanted=f"{self.bundle_count} bundles, {self._order.request.device_count} GPUs",
            available=waited,
        )

    def _drive(self) -> None:
        try:
            self.wait()
            self._actor.look.remote()
        except Exception:  # whoever holds the ObjectRef hears of it from the coordinator
            pass


def _gone(status: Status) -> RayDraError:
    """Why a gang that is being given back will not be there."""
    if status.failed:
        return UnsatisfiableError(f"The gang was given up: {status.failed}", place=status.gang)
    return GangGone("The gang is being given back.", place=status.gang)
