"""Random lives of gangs that may shrink, on Kubernetes: faults that come and go, spares, the coordinator killed.

No device twice, whole segments alone, never fewer bundles than enough; and once all is well every gang is ready again,
or waits for a true reason, and nothing is left behind.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import Way, on_fault, segment_of
from ray_dra.core.model.locality import Locality
from ray_dra.errors import RayDraError, UnsatisfiableError
from ray_dra.translate.names import SPARES_ANNOTATION
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles
from tests.core.machines import group_id

from .fault_worlds import HERE, KubeWorld
from .world import Crash, CrashingStore

WAYS = [
    *[("shrink",)] * 2,
    ("replace", "shrink"),
    ("shrink", "restart"),
    ("replace", "shrink", "restart"),
    ("shrink", "degrade"),
    ("restart",),
    ("degrade",),
]
LOCALITIES = [
    *[Locality(cliques=1)] * 2,
    *[Locality(segment=2)] * 2,
    Locality(),
    Locality(cliques=1, exclusive=True),
    Locality(cliques=2, segment=2),
    Locality(cliques=1, required=False),
]
FAULTS = ["its pod", "NoExecute", "NoExecute", "cordon", "kubelet", "device", "image"]


class MortalWorld(KubeWorld):
    """Dies at writes to the store, too, and maybe while it starts."""

    def __init__(self, nodes: int, cliques: int) -> None:
        super().__init__(nodes, cliques)
        self.store: CrashingStore = CrashingStore()
        self.restart()

    def restart(self) -> None:
        for _ in range(8):
            try:
                return super().restart()
            except Crash:
                pass
        super().restart()

    def _pods(self) -> None:
        """Their writes are none of the coordinator's."""
        left, self.store.left = self.store.left, None
        super()._pods()
        self.store.left = left


