"""A world of fakes that remembers how it was at each single write, so that a coordinator can be killed at every one of
them and another one goes on from there; and what may befall a gang meanwhile.

What is remembered is what outlives a coordinator: Kubernetes, Ray, the store and the clock. A kill before a write finds
what the write before it left, so that states that are alike are remembered once.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ray_dra.core.gangs.gang import made_here
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import RayDraError
from ray_dra.ports.kubernetes import Object
from ray_dra.ports.ray import GroupAnswer, NewGroup
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.translate.names import GANG_LABEL
from ray_dra.translate.ray.bundles import ray_bundles
from tests.coordinator.fault_worlds import NAME, KubeWorld
from tests.coordinator.world import Clock

PATIENCE = 800  # turns of half a second: longer than anything that a gang waits for by itself
STANDS = 2 * int(KEPT_SECONDS) + 20  # turns after which a gang that waits does so for somebody else
Mark = Callable[[], None]


class NotedKube(FakeKube):
    doubled = False
    mark: Mark

    def create(self, thing: Object) -> str:
        self.mark()
        made = super().create(thing)
        self.mark()
        return made

    def patch(self, kind: str, name: str, change: Object) -> None:
        self.mark()
        super().patch(kind, name, change)
        self.mark()

    def delete(self, kind: str, name: str) -> None:
        self.mark()
        super().delete(kind, name)
        self.mark()


class NotedRay(FakeRay):
    mark: Mark

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        self.mark()
        answer = super().make_group(new, again=again)
        self.mark()
        return answer

    def remove_group(self, group: str) -> None:
        self.mark()
        super().remove_group(group)
        self.mark()

    def drain(self, node_id: str, why: str, deadline: float) -> None:
        self.mark()
        super().drain(node_id, why, deadline)
        self.mark()


class NotedStore(MemoryStore):
    mark: Mark

    def put(self, key: str, value: bytes) -> None:
        self.mark()
        super().put(key, value)
        self.mark()

    def delete(self, key: str) -> None:
        self.mark()
        super().delete(key)
        self.mark()


class State(NamedTuple):
    """How the world was at a write. `phase`: the gang's, with how far a change of shape had come; `said`: for whoever
    reads of a failure."""

    phase: str
    said: str
    kept: bytes


_PORTS: Mapping[str, type] = {"kube": NotedKube, "ray": NotedRay, "store": NotedStore}
_COUNTED = ("_version", "_count", "writes", "mark")  # that differ though nothing else does


class NotedWorld(KubeWorld):
    """Racks of three trays. `states`: those at each write while `noting`."""

    def __init__(self, nodes: int = 6, cliques: int = 2) -> None:
        super().__init__(nodes, cliques)
        for name, kind in _PORTS.items():
            getattr(self, name).__class__ = kind
        self._begin()

    def _begin(self) -> None:
        self.noting, self.states = False, dict[bytes, State]()
        for name in _PORTS:
            getattr(self, name).mark = self.mark
        self.restart()

    def mark(self) -> None:
        """Remember how it is now."""
        if not self.noting:
            return
        ports = {name: {k: v for k, v in getattr(self, name).__dict__.items() if k not in _COUNTED} for name in _PORTS}
        alike = pickle.dumps(ports)
        if alike not in self.states:
            ports["kube"] |= {"_version": self.kube._version, "_count": self.kube._count}
            phase = self.phase
            self.states[alike] = State(phase, f"{phase} at {self.clock.now:g}", pickle.dumps((ports, self.clock.now)))

    def turn(self) -> None:
        self.mark()
        super().turn()
        self.mark()
        self._drive()
        self.ray.settle()

    def _drive(self) -> None:
        """As its program's handle does: make the placement group where that is its turn, say so again where nobody
        answered, and remove one that is not taken."""
        gang = self.coordinator.gangs.get(NAME)
        for group in [name for name, made in self.ray.groups.items() if made.state != "REMOVED"]:
            if group in self.coordinator.records.groups:
                continue
            if gang is None or self.coordinator.commit(NAME, group, gang.moves).group != group:
                self.ray.remove_group(group)
        if gang is None or gang.allocation is None or gang.group is not None or made_here(gang):
            return
        if self.status.phase not in (Phase.PROVISIONING, Phase.RELEASING) and self.status.group is None:
            group = self.ray.create_group(ray_bundles(gang.request), self.status.selectors, "job")
            self.coordinator.commit(NAME, group, gang.moves)
            self.mark()

    @property
    def phase(self) -> str:
        gang = self.coordinator.gangs.get(NAME)
        if gang is None:
            return Phase.GONE.value
        status = self.status
        stage = status.reshape.value if status.reshape is not None else ""
        return " ".join(filter(None, [status.phase.value, stage]))

    @classmethod
    def back(cls, state: State) -> NotedWorld:
        """Another coordinator in the world as it was."""
        world = cls.__new__(cls)
        ports, now = pickle.loads(state.kept)
        for name, kind in _PORTS.items():
            port: Any = object.__new__(kind)
            port.__dict__ = ports[name]
            setattr(world, name, port)
        world.clock = Clock()
        world.clock.now = now
        world._begin()
        return world

    # -- what is asked of it

    @property
    def well(self) -> bool:
        """The gang runs, whole or shrunk, and nothing of it is about to end."""
        gang = self.coordinator.gangs.get(NAME)
        if gang is None or gang.notice is not None or gang.reshape is not None or gang.replacing:
            return False
        return self.status.phase is Phase.READY and not self.status.lost

    def of_gang(self, kind: str) -> list[str]:
        """Objects of the gang by name, those last that are on their way out."""
        of = [thing["metadata"] for thing in self.kube._of(kind) if GANG_LABEL in thing["metadata"].get("labels", {})]
        found = [meta for meta in of if meta["labels"][GANG_LABEL] == NAME]
        return [meta["name"] for meta in sorted(found, key=lambda meta: ("deletionTimestamp" in meta, meta["name"]))]

    def heal(self) -> None:
        """All hardware is well again, and whoever else had some has left."""
        for node in [*self.kube._deleted, *self.kube.nodes]:
            self.kube.regain_node(node)
            self.kube.cordon(node, closed=False)
            self.kube.taint(node, "")
            for device in ("gpu-0", "gpu-1", "gpu-2", "gpu-3"):
                self.kube.taint_device(node, device, "")
        for gang in [each for each in self.coordinator.gangs if each != NAME]:
            self.coordinator.release(gang)

    @property
    def why_gone(self) -> str:
        try:
            return str(self.status)
        except RayDraError as error:
            return str(error)

    def has_room(self) -> bool:
        """Whether enough whole trays of a rack are free and well, by what Kubernetes says alone."""
        taken = {node for node, _ in self.kube.claimed()}
        racks: dict[object, int] = {}
        for name, node in self.kube.nodes.items():
            devices = [device for each in self.kube._slices[name] for device in each.devices]
            tainted = any(device.taints for device in devices)
            known = self.coordinator.inventory.node_states[name].node
            if node.ready and not (known.spare or node.unschedulable or node.taints or tainted or name in taken):
                rack = known.clique
                racks[rack] = racks.get(rack, 0) + 1
        return max(racks.values(), default=0) >= len(self.coordinator.gangs[NAME].request.bundles)

    def until_well(self) -> bool:
        self.until_settled()
        return self.well

    def until_settled(self) -> None:
        """Until it is well, or gone, or nothing has changed for longer than any place is kept."""
        before, since = None, 0
        for turn in range(PATIENCE):
            self.turn()
            if self.well or NAME not in self.coordinator.gangs:
                return
            now = self.status.phase, self.status.moves
            before, since = now, since if now == before else turn
            if turn - since > STANDS and now[0] in (Phase.QUEUED, Phase.DRAINING, Phase.DEGRADED):
                return

    @property
    def ends(self) -> bool:
        """Its program has given it back, or was not told of it yet."""
        gang = self.coordinator.gangs.get(NAME)
        return gang is None or gang.releasing

    def ends_well(self, *, may_be_gone: bool) -> str:
        """Everybody goes on. Returns how the gang came out of it; raises AssertionError where it did not come out well,
        or left something behind."""
        said = "ready"
        if not self.until_well() and NAME in self.coordinator.gangs:
            status = self.status
            told = f"{status.phase}, lost {status.lost}, {status.said}; {status.history}"
            if status.phase is Phase.QUEUED:
                assert status.waits_for, told
                assert not self.has_room(), told
                said = "queued"
            elif not self.coordinator.gangs[NAME].on_fault.acts:
                assert status.phase is Phase.DEGRADED, told
                assert status.lost, told
                self.leaves_nothing()
                return "degraded"
            else:  # nothing is lost, and to be drained is what has nowhere to go
                assert status.phase is Phase.DRAINING, told
                assert not status.lost, told
                assert not self.has_room(), told
                said = "draining"
            self.heal()
            assert self.until_well(), f"not well again: {self.status.phase} {self.status.history}"
        if NAME not in self.coordinator.gangs:
            assert may_be_gone, f"the gang is gone: {self.why_gone}"
            said = "gone"
        self.leaves_nothing()
        return said

    def leaves_nothing(self) -> None:
        for gang in list(self.coordinator.gangs):
            self.coordinator.release(gang)
        self.heal()
        for _ in range(PATIENCE):
            self.turn()
            if not (self.coordinator.gangs or self.left() or self.store.keys("")):
                break
        assert not self.left(), self.left()
        assert not self.coordinator.gangs
        assert not self.store.keys(""), self.store.keys("")
        assert not self.kube.claimed()
        assert all(group.state == "REMOVED" for group in self.ray.groups.values())
        assert not any(raylet.alive for raylet in self.ray.nodes.values())
        assert self.coordinator.idle


# -- what may befall it


def victim_node(world: NotedWorld) -> str:
    """The node of its last bundle; where it has none, the first that somebody has, or that there is."""
    gang = world.coordinator.gangs.get(NAME)
    if gang is not None and gang.allocation is not None and gang.allocation.nodes[-1] in world.kube.nodes:
        return gang.allocation.nodes[-1]
    return min((node for node, _ in world.kube.claimed() if node in world.kube.nodes), default=min(world.kube.nodes))


def kill_pod(world: NotedWorld, at: int = -1) -> None:
    pods = world.of_gang("Pod")
    if pods:
        world.kube.drop("Pod", pods[at])


def kill_all_pods(world: NotedWorld) -> None:
    for pod in world.of_gang("Pod"):
        world.kube.drop("Pod", pod)


def kill_raylet(world: NotedWorld) -> None:
    """Its container ends with it, and no pod of a gang is started twice."""
    for pod in world.of_gang("Pod")[-1:]:
        world.kube._things["Pod", pod]["status"] = {"phase": "Failed"}
        world.kube._running.discard(pod)
        world.kube._version += 1


def delete_claim(world: NotedWorld) -> None:
    """By hand; Kubernetes keeps one that is in use until its pod has ended."""
    claims = world.of_gang("ResourceClaim")
    if claims:
        FakeKube.delete(world.kube, "ResourceClaim", claims[-1])


def lose_the_head(world: NotedWorld) -> None:
    """With its control store: Ray begins anew, and programs end."""
    world.store.data.clear()
    for raylet in [name for name, node in world.ray.nodes.items() if node.alive]:
        world.ray.kill_node(raylet)
    world.ray.groups.clear()
    world.ray.nodes.clear()
    world.restart()


VICTIMS: Mapping[str, Callable[[NotedWorld], None]] = {
    "nobody": lambda world: None,  # the coordinator alone
    "a worker's pod": kill_pod,
    "two workers' pods": kill_all_pods,
    "a raylet": kill_raylet,
    "a node, deleted": lambda world: world.kube.delete_node(victim_node(world)),
    "a node, NoExecute": lambda world: world.kube.taint(victim_node(world), "NoExecute"),
    "a node, cordoned": lambda world: world.kube.cordon(victim_node(world)),
    "a kubelet": lambda world: world.kube.lose_node(victim_node(world)),
    "a GPU, NoExecute": lambda world: world.kube.taint_device(victim_node(world), "gpu-0", "NoExecute"),
    "a GPU, NoSchedule": lambda world: world.kube.taint_device(victim_node(world), "gpu-0", "NoSchedule"),
    "a claim": delete_claim,
    "a ComputeDomain": lambda world: world.kube.drop("ComputeDomain"),
    "the head": lose_the_head,
}
