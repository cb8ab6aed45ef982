"""A coordinator over fake ports, and what must hold of it at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.coordinator.gpu_id_map import Seen
from ray_dra.coordinator.status import Status
from ray_dra.core.cluster.node_state import exclusive_key
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.request import GangRequest
from ray_dra.ports.nvml import FabricReading, GpuReading, LinkReading, NodeReading
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.translate.files.records import gang_from_bytes
from ray_dra.translate.names import NODE_LABEL

RACK = "9c6f5af3-53bf-49b5-a436-b66766c413c3"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Crash(BaseException):
    """The coordinator is killed."""


class CrashingStore(MemoryStore):
    """Dies before or after the n-th write, or raises another `error` there."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.error: type[BaseException] = Crash
        self.after = False
        self.writes = 0

    def _write(self, do: Callable[[], None]) -> None:
        self.writes += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                if self.after:
                    do()
                raise self.error
        do()

    def put(self, key: str, value: bytes) -> None:
        self._write(lambda: super(CrashingStore, self).put(key, value))

    def delete(self, key: str) -> None:
        self._write(lambda: super(CrashingStore, self).delete(key))


def positions(devices: list[Seen]) -> list[int]:
    return [device.position for device in devices]


def tray(
    name: str, *, gpus: int = 4, rack: str = RACK, xids: tuple[int, ...] = (), lost: int | None = None
) -> NodeReading:
    links = tuple(LinkReading(True, "switch", f"00000000:c{s}:00") for s in range(2))
    readings = tuple(
        GpuReading(
            index=i,
            uuid=f"GPU-{name}-{i}",
            name="NVIDIA GB200",
            bus=f"00000000:1{i}:00",
            links=links,
            fabric=FabricReading(3, 0, rack, 1),
            xids=xids if i == 0 else (),
            lost=i == lost,
        )
        for i in range(gpus)
    )
    same = tuple(tuple(True for _ in range(gpus)) for _ in range(gpus))
    return NodeReading("580", readings, same, tuple(tuple(40 for _ in range(gpus)) for _ in range(gpus)))


class World:
    """Two racks of two trays with four GPUs each, unless told otherwise."""

    def __init__(self, nodes: int = 4, store: MemoryStore | None = None) -> None:
        self.ray = FakeRay()
        self.store = store or CrashingStore()
        self.clock = Clock()
        self.names = [f"t{i}" for i in range(nodes)]
        self.racks = {name: f"{RACK[:-1]}{i * 2 // nodes}" for i, name in enumerate(self.names)}
        self.incarnation = dict.fromkeys(self.names, 0)
        for name in self.names:
            self.ray.add_node(self.raylet(name), gpus=4, labels={NODE_LABEL: name})
        self.ray.jobs.add("job")
        self.coordinator = Coordinator(self.store, self.ray, self.clock)
        for name in self.names:
            self.report(name)

    def raylet(self, name: str) -> str:
        return f"{name}-{self.incarnation[name]}"

    def report(self, name: str, **reading: object) -> None:
        found = tray(name, rack=self.racks[name], **reading)  # type: ignore[arg-type]
        self.coordinator.report(self.raylet(name), found)

    def restart(self) -> None:
        """The coordinator is killed and comes back from the store."""
        self.coordinator = Coordinator(self.store, self.ray, self.clock, wall=self.coordinator._wall)

    def come_back(self) -> None:
        """The same, and agents say how their nodes are."""
        self.restart()
        for name in self.names:
            self.report(name)

    def pass_time(self, seconds: float = 5.0) -> None:
        """Time passes, agents go on speaking, Ray settles, and the coordinator looks at each second."""
        while seconds > 0:
            self.clock.now += min(seconds, 1.0)
            seconds -= 1.0
            self.ray.settle()
            for raylet in list(self.coordinator.nodes.heard):
                self.coordinator.nodes.heartbeat(raylet)
            self.coordinator.observe()

    def submit(self, request: GangRequest, **order: object) -> Status:
        return self.coordinator.submit(Order(request, owner="job", **order))  # type: ignore[arg-type]

    def place(self, gang: str) -> Status:
        """What the driver does once devices are held."""
        status = self.coordinator.status(gang)
        assert status.allocation is not None
        bundles = [
            {"GPU": float(len(p.grants)), **p.resources} if p.grants else dict(p.resources)
            for p in status.allocation.bundles
        ]
        group = self.ray.create_group(bundles, status.selectors, "job")
        try:
            status = self.coordinator.commit(gang, group, status.moves)
        except BaseException:
            self.ray.remove_group(group)  # as the api does
            raise
        self.coordinator.observe()
        return self.coordinator.status(gang)

    def check(self) -> None:
        """The invariants."""
        owners: dict[object, str] = {}
        for gang in self.coordinator.gangs.values():
            if gang.allocation is None:
                continue
            assert len(gang.allocation.bundles) == len(gang.request.bundles), "half a gang"
            for placed, bundle in zip(gang.allocation.bundles, gang.request.bundles, strict=True):
                assert len(placed.grants) == bundle.count
            for grant in (gang.holds or gang.allocation).held_grants:
                assert grant.device not in owners, f"{grant.device} is given twice"
                owners[grant.device] = gang.id
            assert {grant.device for grant in gang.allocation.grants} <= owners.keys()
        records, inventory = self.coordinator.records, self.coordinator.inventory
        kept = records.kept.holding() | records.own_spares.holding()
        for name, allocation in kept.items():
            for grant in allocation.grants:
                assert grant.device not in owners, f"{grant.device} is given, and kept"
                owners[grant.device] = name
        holding = {g.id: g.holds for g in self.coordinator.gangs.values() if g.holds is not None} | kept
        assert set(inventory.gangs) == set(holding)
        alone = {exclusive_key(c): g for g, held in holding.items() for c, _ in held.counters}
        for clique in inventory.clique_states.values():
            assert clique.owner == alone.get(clique.id), "a clique for one gang alone"
        for state in inventory.node_states.values():
            held = {state.grants[i].device for i in range(len(state.grants)) if state.held >> i & 1}
            assert held == {d for d in owners if d in {g.device for g in state.grants}}
            assert not state.free & (state.held | state.busy)
        for clique in inventory.clique_states.values():
            assert clique.free == sum((s.free & s.members[clique.id]).bit_count() for s in clique.node_states)
        recorded = {k.removeprefix("gang/") for k in self.store.keys("gang/")}
        assert recorded == set(self.coordinator.gangs)
        self.coordinator.engine.validate()
        self._check_store()

    def _check_store(self) -> None:
        """What is stored of a gang is what is in memory, but for what was only seen, and for programs that ended."""
        for gang in self.coordinator.gangs.values():
            stored = gang_from_bytes(self.store.data[f"gang/{gang.id}"])
            orphan = stored.allocation is None and gang.releasing
            stored = replace(stored, history=(), times=gang.times, releasing=orphan or stored.releasing)
            assert stored == replace(gang, history=())

    def check_empty(self) -> None:
        """Nothing is left behind."""
        assert not self.coordinator.gangs
        assert not self.store.keys("gang/")
        assert not self.store.keys("map/")
        assert all(not s.held for s in self.coordinator.inventory.node_states.values())


__all__ = ["Crash", "CrashingStore", "Phase", "World", "tray"]