class Life:
    """`happened`: how often what did."""

    def __init__(self, seed: int, happened: Counter[str]) -> None:
        self.random, self.happened = random.Random(seed), happened
        self.count = self.random.choice([6, 8, 12])
        self.world = MortalWorld(self.count, self.random.choice([1, 2, 2, 3]))
        self.faulty: dict[str, str] = {}
        self.gangs: dict[str, Order] = {}
        self.sizes: dict[str, int] = {}
        self.asked = 0
        if self.random.random() < 0.4:
            self.world.kube.annotate_raycluster({SPARES_ANNOTATION: "1"})
            self.world.turn()  # who was asked for before waits as long as it says so

    def submit(self) -> None:
        choose = self.random.choice
        locality, ways = choose(LOCALITIES), choose(WAYS)
        size = locality.segment or 1
        bundles = size * choose([2, 2, 3] if size > 1 else [2, 2, 3, 4, 4, 6])
        least = choose([size, *range(size, bundles, size)]) if "shrink" in ways else None
        self.asked += 1
        request = request_from_bundles([{"GPU": choose([4.0, 4.0, 4.0, 2.0, 1.0])}] * bundles, locality=locality)
        request = replace(
            request,
            gang=group_id(f"g{self.asked}"),
            priority=choose([0, 0, 1]),
            preemptible=self.random.random() < 0.2,
        )
        declared = on_fault(ways, choose([0.0, 1.0, 5.0]), min_bundles=least)
        may_spare = declared.acts and not locality.exclusive
        order = Order(
            request, owner="job", on_fault=declared, maker=HERE, spares=choose([0, 0, 1, 2]) if may_spare else 0
        )
        try:
            self.ask(lambda: self.world.coordinator.submit(order))
        except UnsatisfiableError:
            return
        self.gangs[request.gang] = order

    def ask(self, call: Callable[[], object]) -> None:
        """As Ray sends a call again to a coordinator that died."""
        for _ in range(8):
            try:
                call()
                return
            except Crash:
                self.world.restart()
        call()

    def fault(self) -> None:
        kube, choose = self.world.kube, self.random.choice
        held = [gang.allocation.nodes for gang in self.world.coordinator.gangs.values() if gang.allocation is not None]
        near = held and self.random.random() < 0.8
        node, kind = choose(sorted({*choose(held)} if near else kube.nodes)), choose(FAULTS)
        if kind == "its pod":
            self.world.kill_pod(node)
            return
        self.faulty[node] = kind
        if kind == "NoExecute":
            kube.taint(node, "NoExecute")
        elif kind == "cordon":
            kube.cordon(node)
        elif kind == "kubelet":
            kube.lose_node(node)
        elif kind == "device":
            kube.taint_device(node, "gpu-1", choose(["NoExecute", "NoSchedule"]))
        else:
            kube.break_registry(node)

    def heal(self) -> None:
        kube = self.world.kube
        node = self.random.choice(sorted(self.faulty))
        del self.faulty[node]
        kube.taint(node, "")
        kube.cordon(node, False)
        kube.regain_node(node)
        kube.taint_device(node, "gpu-1", "")
        kube.break_registry(*[name for name, kind in self.faulty.items() if kind == "image"])

    def kill(self) -> None:
        place, write, after = self.random.choice(["kube", "ray", "store"]), self.random.randint(0, 4), self.flip()
        if place == "store":
            self.world.store.left, self.world.store.after = write, after
        else:
            self.world.die_at(place, write, after=after)

    def flip(self) -> bool:
        return self.random.random() < 0.5

    def release(self) -> None:
        name = self.random.choice(sorted(self.gangs))
        del self.gangs[name]
        self.ask(lambda: self.world.coordinator.release(name))

    def make_groups(self) -> None:
        """As a driver does that comes back for its first placement group, also where something is lost by then."""
        for name in self.gangs:
            status = self.world.coordinator.status(name) if name in self.world.coordinator.gangs else None
            if status is None or status.phase not in (Phase.HELD, Phase.DEGRADED) or status.group is not None:
                continue
            group = self.world.ray.create_group(
                ray_bundles(self.world.coordinator.gangs[name].request), status.selectors, "job"
            )
            try:
                kept = self.world.coordinator.commit(name, group, status.moves).group == group
            except RayDraError:
                kept = False
            except Crash:
                self.world.restart()
                gang = self.world.coordinator.gangs.get(name)
                kept = gang is not None and group in gang.groups
            if not kept:
                self.world.spare()
                self.world.ray.remove_group(group)

    def turn(self, turns: int) -> None:
        for _ in range(turns):
            before = self.world.coordinator
            self.world.turn()
            self.make_groups()
            self.happened["killed"] += self.world.coordinator is not before
            self.check()

    def check(self) -> None:
        owners: dict[object, str] = {}
        for gang in self.world.coordinator.gangs.values():
            if gang.allocation is None or gang.holds is None:
                continue
            for grant in gang.holds.grants:
                assert owners.setdefault(grant.device, gang.id) == gang.id, "a device twice"
            size, count, locality = segment_of(gang.request), len(gang.request.bundles), gang.request.locality
            assert len(gang.allocation.bundles) == count
            if gang.shrunk is not None:
                ranks, least = gang.shrunk.ranks, gang.on_fault.min_bundles
                assert least is not None
                assert least <= len(ranks) < len(gang.shrunk.whole.bundles)
                for first in range(0, len(ranks), size):
                    assert ranks[first] % size == 0, "a whole segment"
                    assert ranks[first : first + size] == tuple(range(ranks[first], ranks[first] + size))
            elif gang.id in self.gangs:
                assert count == len(self.gangs[gang.id].request.bundles)
            if locality.required and locality.within_cliques:
                each = size if locality.segment is not None else count
                for first in range(0, count, each):
                    assert len({*gang.allocation.cliques[first : first + each]}) == 1 or locality.cliques == 2
            before = self.sizes.get(gang.id, count)
            self.happened["shrunk"] += count < before
            self.happened["grown"] += count > before
            self.sizes[gang.id] = count

    def amiss(self) -> list[object]:
        """Gangs that are neither ready nor wait for a true reason, though nothing is faulty any more."""
        found: list[object] = []
        for name, order in self.gangs.items():
            status = self.world.coordinator.status(name)
            nodes = self.world.coordinator.inventory.node_states.values()
            others = any(state.held for state in nodes)
            waits = status.phase is Phase.QUEUED and others and bool(status.waits_for)
            stays = {Way.RESTART, Way.REPLACE}.isdisjoint(order.on_fault.ways if order.on_fault is not None else ())
            half = stays and status.phase in (Phase.DEGRADED, Phase.DRAINING)  # its pods are gone, too few are left
            if status.phase is not Phase.READY and not waits and not half:
                found.append((name, status.phase, status.lost, [change.why for change in status.history]))
        return found

    def live(self, steps: int) -> None:
        for _ in range(3):
            self.submit()
        self.turn(20)
        for _ in range(steps):
            chance = self.random.random()
            if chance < 0.12 and len(self.gangs) < 4:
                self.submit()
            elif chance < 0.15 and self.gangs:
                self.release()
            elif chance < 0.4 and len(self.faulty) <= self.count // 3:
                self.fault()
            elif chance < 0.6 and self.faulty:
                self.heal()
            elif chance < 0.7:
                self.kill()
            self.turn(self.random.choice([1, 2, 5, 10, 30, 60]))
        self.world.store.left = None
        self.world.spare()
        while self.faulty:
            self.heal()
        for _ in range(20):
            self.turn(100)
            if not self.amiss():
                break
        assert not (amiss := self.amiss()), amiss
        for name in self.gangs:
            self.world.coordinator.release(name)
        self.world.settle(400)
        assert not self.world.store.keys("map/")
        assert all(group.state == "REMOVED" for group in self.world.ray.groups.values())


def lives(seeds: range, steps: int) -> Counter[str]:
    happened: Counter[str] = Counter()
    for seed in seeds:
        Life(seed, happened).live(steps)
    return happened


def test_few_short_lives() -> None:
    happened = lives(range(3, 11), 30)
    assert min(happened["shrunk"], happened["grown"], happened["killed"]) >= 3, happened


@pytest.mark.by_hand
@pytest.mark.parametrize("first", range(100, 200, 10))
def test_many_long_lives(first: int) -> None:
    happened = lives(range(first, first + 10), 60)
    assert min(happened["shrunk"], happened["grown"], happened["killed"]) >= 10, happened
