"""Does what the engine decided: the store first, then memory, then the world. Nobody else writes anything for a gang.

Each action may be done again with the same result: a coordinator that was killed between two of them reads its records,
looks at the world, and decides the rest anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.foreign_work import ForeignWork
from ray_dra.coordinator.gang_store import GangStore
from ray_dra.coordinator.gpu_id_map import GpuIdMap
from ray_dra.coordinator.kube_events import told_of
from ray_dra.coordinator.observer import Observer
from ray_dra.coordinator.status import Statuses
from ray_dra.core.gangs.actions import (
    Action,
    AskQuota,
    BuryGroup,
    DeleteMap,
    DrainRaylets,
    Drop,
    EndWorkers,
    MakeGroup,
    MakeWorkers,
    Note,
    Refuse,
    RemoveGroup,
    Save,
    Tell,
    TellNotice,
    TellRepair,
    Timed,
    WriteMap,
)
from ray_dra.core.gangs.engine import Engine
from ray_dra.core.gangs.events import Event, GroupMade, Moment, WorkersLeft, WorkersProgressed
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.stages import READY
from ray_dra.core.model.allocation import Allocation
from ray_dra.errors import RayDraError
from ray_dra.ports.metrics import (
    ENDS,
    MOVES,
    NOTICES,
    READY_SECONDS,
    REFUSALS,
    REPAIRS,
    STAGE_SECONDS,
    Metrics,
)
from ray_dra.ports.quota import Quotas
from ray_dra.ports.ray import Ray, RayView
from ray_dra.ports.store import Store
from ray_dra.ports.traces import NO_TRACES, Traces
from ray_dra.translate.lines import on_one_line
from ray_dra.translate.names import MAP_KEY, NODE_LABEL
from ray_dra.translate.ray.ordinary import new_group
from ray_dra.translate.text import explain_notice
from ray_dra.translate.traces import trace_of

MOST_ASKS = 100  # for the quota of a gang whose record lies aside and does not tell
STRAY_SECONDS = 1.0  # after the workers joined; Ray places the gang at once unless others' work was quicker

logger = logging.getLogger("ray_dra")


class Executor:
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        gang_store: GangStore,
        ray: Ray,
        backend: Backend,
        observer: Observer,
        statuses: Statuses,
        gpu_id_map: GpuIdMap,
        foreign_work: ForeignWork,
        quotas: Quotas,
        metrics: Metrics,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._engine, self._records = engine, engine.records
        self._store, self._gang_store, self._ray, self._backend = store, gang_store, ray, backend
        self._observer, self._statuses, self._gpu_id_map, self._foreign = observer, statuses, gpu_id_map, foreign_work
        self._quotas, self._metrics, self._traces = quotas, metrics, traces
        self._mapped: dict[str, None] = {}  # placement groups whose map was written since the last look
        self._told: dict[str, tuple[str, int]] = {}  # gang -> the last event about it, and the move it was in

    def do(self, action: Action, now: Moment) -> Event | None:
        """One action; an event where it shows something that is to be decided on before the next."""
        match action:
            case Save():
                self._save(action, now)
            case Drop():
                self._drop(action, now)
            case WriteMap():
                self._write_map(action.group, action.allocation)
            case DeleteMap():
                self._store.delete(MAP_KEY + action.group)
                self._foreign.forget(action.group)  # its gang lives on, perhaps for a year of such groups
            case MakeGroup():
                return self._make_group(self._records.gangs.get(action.gang), again=action.again)
            case BuryGroup():
                self._bury_group(self._records.gangs.get(action.gang))
            case RemoveGroup():
                self._ray.remove_group(action.group)
            case MakeWorkers():
                return self._make_workers(self._records.gangs.get(action.gang), now)
            case EndWorkers():
                return self._end_workers(self._records.gangs.get(action.gang), action.why)
            case DrainRaylets():
                self._drain(action)
            case AskQuota():
                self._ask_quota(self._records.gangs.get(action.gang))
            case Note():
                _log(action)
            case Timed():
                self._timed(action)
            case Tell():
                self._tell(action)
            case TellNotice():
                self._tell_notice(action)
            case TellRepair():
                self._tell_repair(action)
            case Refuse():
                self._metrics.count(REFUSALS, type(action.error).__name__)
                raise action.error
        return None

    def recover(self, view: RayView) -> None:
        """After a start: undo what a kill left half done. Groups that a gang has left are removed, and so are ordinary
        ones that are given back, of which Ray may not have been told; a map that is not there, or does not say what its
        gang's record says, is written again."""
        for gang in self._records.gangs.values():
            for group in gang.old_groups:
                self._ray.remove_group(group)
            if gang.ordinary is not None and gang.releasing:
                self._bury_group(gang)
        mapped = self._foreign.read_maps(view, self._records.groups)
        for gang, allocation in self._records.holders():
            planned = [[grant.uuid for grant in placed.grants] for placed in allocation.bundles]
            if gang.group is not None and _uuids(mapped.get(gang.group, ())) != planned:
                self._write_map(gang.group, allocation)

    def catch_up(self, view: RayView) -> None:
        """What a store that failed in the middle of an action left: records, and maps of groups that are no gang's. And
        one step back for workers that no gang wants any more, nor may want whose record lies aside."""
        self._gang_store.settle(self._records.gangs)
        for group in list(self._mapped):
            if group not in self._records.groups:
                self._store.delete(MAP_KEY + group)
            del self._mapped[group]
        aside = self._gang_store.left_alone(view)
        self._backend.guard(self._records.changing_claims())
        self._backend.undo([*self._records.wanted(), *aside])
        unread = {each.gang for each in aside}
        self._quotas.keep([*self._requests(), *((gang, asks) for gang in unread for asks in self._asks_of(gang))])

    def _asks_of(self, gang_id: str) -> Iterable[int]:
        """The requests for its quota that a gang may have whose record lies aside."""
        unread = self._gang_store.unread(gang_id)
        asks = self._gang_store.traces(unread).asks if unread is not None else None
        return range(MOST_ASKS) if asks is None else (asks - 1, asks)

    def _requests(self) -> Iterator[tuple[str, int]]:
        """Gangs' present requests for their quota; and the last one for as long as anything is left of what it paid."""
        for gang in self._records.with_quota():
            if gang.quota is not None:
                yield gang.id, gang.quota.asks
                if gang.quota.asks and gang.allocation is None and not self._backend.gone(gang.id, gang.moves):
                    yield gang.id, gang.quota.asks - 1

    def let_go(self, gang_id: str) -> None:
        """A gang's record that lies aside, and its placement group, as far as that is known; or the record of a key."""
        unread = self._gang_store.unread(gang_id)
        if unread is None:
            return
        group = self._gang_store.traces(unread).group
        if group is not None and group not in self._records.groups:  # or the record lies aside for claiming it
            self._ray.remove_group(group)
        self._gang_store.aside.let_go(unread.key)

    # -- inside

    def _save(self, action: Save, now: Moment) -> None:
        before = self._records.gangs.get(action.gang.id)
        self._gang_store.settle(self._records.gangs)
        self._gang_store.save(action.gang)
        self._engine.saved(action, now)
        if before is not None and action.gang.moves > before.moves:
            self._metrics.count(MOVES)

    def _timed(self, action: Timed) -> None:
        if action.ended.stage == READY:
            self._metrics.observe(READY_SECONDS, action.ended.seconds)
        else:
            self._metrics.observe(STAGE_SECONDS, action.ended.seconds, action.ended.stage)

    def _write_map(self, group: str, allocation: Allocation) -> None:
        self._mapped[group] = None
        self._store.put(MAP_KEY + group, self._gpu_id_map.map_of(allocation))

    def _drop(self, action: Drop, now: Moment) -> None:
        gang = self._records.gangs.get(action.gang)
        if gang is None:
            return
        self._traces.tell(trace_of(gang, action.why, now.wall))
        for group in gang.groups:
            self._foreign.forget(group)
        self._gang_store.drop(gang)
        self._records.drop(gang.id, keep_until=action.keep_until)
        self._metrics.count(ENDS, "failed" if gang.failed else "released")
        self._told.pop(gang.id, None)
        logger.info("gang %s: gone: %s", on_one_line(gang.name or gang.id), on_one_line(action.why))

    def _make_group(self, gang: Gang | None, *, again: bool) -> GroupMade | None:
        """None where Ray does not answer: the next look tries again."""
        if gang is None or gang.allocation is None:
            return None
        selectors = tuple(self._backend.selector(gang.allocation, node) for node in gang.allocation.nodes)
        try:
            answer = self._ray.make_group(new_group(gang, selectors), again=again)
        except RayDraError as error:
            logger.warning("gang %s: %s", on_one_line(gang.name or gang.id), on_one_line(str(error)))
            return None
        return GroupMade(gang.id, answer.removed, answer.refused)

    def _bury_group(self, gang: Gang | None) -> None:
        """Under a label that no node has, so that it is placed nowhere meanwhile, and without its name, which may be
        another's by now."""
        if gang is None:
            return
        new = replace(new_group(gang, ({NODE_LABEL: "none"},) * len(gang.request.bundles)), name="")
        try:
            self._ray.make_group(new, again=True)
            self._ray.remove_group(new.id)
        except RayDraError as error:  # whoever waits for it waits on
            logger.warning("gang %s: %s", on_one_line(gang.name or gang.id), on_one_line(str(error)))

    def _make_workers(self, gang: Gang | None, now: Moment) -> WorkersProgressed | None:
        if gang is None or gang.allocation is None:
            return None
        grouped = gang.group is not None
        joined, queue = self._observer.joined, gang.quota.queue if gang.quota is not None else ""
        progress = self._backend.make(gang.request, gang.allocation, joined, grouped=grouped, queue=queue)
        if progress.joined and grouped and now.lived - self._records.notes[gang.id].since > STRAY_SECONDS:
            progress = replace(progress, said=self._observer.taken_by_others(gang.allocation, gang.group))
        return WorkersProgressed(gang.id, progress)

    def _drain(self, action: DrainRaylets) -> None:
        gang = self._records.gangs.get(action.gang)
        if gang is None or gang.allocation is None:
            return
        name = on_one_line(gang.name or gang.id)
        for raylet in self._observer.raylets_of(gang.allocation, action.ranks):
            try:
                self._ray.drain(raylet, f"ray-dra, gang {name}: {on_one_line(action.why)}", action.deadline)
            except RayDraError as error:  # the next look tells it again
                logger.warning("gang %s: %s", name, on_one_line(str(error)))

    def _ask_quota(self, gang: Gang | None) -> None:
        if gang is not None and gang.quota is not None:
            self._quotas.ask(gang.quota, gang.request)

    def _end_workers(self, gang: Gang | None, why: str) -> WorkersLeft | None:
        """Ray tells the raylets of a removed group before it answers us, and they say how it is now."""
        if gang is None:
            return None
        busy = (gang.group is not None or gang.reshape is not None) and self._observer.has_workers(gang)
        return WorkersLeft(gang.id, busy, self._backend.gone(gang.id, gang.moves), why)

    def _tell(self, action: Tell) -> None:
        """Once for each thing that a gang has come to."""
        gang = self._records.gangs.get(action.gang)
        if gang is None or not self._backend.own_workers:
            return
        progress = self._records.notes[gang.id].progress
        told = told_of(self._statuses.of(gang, action.seen), progress.stage, progress.joined)
        if self._told.get(gang.id) != (told.reason, gang.moves):
            self._told[gang.id] = (told.reason, gang.moves)
            self._backend.tell(told.reason, told.message, warning=told.warning)

    def _tell_repair(self, action: TellRepair) -> None:
        gang = self._records.gangs.get(action.gang)
        if gang is not None:
            self._metrics.count(REPAIRS)
            self._backend.tell("GangRepair", f"gang {gang.name or gang.id}: {action.why}", warning=True)

    def _tell_notice(self, action: TellNotice) -> None:
        gang = self._records.gangs.get(action.gang)
        if gang is not None:
            self._metrics.count(NOTICES)
            said = explain_notice(action.notice, len(gang.request.bundles))
            self._backend.tell("GangNotice", f"gang {gang.name or gang.id}: {said}", warning=True)


def _uuids(bundles: Iterable[Iterable[tuple[int, str | None, str, str | None]]]) -> list[list[str | None]]:
    return [[uuid for _, uuid, _, _ in bundle] for bundle in bundles]


def _log(note: Note) -> None:
    change = note.change
    was = f"{change.was.value} -> " if change.was is not None else ""
    name, why = on_one_line(note.name or note.gang), on_one_line(change.why)
    decision = {
        "gang": note.gang,
        "name": note.name or None,
        "was": change.was and change.was.value,
        "phase": change.to.value,
        "why": why,
    }
    logger.info("gang %s: %s%s: %s", name, was, change.to.value, why, extra={"decision": decision})
