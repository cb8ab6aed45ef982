"""A coordinator on a fake Kubernetes with KubeRay and Ray, killed at any of its writes, and what must hold of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.locality import Locality
from ray_dra.ports.kube_objects import KubeNode, Pod
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.simulated.dra.devices import gpu_pool, node_labels, slices
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.files.shared_records import MARK, slot_from_bytes
from ray_dra.translate.names import GO_KEY, SLOT_KEY, SLOT_LABEL, SLOT_VARIABLE, VERIFIED_KEY
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles
from ray_dra.translate.vendors import part_resources
from tests.coordinator.world import Clock, Crash
from tests.translate.kube.objects import cluster

POD = "pod"  # a label of raylets here: the uid of the pod that each is in


class CrashingKube(FakeKube):
    """Dies before or after the n-th write."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.writes = 0
        self.doubled = False  # the scheduler gave devices out twice
        self.opened: list[str] = []  # pods
        self._left: int | None = None  # writes until the coordinator dies
        self._after = False
        self._late = 0
        self._before = KubeView()

    def die_at(self, write: int, *, after: bool) -> None:
        """The coordinator dies at one of its next writes, before or after it has happened."""
        self._left, self._after = write, after

    def lag(self, looks: int) -> None:
        """So many looks see the cluster as it was before the first gate was opened."""
        self._late = looks

    def view(self) -> KubeView:
        if self._late and self.opened:
            self._late -= 1
        else:
            self._before = super().view()
        return self._before

    def create(self, thing: Object) -> str:
        made: list[str] = []
        self._mortally(lambda: made.append(super(CrashingKube, self).create(thing)))
        return made[0]

    def patch(self, kind: str, name: str, change: Object) -> None:
        self._mortally(partial(super().patch, kind, name, change))
        if kind == "Pod":
            self.opened.append(name)

    def delete(self, kind: str, name: str) -> None:
        self._mortally(partial(super().delete, kind, name))

    def _mortally(self, write: Callable[[], None]) -> None:
        self.writes += 1
        due = self._left == 0
        if self._left is not None:
            self._left = None if due else self._left - 1
        if not due or self._after:
            write()
        if due:
            raise Crash


class World:
    """Two racks of two trays, KubeRay, Ray, and a coordinator that may be killed. `gates`: the DRA driver's.
    `there`: other nodes."""

    def __init__(
        self,
        nodes: int = 4,
        cliques: int | None = 2,
        profile: str = "gb200-nvl72",
        gates: frozenset[str] = frozenset(),
        there: Sequence[tuple[KubeNode, list[dict[str, Any]]]] = (),
        raycluster: dict[str, Any] | None = None,
    ) -> None:
        machines = simulated_nodes(profile, nodes=nodes, cliques=cliques) if not there else []
        self.kube = CrashingKube(
            raycluster or cluster(),
            there
            or [
                (
                    KubeNode(m.name, labels=node_labels(m), cpus=8, memory=64 << 30),
                    slices(gpu_pool(m, {}, gates), m.name, 1),
                )
                for m in machines
            ],
        )
        self.store, self.ray, self.clock = MemoryStore(), FakeRay(), Clock()
        self.ray.jobs.add("job")
        self.coordinator = Coordinator(self.store, self.ray, self.clock, self.kube)

    def restart(self) -> None:
        self.coordinator = Coordinator(self.store, self.ray, self.clock, self.kube, wall=self.coordinator._wall)

    def order(self, bundles: int = 2, gpus: int = 4, **more: Any) -> Order:
        request = request_from_bundles([{"GPU": float(gpus)}] * bundles, locality=Locality(cliques=1))
        return Order(request, owner="job", **more)

    def later(self, seconds: int) -> None:
        """Time passes in which nobody does anything but the coordinator, which looks at each second."""
        for _ in range(seconds):
            self.clock.now += 1.0
            self.coordinator.observe()

    def turn(self) -> None:
        """Everybody does something once."""
        self.clock.now += 0.5
        self.kube.step()
        self._pods()
        try:
            self.coordinator.observe()
        except Crash:
            self.restart()
        assert self.kube.doubled or len(set(self.kube.claimed())) == len(self.kube.claimed())
        self._no_half_gang()
        self.coordinator.engine.validate()

    def _pods(self) -> None:
        """The start hook in each pod that runs, and raylets that come and go with pods."""
        living = set()
        for pod, got in self.kube.running():
            assert pod.attempt is not None
            label = self.slot_of(pod)
            expected = self.store.get(SLOT_KEY + label)
            if expected is None:
                continue
            planned = slot_from_bytes(expected)
            parts = Counter((gpu, profile) for gpu, profile, uuid in planned.parts if uuid is None)
            named = {*planned.uuids, *(uuid for _, _, uuid in planned.parts if uuid is not None)}
            made = got - named
            assert got >= named, "the scheduler was left a choice"
            assert Counter((gpu, profile) for gpu, profile, _ in (each.split("|") for each in made)) == parts
            self.store.put(VERIFIED_KEY + label, MARK)
            there = pod.name in self.ray.nodes and self.ray.nodes[pod.name].labels.get(POD) == pod.uid
            if there or self.store.get(GO_KEY + pod.attempt) is not None:
                living.add(pod.name)
                if not there:  # of a pod of this name before it, it is not
                    offered = part_resources(profile for _, profile, _ in planned.parts)
                    gpus = len(planned.shares or got)
                    self.ray.add_node(
                        pod.name, gpus=gpus, cpus=4, labels={SLOT_LABEL: label, POD: pod.uid}, resources=offered
                    )
        gone = [r for r, n in self.ray.nodes.items() if n.alive and SLOT_LABEL in n.labels and r not in living]
        for raylet in gone:
            self.ray.kill_node(raylet)

    def slot_of(self, pod: Pod) -> str:
        """As its start hook reads it from its environment."""
        (raw,) = (p for p in self.kube._of("Pod") if p["metadata"]["name"] == pod.name)
        env = {entry["name"]: entry.get("value") for entry in raw["spec"]["containers"][0]["env"]}
        return str(env[SLOT_VARIABLE])

    def _no_half_gang(self) -> None:
        for gang in self.coordinator.gangs:
            status = self.coordinator.status(gang)
            if status.phase is Phase.READY:
                joined = {n.labels[SLOT_LABEL] for n in self.ray.nodes.values() if n.alive and SLOT_LABEL in n.labels}
                assert {selector[SLOT_LABEL] for selector in status.selectors if SLOT_LABEL in selector} <= joined

    def drive(self, gang: str, turns: int = 80) -> Phase:
        """As a driver does: make the placement group when the gang is held, until it is ready."""
        for _ in range(turns):
            self.turn()
            status = self.coordinator.status(gang)
            if status.phase is Phase.HELD and status.group is None:
                bundles = ray_bundles(self.coordinator.gangs[gang].request)
                group = self.ray.create_group(bundles, status.selectors, "job")
                self.coordinator.commit(gang, group, status.moves)
            if status.phase is Phase.READY:
                return status.phase
        return self.coordinator.status(gang).phase

    def left(self) -> list[str]:
        return [*self.kube.left(), *self.store.keys(SLOT_KEY), *self.store.keys(GO_KEY)]

    def settle(self, turns: int = 60) -> None:
        for _ in range(turns):
            self.turn()
            if not self.left() and not self.coordinator.gangs:
                return
        raise AssertionError(f"still there: {self.left()}, {list(self.coordinator.gangs)}")
