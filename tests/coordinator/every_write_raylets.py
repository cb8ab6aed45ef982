"""A world of fakes, of raylets that were there before, that remembers how it was at each write; and what may befall a
gang there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import OnFault
from ray_dra.ports.nvml import NodeReading
from tests.coordinator.every_write import Noted, NotedRay, NotedStore
from tests.coordinator.fault_worlds import HERE, NAME, ONE_CLIQUE, World
from tests.coordinator.world import tray
from tests.core.machines import gang


class NotedWorld(Noted, World):
    """Racks of three trays. `readings`: what the nodes' agents say."""

    ports: ClassVar[Mapping[str, type]] = {"ray": NotedRay, "store": NotedStore}
    more: ClassVar[tuple[str, ...]] = ("names", "racks", "incarnation", "readings")

    def __init__(self, nodes: int = 6) -> None:
        super().__init__(nodes)
        self.readings = {name: tray(name, rack=self.racks[name]) for name in self.names}
        self.begin()

    def restart(self) -> None:
        World.restart(self)

    def go_on(self) -> None:
        for name in self.names:
            raylet = self.raylet(name)
            if self.ray.nodes[raylet].alive:
                self.coordinator.report(raylet, self.readings[name])
        self.pass_time(1)
        self.check()

    def ask(self, declared: OnFault, bundles: int = 2) -> None:
        request = gang(*[4] * bundles, name=NAME, locality=ONE_CLIQUE)
        self.submit(request, on_fault=declared, maker=HERE)

    def fill(self, bundles: int = 3) -> str:
        name = f"other-{len(self.coordinator.gangs)}"
        self.submit(gang(*[4] * bundles, name=name, locality=ONE_CLIQUE))
        assert self.place(name).phase is Phase.READY
        return name

    def strike(self, node: str) -> None:
        self.readings[node] = tray(node, rack=self.racks[node], xids=(79,))

    def drain(self, node: str) -> None:
        reading = tray(node, rack=self.racks[node])
        self.readings[node] = replace(reading, gpus=(replace(reading.gpus[0], recovery=1), *reading.gpus[1:]))

    def mend(self, node: str) -> None:
        self.readings[node] = tray(node, rack=self.racks[node])

    def restart_raylet(self, name: str) -> None:
        self.ray.kill_node(self.raylet(name))
        self.start_raylet(name)

    def heal(self) -> None:
        self.readings = {name: tray(name, rack=self.racks[name]) for name in self.names}
        for name in self.names:
            node = self.ray.nodes[self.raylet(name)]
            if node.drains or not node.alive:
                self.restart_raylet(name)
        for other in [each for each in self.coordinator.gangs if each != NAME]:
            self.coordinator.release(other)

    def has_room(self) -> bool:
        taken = {
            node for gang in self.coordinator.gangs.values() if gang.holds is not None for node in gang.holds.nodes
        }
        free: dict[str, int] = {}
        for name in self.names:
            node, well = self.ray.nodes[self.raylet(name)], tray(name, rack=self.racks[name])
            if node.alive and not node.drains and name not in taken and self.readings[name] == well:
                free[self.racks[name]] = free.get(self.racks[name], 0) + 1
        return max(free.values(), default=0) >= len(self.coordinator.gangs[NAME].request.bundles)

    def leftovers(self) -> list[object]:
        held = [name for name, state in self.coordinator.inventory.node_states.items() if state.held]
        return [*self.store.keys("gang/"), *self.store.keys("map/"), *held]


def victim_node(world: NotedWorld) -> str:
    """The node of its last bundle; where it has none, the first."""
    gang = world.coordinator.gangs.get(NAME)
    return gang.allocation.nodes[-1] if gang is not None and gang.allocation is not None else world.names[0]


def lose_all(world: NotedWorld) -> None:
    gang = world.coordinator.gangs.get(NAME)
    for node in sorted(set(gang.allocation.nodes)) if gang is not None and gang.allocation is not None else ():
        world.lose_raylet(node)


def lose_a_gpu(world: NotedWorld) -> None:
    node = victim_node(world)
    world.readings[node] = tray(node, rack=world.racks[node], lost=1)


def hang(world: NotedWorld) -> None:
    world.readings[victim_node(world)] = NodeReading(error="NVML hangs")


def end_the_program(world: NotedWorld) -> None:
    world.ray.jobs.discard("job")


RAYLET_VICTIMS: Mapping[str, Callable[[NotedWorld], None]] = {
    "nobody": lambda world: None,  # the coordinator alone
    "a raylet": lambda world: world.lose_raylet(victim_node(world)),
    "a raylet, which is started again": lambda world: world.restart_raylet(victim_node(world)),
    "all raylets": lose_all,
    "a GPU, XID 79": lambda world: world.strike(victim_node(world)),
    "a GPU, gone": lose_a_gpu,
    "a GPU, to be recovered": lambda world: world.drain(victim_node(world)),
    "NVML": hang,
    "the program": end_the_program,
}
