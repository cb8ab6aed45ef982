"""The handle to a gang; it also makes the gang's placement group, whichever of its copies comes to that first."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from types import TracebackType
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from ray_dra.adapters.ray_groups import plain, remove
from ray_dra.coordinator.status import Status
from ray_dra.coordinator.waits import why_gone
from ray_dra.core.gangs.forecast import Expected
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.checked import flag, number
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.html_table import html_table
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import GangGone, GangTimeout, InvalidRequest, RayDraError, ReshapeFailed, shown
from ray_dra.processes.calls import ask, coordinator
from ray_dra.program.follow import follow
from ray_dra.program.named_shapes import GangShape, await_due, check_named, schedule_now, shape
from ray_dra.program.notice import notice_of
from ray_dra.program.progress import ProgressLine
from ray_dra.translate.lines import several
from ray_dra.translate.ray.bundles import ray_bundles
from ray_dra.translate.text import explain_gang

SLICE_SECONDS = 1.0  # how long to wait in Ray before asking the coordinator whether the gang moved
QUEUE_SECONDS = 30.0  # how long to wait in the coordinator, which tells of every change
IDLE_SECONDS = 300.0  # the same where nobody may be waiting any more
RELEASE_SECONDS = 30.0
GROUPED = tuple(
    phase.value
    for phase in (Phase.PLACING, Phase.READY, Phase.DEGRADED, Phase.DRAINING, Phase.REPAIRING, Phase.RELEASING)
)
HELD = (Phase.HELD.value, *GROUPED)


class GangPlacementGroup:
    """A gang: the handle to its placement group, its devices and its state. A context manager that removes it.

    Like Ray's own it may be copied, pickled, and passed to tasks and actors. Wherever it is used, the gang belongs to
    the program that asked for it, and is given back when that one ends, unless its lifetime is "detached".
    """

    def __init__(self, order: Order, status: Status | None = None) -> None:
        if not isinstance(order, Order):
            raise InvalidRequest(
                "A gang's handle is what ray_dra.placement_group(...) returns.",
                place="order",
                wanted=shown(order),
                available="placement_group(...)",
            )
        self._order = order
        self._group: PlacementGroup | None = None
        self._status = status
        self._shapes: dict[str, GangShape] = {}
        self._shape = ""  # the name of the present one, as far as it has one
        self._keep = True  # between shapes with names, what the one does not use stays the gang's
        self._lock = threading.RLock()
        self._commit: Any = None  # the coordinator's answer about the placement group, until it is read

    @classmethod
    def of(cls, order: Order, status: Status) -> GangPlacementGroup:
        """The handle to a gang that was just submitted."""
        gang = cls(order, status)
        gang._create(status)
        return gang

    def __reduce__(self) -> tuple[Any, ...]:
        return GangPlacementGroup, (self._order,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GangPlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        return self._order.request.gang

    @property
    def bundle_count(self) -> int:
        return len(self._request.bundles)

    @property
    def placement_group(self) -> PlacementGroup:
        """Ray's placement group. Waits while the gang is queued."""
        self._settle()
        while self._group is None:
            self._create(self._await(self._next, QUEUE_SECONDS))
            self._settle()
        return self._group

    @property
    def allocation(self) -> Allocation | None:
        """The decision: nodes and devices of each bundle; None while the gang is queued."""
        if self._group is None or self._status is None or self._status.repaired:
            return self._refresh().allocation
        return self._status.allocation

    @property
    def phase(self) -> Phase:
        """The gang's phase; GONE after it has ended."""
        try:
            return self._refresh().phase
        except GangGone:
            return Phase.GONE

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every bundle is placed; True. In a terminal a line tells what is waited for, unless
        RAY_DRA_PROGRESS=0 is in the environment.

        Raises:
            InvalidRequest: `timeout` is no number. The gang is left as it is.
            GangTimeout: after `timeout` seconds. The gang is given back: nothing stays held.
            GangGone: the gang was removed meanwhile.
        """
        if timeout is not None:
            timeout = number(timeout, "timeout", least=-math.inf, most=math.inf)
        deadline = None if timeout is None else time.monotonic() + timeout
        with ProgressLine(self._order.name or self.id) as line:
            while True:
                most = SLICE_SECONDS if line.on else QUEUE_SECONDS
                left = most if deadline is None else min(most, deadline - time.monotonic())
                if left <= 0:
                    self._give_up(timeout or 0.0)
                if self._step(left):
                    return True
                line.show(self._status)

    def ready(self) -> Any:
        """An ObjectRef that resolves when every bundle is placed, like Ray's; until it does, the same for all copies in
        this process."""
        return follow(self.id, copy.copy(self)._place)  # the program goes on with its own

    def explain(self) -> str:
        """Where each bundle lies; or what the gang waits for, when it should start and why then, and what would make it
        sooner. As text."""
        status = self._refresh()
        expected: Expected | None = None
        if status.phase is Phase.QUEUED:
            expected = ask(coordinator().expected.remote(self.id))
        return explain_gang(status, self._request, expected)

    def notice(self, timeout: float = 0.0) -> Notice | None:
        """The notice that the gang, or a part of it, will end by no doing of its program; None: there is none.

        It has the `reason`, the `deadline` (the Unix time up to which nothing ends; None: nobody knows), and the
        `ranks`: the indices of the bundles that end. Given where the gang's RayCluster ends (deleted, suspended, or
        replaced in its RayService's upgrade), its quota is taken back, or its hardware is to be drained.

        Args:
            timeout: seconds to wait for a notice where there is none yet.

        Raises:
            InvalidRequest: `timeout` is no number of seconds.
            GangGone: the gang has ended. UnsatisfiableError: it was given up.
        """
        self._settle()
        return notice_of(self.id, timeout)

    def checkpointed(self) -> None:
        """Tell that the gang's work is saved as of now: so much less is lost with it, and where one of several gangs
        has to end for another, it is rather this one that ends. Kept in memory: to say it often costs a call each.

        Raises:
            GangGone: the gang has ended. UnsatisfiableError: it was given up.
        """
        self._settle()
        ask(coordinator().checkpointed.remote(self.id))

    def reshape(
        self,
        bundles: Sequence[Mapping[str, float]],
        *,
        strategy: str | None = None,
        part: PartCriteria | None = None,
        sharing: GpuSharing | None = None,
        devices: DeviceCriteria | None = None,
        locality: Locality | None = None,
        keep: bool = False,
        timeout: float = 300.0,
        grace: float = 30.0,
    ) -> None:
        """Give the gang other bundles on the GPUs that it has, and wait until they are placed.

        The next shape is planned first, on the gang's own GPUs alone; where they do not have it, nothing is changed.
        Then the gang's program has notice (`notice`), until nothing of the gang has a GPU any more or the grace time is
        over; the placement group is removed, and what still ran in it ends. `placement_group` is another one from then
        on. All GPUs stay the gang's meanwhile. Those that the next shape does not need are given back in the end, or,
        with `keep`, stay the gang's for a later shape.

        Where the next shape cannot be placed, the gang has the old one again; where that cannot be either, all is given
        back, with the reason.

        Args:
            bundles: as of `placement_group`, as are `strategy`, `part`, `sharing`, `devices` and `locality`. Between
                whole GPUs, parts and shares the gang's workers and claims are made anew on the same GPUs: on Kubernetes
                alone.
            keep: the GPUs and other resources that the next shape does not use stay held for the gang, so that it can
                have its present shape again. To give them back later, reshape to the same bundles without it.
            timeout: seconds for Ray to place the next shape, from 1 to a year; as long again for the old one. Where
                workers are made anew, they have as many seconds before that.
            grace: seconds after which what still runs is ended.

        Raises:
            InvalidRequest: what cannot be, or not now: the gang is not ready, is paid from a queue, or changes already.
            UnsatisfiableError: its GPUs do not have the shape; says what is missing where. Or the gang was given up.
            ReshapeFailed: the gang has the shape again, or still, that it had.
            GangGone: the gang was removed meanwhile.
        """
        asked = shape(bundles, strategy=strategy, part=part, sharing=sharing, devices=devices, locality=locality)
        self._take(asked, timeout, grace, keep)
        self._shape = next((name for name, each in self._shapes.items() if self._asked(each) == self._request), "")

    def phases(self, shapes: Mapping[str, GangShape], *, keep: bool = True) -> None:
        """Give shapes of this gang names, for `switch`: `gang.phases({"day": ray_dra.shape(...), "night": ...})`.
        Each is planned on the gang's own GPUs, and nothing is changed. They are this handle's, and no copy's.

        Args:
            keep: what a shape does not use of the gang's GPUs stays the gang's, so that the others can always follow.

        Raises:
            InvalidRequest: a name or shape that cannot be; the gang is not ready.
            UnsatisfiableError: the gang's GPUs do not have one of them; says what is missing where.
            GangGone: the gang was removed.
        """
        found, keep = check_named(shapes), flag(keep, "keep")
        self._settle()
        for each in found.values():
            ask(coordinator().check_shape.remote(self.id, self._asked(each), keep))
        self._refresh()
        self._shapes, self._keep = found, keep
        self._shape = next((name for name, each in found.items() if self._asked(each) == self._request), "")

    def switch(self, name: str | None = None, *, timeout: float = 300.0, grace: float = 30.0) -> str:
        """Change to the shape of this name, as `reshape` does; None: to that which the cluster's schedule says is due
        now. Returns its name. Nothing happens where the gang has it. What it does not use is kept as `phases` says.

        Raises:
            InvalidRequest: there is no such shape, or no schedule; and what `reshape` raises.
        """
        if name is None:
            name = schedule_now(self._shapes).due(time.time())
        if not isinstance(name, str) or name not in self._shapes:
            raise InvalidRequest(
                "The gang has no shape of this name.",
                place="name",
                wanted=shown(name),
                available=", ".join(sorted(self._shapes)) or "names that gang.phases(...) gave",
            )
        self._take(self._shapes[name], timeout, grace, self._keep)
        self._shape = name
        return name

    def await_switch(self, timeout: float | None = None) -> str:
        """Wait until the cluster's schedule says that another shape is due than the present one; its name, for
        `switch`. After `timeout` seconds the name of what is due then. The schedule is read again each minute.

        Raises:
            InvalidRequest: there is no schedule, or it names a shape that the gang does not have.
        """
        if timeout is not None:
            timeout = number(timeout, "timeout", least=0.0, most=math.inf)
        return await_due(self._shapes, self._shape, timeout)

    def _asked(self, shape: GangShape) -> GangRequest:
        """A shape as a request of this gang."""
        before = self._order.request
        return replace(
            shape.request,
            gang=self.id,
            exclude=before.exclude,
            preemptible=before.preemptible,
            priority=before.priority,
        )

    def _take(self, shape: GangShape, timeout: float, grace: float, keep: bool) -> None:
        """Change to a shape, and wait until it is placed."""
        asked = self._asked(shape)
        self._settle()
        status: Status = ask(coordinator().reshape.remote(self.id, asked, timeout, grace, keep))
        while status.reshape is not None:
            if status.reshape is ReshapeStage.DRAINS:
                change = coordinator().await_reshape.remote(self.id, status.reshape, QUEUE_SECONDS)
                status = ask(change, timeout=QUEUE_SECONDS + 30)
            else:
                status = self._place_again(status)
        self._status = status
        self._follow(status)  # the change may have been over before it was heard of
        if self._request != asked:
            raise ReshapeFailed(
                "The gang has the shape that it had before.",
                place=self.id,
                wanted=f"{len(asked.bundles)} bundles",
                available=status.shape_failed,
            )

    def remove(self) -> None:
        """Give everything back; when this returns the GPUs are free. Removing twice is harmless."""
        release = coordinator().release.remote(self.id, RELEASE_SECONDS)
        try:
            self._settle()
        except RayDraError:
            pass
        ask(release, timeout=RELEASE_SECONDS + 30, abandon=False)  # late is better than never

    def __enter__(self) -> GangPlacementGroup:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"GangPlacementGroup({self._order.name or self.id}, {several(self.bundle_count, 'bundle')})"

    def _repr_html_(self) -> str:
        """For notebooks: the gang and its devices, as they were last heard of; nobody is asked."""
        status = self._status
        if status is None or status.allocation is None:
            return html_table(repr(self), ("phase",), [[status.phase.value if status else "not asked yet"]])
        return f"<p>{escape(repr(self))}: {status.phase.value}</p>{status.allocation._repr_html_()}"

    # -- inside

    @property
    def _request(self) -> GangRequest:
        """What the gang is, as far as it was heard of: it may have changed its shape."""
        status = self._status
        return status.request if status is not None and status.request is not None else self._order.request

    def _place_again(self, status: Status) -> Status:
        """One step towards the placement group of the gang's present shape; its status after that."""
        self._follow(status)
        if self._group is None:
            self._create(status)
        group = self._group
        if group is None:
            return self._await(self._next, SLICE_SECONDS)
        self._placed(group, SLICE_SECONDS)
        return self._refresh()

    def _step(self, seconds: float) -> bool:
        """One step towards the placement, of so many seconds at most; True once every bundle is placed."""
        group = self._group
        if group is None:
            self._create(self._await(self._next, seconds))
        elif self._placed(group, min(seconds, SLICE_SECONDS)):
            self._settle()
            return self._group is group
        else:
            self._settle()
            self._follow(self._refresh())
        return False

    def _place(self) -> Any:
        """Wait until every bundle is placed; for a queued gang, return the call that waits for devices instead."""
        while not self._step(0.0 if self._group is None else SLICE_SECONDS):
            if self._group is None:
                return coordinator().await_phase.remote(self.id, self._next, IDLE_SECONDS)
        coordinator().look.remote()
        return None

    @property
    def _next(self) -> tuple[str, ...]:
        """The phases in which there is something to do towards a placement group."""
        return GROUPED if self._status is not None and self._status.made_here else HELD

    def _refresh(self) -> Status:
        self._settle()
        status: Status = ask(coordinator().status.remote(self.id))
        self._status = status
        return status

    def _await(self, phases: tuple[str, ...], timeout: float) -> Status:
        """The gang's status once it is in one of these phases, or after so many seconds."""
        status: Status = ask(coordinator().await_phase.remote(self.id, phases, timeout), timeout=timeout + 30)
        return status

    def _create(self, status: Status) -> None:
        """Make Ray's placement group on the planned nodes, and tell the coordinator, once devices are held."""
        with self._lock:
            self._status = status
            if status.allocation is None or self._group is not None or status.phase is Phase.PROVISIONING:
                return
            if status.phase is Phase.RELEASING:
                raise why_gone(status)
            if status.group is None:
                if not status.made_here:
                    self._make(status)
            else:
                self._group = self._made(status.group)

    def _made(self, group: str) -> PlacementGroup:
        """The placement group that another copy of this handle has made."""
        return PlacementGroup(ray._raylet.PlacementGroupID(bytes.fromhex(group)), ray_bundles(self._request))

    def _make(self, status: Status) -> None:
        group = None
        try:
            group = plain("placement_group")(
                ray_bundles(self._request),
                strategy=self._request.strategy.value,
                name=self._order.name,
                lifetime="detached" if self._order.detached else None,
                bundle_label_selector=[dict(s) for s in status.selectors],
            )
            # Ray places the bundles while the coordinator takes note; `_settle` waits for the latter.
            self._commit = coordinator().commit.remote(self.id, group.id.hex(), status.moves)
            self._group = group
        except BaseException as error:
            if group is not None:
                remove(group)
            elif isinstance(error, Exception):  # of no type: another copy may have made a group of this name just now
                status = self._await(GROUPED, SLICE_SECONDS)
                if status.group is not None:
                    self._group = self._made(status.group)
                    return
            raise

    def _settle(self) -> None:
        """Wait for the coordinator's note of the placement group; before it, workers would not find their GPUs."""
        with self._lock:
            commit, self._commit = self._commit, None
            if commit is None or self._group is None:
                return
            try:
                status: Status = ask(commit)
            except BaseException:
                remove(self._group)
                self._group = None
                raise
            self._status = status
            if status.group != self._group.id.hex():  # planned again, or another copy was quicker
                remove(self._group)
                self._group = None

    def _placed(self, group: PlacementGroup, timeout: float) -> bool:
        """Whether Ray places the bundles within `timeout`; False too when the coordinator took the group away."""
        try:
            return bool(group.wait(timeout))
        except Exception:  # Ray has no type for "this placement group was removed"
            if self._refresh().group == group.id.hex():
                raise
            return False

    def _follow(self, status: Status) -> None:
        """The coordinator may have planned the gang again elsewhere."""
        if status.phase is Phase.RELEASING:
            raise why_gone(status)
        with self._lock:
            if self._group is not None and status.group != self._group.id.hex():
                self._group = None
                self._create(status)

    def _give_up(self, timeout: float) -> None:
        status = self._refresh()
        self.remove()
        waited = "; ".join(map(str, status.waits_for)) or status.said
        waited = waited or f"Ray has not placed the bundles ({status.phase.value})"
        if status.other_work:
            waited += f"; other work has {'; '.join(status.other_work)}"
        raise GangTimeout(
            f"The gang was not ready within {timeout:g} s and has been given back.",
            place=", ".join(dict.fromkeys(status.allocation.nodes)) if status.allocation else "the queue",
            wanted=f"{self.bundle_count} bundles, {self._request.device_count} GPUs",
            available=waited,
        )
