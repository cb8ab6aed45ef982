"""Work that is not ours: Ray's own GPU tasks and placement groups, and which devices they sit on.

Ray numbers a raylet's GPUs and gives a task the GPU id 3. A gang's devices are chosen, so GPU ids and devices
must be kept apart: workers ask here for the devices of their GPU ids. The GPU ids of a gang's bundle map to
the planned devices; others map to devices that no gang has, the device at that position where it is free.
Whoever has our worker hook asks before it uses a device and says when it ends; a process that dies says nothing
and is found missing. Actors of programs without the hook are found by looking at the raylets' workers; of their
plain tasks Ray tells only how many GPUs they have.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ray_dra.coordinator.aside import Aside
from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.checked import MAX_NAME, many, text, whole
from ray_dra.core.model.request import MAX_DEVICES_PER_BUNDLE
from ray_dra.errors import RayDraError, cut
from ray_dra.ports.clock import Clock
from ray_dra.ports.ray import Ray, RayGroup, RayNode, RayView
from ray_dra.ports.store import Store
from ray_dra.translate.files.records import GpuIds, gpu_ids_from_bytes, gpu_ids_to_bytes
from ray_dra.translate.files.shared_records import MappedDevice, map_from_bytes
from ray_dra.translate.names import GPU_IDS_KEY, MAP_KEY

GPU = "GPU"
MAX_PID = 2**31 - 1
LAG_SECONDS = 0.3  # Ray's raylets report every 0.1 s, its view of them is spread as often, and what ends takes a moment


def checked_ids(gpu_ids: object, pid: object) -> tuple[tuple[int, ...], int]:
    """What a worker says of itself, as it can be recorded. Raises InvalidRequest."""
    most = MAX_DEVICES_PER_BUNDLE
    ids = tuple(whole(each, "gpu_ids", least=0, most=most) for each in many(gpu_ids, "gpu_ids", most=most))
    return ids, whole(pid, "pid", least=0, most=MAX_PID)


class RecentUsage:
    """Amounts that others seem to have, by a view that lags behind releases: what lasts counts."""

    def __init__(self, now: Mapping[str, float], at: float) -> None:
        self._before = self._since = now  # the least until `at`, and from then on
        self._at = at

    def least(self, now: Mapping[str, float], at: float) -> dict[str, float]:
        """The least of each amount over LAG_SECONDS at least; looks may be as near to each other as they like."""
        if at - self._at >= LAG_SECONDS:
            self._before, self._since, self._at = self._since, now, at
        else:
            self._since = {name: min(amount, self._since.get(name, amount)) for name, amount in now.items()}
        return {name: min(amount, self._before.get(name, amount)) for name, amount in self._since.items()}


@dataclass(frozen=True, slots=True)
class OtherWork:
    """What of a node's GPUs work outside our gangs has. `who`: its placement group and job, or its jobs."""

    node: str
    gpus: float
    who: str

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs on {self.node}: {self.who}"


