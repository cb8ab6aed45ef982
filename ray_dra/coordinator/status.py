"""What the outside may know of a gang, and the error for one that is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.foreign_work import ForeignWork
from ray_dra.coordinator.gang_store import GangStore
from ray_dra.coordinator.observer import Observer
from ray_dra.core.gangs.gang import Change, Gang, made_here
from ray_dra.core.gangs.lifecycle import Observed, phase
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.gangs.standing import Standing, behind, standing
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.checked import text
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Shortfall, ShortfallKind
from ray_dra.errors import GangGone, UnsatisfiableError
from ray_dra.translate.ray.bundles import ray_bundles

MAX_KEY = 4_096  # characters of what may be a key of the store


@dataclass(frozen=True, slots=True)
class Status:
    """A gang as it is now. `selectors` pin each bundle; `waits_for` says why it is queued."""

    gang: str
    phase: Phase
    name: str
    allocation: Allocation | None
    selectors: tuple[Mapping[str, str], ...]
    group: str | None
    moves: int
    lost: tuple[str, ...]
    waits_for: tuple[Shortfall, ...]
    said: str = ""  # what the making of its workers waits for
    failed: str = ""  # why it was given up
    history: tuple[Change, ...] = ()
    times: StageTimes = field(default=StageTimes())
    other_work: tuple[str, ...] = ()  # what keeps it from its GPUs, or has those for which it waits
    notice: Notice | None = None  # that it, or a part of it, will end
    ends: bool = False  # of that Ray's libraries are told, on raylets that are there: what the notice says will come
    standing: Standing | None = None  # where it stands in the queue
    namespace: str = ""
    owner: str = ""  # the Ray job that asked for it
    bundles: int = 0
    gpus: int = 0  # or parts or shares of GPUs
    priority: int = 0
    locality: str = ""  # in words
    made_here: bool = False  # the coordinator makes its placement group
    repaired: bool = (
        False  # something is done about faults of it, or it may be preempted or moved: its allocation may change
    )
    preempted: int = 0  # how often it has given its devices back for another gang
    consolidated: int = 0  # how often it was moved for another gang
    reshape: ReshapeStage | None = None  # how far a change of its shape has come
    shape_failed: str = ""  # why the last one was, or is, undone
    request: GangRequest | None = None  # of one whose shape has changed: the present one
    spares: tuple[str, ...] = ()  # nodes that are held for its repairs
    shrunk: str = ""  # how many of its bundles a gang has that faults have shrunk; "": it is whole


MOST_NAMED = 5  # of other work that stands in a gang's way
WAITS = Observed()  # of a gang without devices there is nothing to observe


class Statuses:
    """See the module."""

    def __init__(
        self, records: Records, gang_store: GangStore, observer: Observer, backend: Backend, foreign_work: ForeignWork
    ) -> None:
        self._records, self._gang_store, self._observer, self._backend = records, gang_store, observer, backend
        self._foreign_work = foreign_work

    def find(self, gang_id: str) -> Gang:
        """The gang of an id.

        Raises:
            InvalidRequest: it is no id.
            UnsatisfiableError: the gang was given up.
            GangGone: it is not there.
        """
        text(gang_id, "gang", most=MAX_KEY, empty=True)
        gang = self._records.gangs.get(gang_id)
        if gang is not None:
            return gang
        if gang_id in self._gang_store.failures:
            raise UnsatisfiableError(f"The gang was given up: {self._gang_store.failures[gang_id]}", place=gang_id)
        unread = self._gang_store.unread(gang_id)
        if unread is not None:
            raise GangGone(
                "The gang's record cannot be read and was set aside. Its workers run on until its placement group is "
                f"removed; `ray-dra release {gang_id}` lets the record go.",
                place=gang_id,
                available=unread.reason,
            )
        raise GangGone(
            "The gang is not there any more: it was removed, its program ended, or its wait was over.",
            place=gang_id,
        )

    def pending_groups(
        self, group: str = "", name: str = "", namespace: str = ""
    ) -> list[tuple[str, str, list[dict[str, float]], str]]:
        """(id, name, bundles, strategy) of ordinary placement groups of which Ray has not been told: one, one by its
        name in a namespace, or all."""
        gangs = self._records.gangs
        wanted = [gangs[gang_id] for gang_id in ((group,) if group else gangs) if gang_id in gangs]
        return [
            (gang.id, gang.name, ray_bundles(gang.request), gang.request.strategy.value)
            for gang in wanted
            if gang.ordinary is not None
            and not gang.releasing
            and not self._records.notes[gang.id].registered
            and (not name or (gang.name, gang.namespace) == (name, namespace))
        ]

    def _waits_for(self, gang: Gang, refused: tuple[Shortfall, ...]) -> tuple[Shortfall, ...]:
        """Who comes first changes, and a coordinator that has started again has asked only for the first."""
        turn = behind(self._records, gang) if gang.waits else None
        new = (ShortfallKind.LIMIT,) if turn is None else (ShortfallKind.LIMIT, ShortfallKind.QUEUE)
        others = [each for each in refused if each.kind not in new]
        return (*others,) if turn is None else (turn, *others)

    def _other_work(self, allocation: Allocation | None) -> tuple[str, ...]:
        """What others have where a gang is to be; of one in the queue, wherever that is."""
        work = self._foreign_work.work
        if not work:
            return ()
        nodes = work if allocation is None else dict.fromkeys(allocation.nodes)
        found = [each for node in nodes for each in work.get(node, ())]
        more = (f"and {len(found) - MOST_NAMED} more",) if len(found) > MOST_NAMED else ()
        return (*map(str, found[:MOST_NAMED]), *more)

    def _on_kept(self, allocation: Allocation) -> tuple[str, ...]:
        """What others have of the GPUs that a gang keeps: Ray, which counts them as free, may start work there."""
        states, work = self._observer.inventory.node_states, self._foreign_work.work
        kept = allocation.kept.placed if allocation.kept is not None else ()
        taken = (p.node for p in kept if p.node in states and states[p.node].busy & states[p.node].mask_of(p.grants))
        return tuple(f"{each}; also of those that the gang keeps" for node in taken for each in work.get(node, ()))

    def of(self, gang: Gang, seen: Observed | None = None) -> Status:
        """`seen`: what was observed of it just now."""
        notes, allocation = self._records.notes[gang.id], gang.allocation
        if seen is None:
            seen = WAITS if allocation is None else self._observer.observed(gang, notes)
        to = phase(gang, seen)
        selectors = () if allocation is None else tuple(self._backend.selector(allocation, n) for n in allocation.nodes)
        return Status(
            gang=gang.id,
            phase=to,
            name=gang.name,
            allocation=allocation,
            selectors=selectors,
            group=gang.group,
            moves=gang.moves,
            lost=seen.lost,
            waits_for=self._waits_for(gang, notes.refused),
            said=notes.progress.said or (self._backend.left_to_others if allocation is None else ""),
            failed=gang.failed,
            history=gang.history,
            times=gang.times,
            other_work=(
                *(self._other_work(allocation) if to in (Phase.QUEUED, Phase.PLACING) else ()),
                *(self._on_kept(allocation) if allocation is not None else ()),
                *(self._backend.given_twice(allocation) if allocation is not None else ()),
            ),
            notice=gang.notice,
            ends=gang.notice is not None and gang.notice == notes.told and bool(self._observer.ends_at(gang)),
            standing=standing(self._records, gang),
            namespace=gang.namespace,
            owner=gang.owner,
            bundles=len(gang.request.bundles),
            gpus=gang.request.device_count,
            priority=gang.request.priority,
            locality=str(gang.request.locality),
            made_here=made_here(gang),
            preempted=gang.preempted,
            consolidated=gang.consolidated,
            repaired=gang.on_fault.acts or gang.request.preemptible or gang.movable,
            reshape=gang.reshape.stage if gang.reshape is not None else None,
            shape_failed=gang.reshape.why if gang.reshape is not None else gang.shape_failed,
            request=gang.request if gang.reshaped else None,
            spares=self._records.own_spares.nodes_of(gang.id) if gang.spares else (),
            shrunk=gang.shrunk.said if gang.shrunk is not None else "",
        )