class ForeignWork:
    """Which device each GPU id means.

    `bundles`: raylet -> "<group>/<bundle>" -> GPU id -> position, for parts of a gang's bundle.
    `foreign`: raylet -> GPU id -> (position, pids), for all other work; several where they have parts of one GPU.
    `unclaimed`: placement group -> its bundles' devices, for groups with a map and no gang: the gang's record cannot be
    read. They live on as others' work, on their own devices.
    `work`: node -> what has its GPUs, as of the last look.
    `waiting`: placement groups with GPUs that Ray has not placed for two looks and that nobody asked us to plan.
    """

    def __init__(self, store: Store, inventory: Inventory, ray: Ray, clock: Clock, aside: Aside) -> None:
        self.store = store
        self.inventory = inventory
        self.ray = ray
        self.clock = clock
        self.bundles: dict[str, dict[str, dict[int, int]]] = {}
        self.foreign: dict[str, dict[int, tuple[int, ...]]] = {}
        self.unclaimed: dict[str, list[list[MappedDevice]]] = {}
        self._aside = aside
        for raylet, gpu_ids in aside.read(GPU_IDS_KEY, lambda key, data: (key, gpu_ids_from_bytes(data))):
            self.bundles[raylet] = gpu_ids.bundles
            self.foreign[raylet] = gpu_ids.foreign
        self.work: dict[str, tuple[OtherWork, ...]] = {}
        self.waiting: tuple[RayGroup, ...] = ()
        self._pending = set[str]()  # at the last look; a gang's own group is one until its program has committed it
        self._jobs: dict[str, frozenset[str]] = {}  # raylet -> the jobs of workers with GPUs outside placement groups
        self._recent: dict[str, RecentUsage] = {}  # by raylet

    def read_maps(self, view: RayView, ours: Collection[str]) -> dict[str, list[list[MappedDevice]]]:
        """The maps after a start; those of no gang are dropped, or `unclaimed` while Ray has such a group.

        Returns those of our groups.
        """
        found = {}
        for group, mapped in self._aside.read(MAP_KEY, lambda key, data: (key, map_from_bytes(data))):
            if group in ours:
                found[group] = mapped
            elif group in view.groups:
                self.unclaimed[group] = mapped
            else:
                self.store.delete(MAP_KEY + group)
        return found

    def of_bundle(self, raylet: str, owner: str, gpu_ids: Iterable[int], planned: tuple[int, ...]) -> list[int]:
        """Positions for part of a gang's bundle: each GPU id keeps the device it was given first."""
        known = self.bundles.setdefault(raylet, {}).setdefault(owner, {})
        for gpu_id in gpu_ids:
            if gpu_id not in known:
                free = [p for p in planned if p not in known.values()]
                if not free:
                    raise RayDraError(
                        "Ray gave a bundle more GPU ids than were planned for it.",
                        place=owner,
                        available=f"{len(planned)} GPUs",
                    )
                known[gpu_id] = free[0]
        self._persist(raylet)
        taken = {known[gpu_id] for gpu_id in gpu_ids}
        return [p for p in planned if p in taken]

    def of_foreign(
        self, raylet: str, node_state: NodeState, gpu_ids: Iterable[int], pid: int, movable: int
    ) -> list[int]:
        """Positions for GPU ids outside our gangs; none that a gang has, except (at last) out of `movable`."""
        known = self.foreign.setdefault(raylet, {})
        found = []
        for gpu_id in gpu_ids:
            # Whoever had the GPU id has ended, or has a part of the same GPU: both keep its device.
            at, *pids = known.pop(gpu_id, (None,))
            if at is None or node_state.held >> at & 1:
                at, pids = self._choose(raylet, node_state, gpu_id, known, movable), []
            known[gpu_id] = (at, *(other for other in pids if other != pid), pid)
            found.append(at)
        self._persist(raylet)
        self._mark(node_state, known)
        return found

    def keep_mapped(self, node: str) -> None:
        """A node has come or changed: devices that maps of unclaimed groups name are taken at once."""
        node_state = self.inventory.node_states.get(node)
        if self.unclaimed and node_state is not None:
            self.inventory.set_others(node, node_state.busy | self._mapped(node_state), node_state.used_by_others)

    def ended(self, raylet: str, gpu_ids: Iterable[int], pid: int) -> None:
        """A task outside our gangs has ended. Raises InvalidRequest for values of other types."""
        text(raylet, "raylet", empty=True)
        gpu_ids, pid = checked_ids(gpu_ids, pid)
        known = self.foreign.get(raylet, {})
        for gpu_id in gpu_ids:
            at, *pids = known.get(gpu_id, (0,))
            if pid in pids:
                pids.remove(pid)
                known[gpu_id] = (at, *pids)
                if not pids:
                    del known[gpu_id]
        self._persist(raylet)

    def _choose(
        self, raylet: str, node_state: NodeState, gpu_id: int, known: dict[int, tuple[int, ...]], movable: int
    ) -> int:
        """The device at the GPU id's own position if it can be, else the first that nobody has."""
        size = len(node_state.grants)
        for again in (False, True):
            if again:
                self._drop_dead(raylet, known)
            taken = {at for at, *_ in known.values()}
            free = [at for at in range(size) if not node_state.held >> at & 1 and at not in taken]
            if gpu_id in free:
                return gpu_id
            if free:
                return free[0]
        free = [at for at in bits(movable) if at not in taken]
        if not free:
            raise RayDraError(
                "Ray gave out a GPU id, but every GPU of the node is taken.",
                place=node_state.name,
                wanted=f"GPU id {gpu_id}",
            )
        return free[0]

    def _drop_dead(self, raylet: str, known: dict[int, tuple[int, ...]]) -> None:
        living = {worker.pid for worker in self.ray.workers(raylet)}
        before = dict(known)
        for gpu_id, (at, *pids) in before.items():
            left = [pid for pid in pids if pid in living]
            known[gpu_id] = (at, *left)
            if not left:
                del known[gpu_id]
        if known != before:
            self._persist(raylet)

    def _mark(self, node_state: NodeState, known: Mapping[int, tuple[int, ...]]) -> None:
        """Nothing is planned onto these devices from here on; the next look brings the rest up to date."""
        mask = node_state.busy
        for at, *_ in known.values():
            mask |= 1 << at
        self.inventory.set_others(node_state.name, mask, node_state.used_by_others)

    def forget(self, group: str) -> None:
        """A gang's group is gone: its GPU ids mean nothing any more."""
        for raylet, owners in self.bundles.items():
            gone = [o for o in owners if o.partition("/")[0] == group]
            for owner in gone:
                del owners[owner]
            if gone:
                self._persist(raylet)

    def look(self, view: RayView, names: Mapping[str, str], ours: Mapping[str, float], groups: Collection[str]) -> None:
        """Bring `busy` and the other resources of each node up to date.

        Args:
            names: raylet -> node.
            ours: node -> GPUs that our placed gangs have there.
            groups: the ids of our placement groups.
        """
        self._tidy(view, groups)
        self.work.clear()
        pending = [g for g in view.groups.values() if g.id not in groups and g.state == "PENDING" and _gpus(g)]
        self.waiting = tuple(group for group in pending if group.id in self._pending)
        self._pending = {group.id for group in pending}
        self._look_at(view.nodes, view, names, ours, groups)

    def look_at(
        self,
        raylet: str,
        view: RayView,
        names: Mapping[str, str],
        ours: Mapping[str, float],
        groups: Collection[str],
    ) -> None:
        """The same for one node that has come between two looks, before anything is planned there."""
        self._look_at([node for node in view.nodes if node.id == raylet], view, names, ours, groups)

    def _look_at(
        self,
        raylets: Iterable[RayNode],
        view: RayView,
        names: Mapping[str, str],
        ours: Mapping[str, float],
        groups: Collection[str],
    ) -> None:
        at, theirs = self.clock(), _of_others(view, groups)
        for raylet in raylets:
            node_state = self.inventory.node_states.get(names.get(raylet.id, ""))
            if node_state is None or not raylet.alive or node_state.node.ray_node_id != raylet.id:
                continue
            taken = {name: total - raylet.available.get(name, 0.0) for name, total in raylet.total.items()}
            now = {
                name: max(0.0, taken.get(name, 0.0) - node_state.used.get(name, 0.0))
                for name in node_state.node.resources
            }
            now[GPU] = taken.get(GPU, 0.0) - ours.get(node_state.name, 0.0)
            recent = self._recent.get(raylet.id)
            if recent is None:
                recent = self._recent[raylet.id] = RecentUsage(now, at)
            least = recent.least(now, at)
            grouped = theirs.get(raylet.id, {})
            used = max(least.pop(GPU), sum(grouped.values()))  # Ray's view of groups does not lag
            busy = 0
            mapped = self._mapped(node_state)
            if used > 1e-6 or now[GPU] > 1e-6 or self.foreign.get(raylet.id) or mapped:
                busy = self._busy(raylet.id, node_state, used, groups) | mapped
            self.inventory.set_others(node_state.name, busy, {name: amount for name, amount in least.items() if amount})
            if used > 1e-3:
                self._tell(node_state.name, raylet.id, used, grouped, view)

    def _tell(self, node: str, raylet: str, used: float, theirs: Mapping[str, float], view: RayView) -> None:
        """Who has these GPUs of a node, for those whom it keeps waiting."""
        found = []
        for group, gpus in theirs.items():
            made = view.groups[group]
            name = cut(made.name or group, MAX_NAME)  # Ray takes one of any length
            found.append(OtherWork(node, gpus, f"placement group {name} of job {made.job or 'unknown'}"))
        left = used - sum(theirs.values())
        if left > 1e-3:
            jobs = ", ".join(sorted(self._jobs.get(raylet, ()))) or "unknown"
            found.append(OtherWork(node, left, f"tasks or actors of job {jobs}"))
        self.work[node] = tuple(found)

    def _busy(
        self,
        raylet: str,
        node_state: NodeState,
        used: float,
        groups: Collection[str],
    ) -> int:
        """The devices that others have. `used`: how many GPUs Ray counts as theirs, which may lag behind."""
        known = self.foreign.get(raylet, {})
        try:
            workers = self.ray.workers(raylet)
        except RayDraError:
            return node_state.busy  # as it was, until the raylet answers
        living = {worker.pid for worker in workers}
        if any(pid not in living for _, *pids in known.values() for pid in pids):
            self._drop_dead(raylet, known)
        located = 0
        for at, *_ in known.values():
            located |= 1 << at
        announced = {pid for _, *pids in known.values() for pid in pids}
        self._jobs[raylet] = frozenset(w.job for w in workers if w.job and (w.pid in announced or "" in w.gpu_ids))
        located |= self._mapped(node_state)
        for worker in workers:
            for group, gpu_ids in worker.gpu_ids.items():
                if group in self.unclaimed:  # its devices are not its GPU ids
                    continue
                if group not in groups and worker.pid not in announced:
                    for gpu_id in gpu_ids:
                        located |= 1 << gpu_id if gpu_id < len(node_state.grants) else 0
        # Reserved by a placement group of others, or by tasks that nobody sees: some devices are theirs.
        # Free ones first; then held ones, which matters only to a gang that has to be planned again.
        missing = math.ceil(used - 1e-3) - located.bit_count()  # a part of a GPU keeps gangs off the rest of it
        for taken in (node_state.held, 0):
            for at in reversed(range(len(node_state.grants))):
                if missing > 0 and not (located | taken) >> at & 1:
                    located |= 1 << at
                    missing -= 1
        return located

    def _mapped(self, node_state: NodeState) -> int:
        """The devices of a node that the maps of unclaimed groups name."""
        mask = 0
        for bundles in self.unclaimed.values():
            at = {device.uuid: position for position, device in enumerate(node_state.node.devices) if device.uuid}
            for before, uuid, node, _ in (device for bundle in bundles for device in bundle):
                if node == node_state.name and 0 <= (position := at.get(uuid or "", before)) < len(node_state.grants):
                    mask |= 1 << position
        return mask

    def _tidy(self, view: RayView, groups: Collection[str]) -> None:
        """Forget what is gone: unclaimed groups, and raylets that have ended."""
        for group in list(self.unclaimed):
            if group in groups:  # its commit had been half done
                del self.unclaimed[group]
            elif group not in view.groups:
                self.store.delete(MAP_KEY + group)
                del self.unclaimed[group]
        for raylet in view.nodes:
            if not raylet.alive:
                self._recent.pop(raylet.id, None)
                self._jobs.pop(raylet.id, None)
                gpu_ids, foreign = self.bundles.pop(raylet.id, None), self.foreign.pop(raylet.id, None)
                if gpu_ids is not None or foreign is not None:
                    self.store.delete(GPU_IDS_KEY + raylet.id)

    def _persist(self, raylet: str) -> None:
        record = GpuIds(self.bundles.get(raylet, {}), self.foreign.get(raylet, {}))
        self.store.put(GPU_IDS_KEY + raylet, gpu_ids_to_bytes(record))


def _gpus(group: RayGroup) -> float:
    return sum(bundle.get(GPU, 0.0) for bundle in group.bundles)


def _of_others(view: RayView, ours: Collection[str]) -> dict[str, dict[str, float]]:
    """Raylet -> placement group that is none of ours -> its GPUs there."""
    theirs: dict[str, dict[str, float]] = {}
    for group in view.groups.values():
        if group.id not in ours and group.state == "CREATED":
            for raylet, bundle in zip(group.nodes, group.bundles, strict=False):
                if raylet is not None and bundle.get(GPU):
                    found = theirs.setdefault(raylet, {})
                    found[group.id] = found.get(group.id, 0.0) + bundle[GPU]
    return theirs
