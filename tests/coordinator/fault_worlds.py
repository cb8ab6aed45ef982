"""Worlds of fakes whose Unix time is their clock's, with a gang that has declared what is done about faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.discipline import DISCIPLINE
from ray_dra.core.gangs.gang import Maker
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import OnFault, on_fault
from ray_dra.core.model.locality import Locality
from ray_dra.translate.names import NODE_LABEL
from tests.coordinator import kubernetes_world
from tests.coordinator import world as raylets_world
from tests.coordinator.kills import MortalRay
from tests.core.machines import gang, group_id

NAME = group_id("train")
GRACE = 5.0
RESTART = on_fault("restart", GRACE)
ONE_CLIQUE = Locality(cliques=1)
HERE = Maker()  # the coordinator makes the placement group


class World(raylets_world.World):
    """Two racks of two trays of four GPUs. `discipline`, `queues`: of the coordinators from the next restart on."""

    discipline = DISCIPLINE
    queues: str | None = None

    def __init__(self, nodes: int = 4) -> None:
        super().__init__(nodes)
        self.ray.__class__ = MortalRay
        self.coordinator._wall = self.clock

    def restart(self) -> None:
        said = self.queues
        self.coordinator = Coordinator(
            self.store,
            self.ray,
            self.clock,
            wall=self.clock,
            discipline=self.discipline,
            queues=None if said is None else lambda: said,
        )

    def with_gang(self, declared: OnFault = RESTART, *, maker: Maker | None = HERE, **order: Any) -> None:
        """A gang over a rack, placed."""
        request = gang(4, 4, name=NAME, locality=ONE_CLIQUE)
        self.submit(request, on_fault=declared, maker=maker, **order)
        if maker is None:
            self.place(NAME)
        self.pass_time(3)
        assert self.status.phase is Phase.READY

    @property
    def status(self) -> Status:
        return self.coordinator.status(NAME)

    @property
    def nodes(self) -> set[str]:
        allocation = self.status.allocation
        return set(allocation.nodes) if allocation is not None else set()

    def lose_raylet(self, node: str) -> None:
        self.ray.kill_node(self.raylet(node))

    def start_raylet(self, node: str) -> None:
        self.incarnation[node] += 1
        self.ray.add_node(self.raylet(node), gpus=4, labels={NODE_LABEL: node})
        self.coordinator.observe()
        self.report(node)

    def groups(self, state: str) -> list[str]:
        return [name for name, group in self.ray.groups.items() if group.state == state]


class KubeWorld(kubernetes_world.World):
    """Two racks of two trays, KubeRay, Ray. `discipline`: of the coordinators from the next restart on."""

    discipline = DISCIPLINE

    def __init__(self, nodes: int = 4, cliques: int = 2) -> None:
        super().__init__(nodes, cliques)
        self.ray.__class__ = MortalRay
        self.coordinator._wall = self.clock

    def restart(self) -> None:
        self.coordinator = Coordinator(
            self.store, self.ray, self.clock, self.kube, wall=self.clock, discipline=self.discipline
        )

    def with_gang(self, declared: OnFault = RESTART, *, bundles: int = 2) -> str:
        asked = self.order(bundles, on_fault=declared, name="train")
        asked = replace(asked, request=replace(asked.request, gang=NAME), maker=HERE)
        self.coordinator.submit(asked)
        assert self.drive(NAME) is Phase.READY
        return NAME

    @property
    def status(self) -> Status:
        return self.coordinator.status(NAME)

    @property
    def nodes(self) -> tuple[str, ...]:
        allocation = self.status.allocation
        return allocation.nodes if allocation is not None else ()

    def die_at(self, place: str, write: int, *, after: bool) -> None:
        """The coordinator is killed before or after so many more writes to "kube" or to "ray"."""
        assert isinstance(self.ray, MortalRay)
        mortal = self.kube if place == "kube" else self.ray
        mortal.die_at(write, after=after)

    def spare(self) -> None:
        """The coordinator is killed nowhere any more."""
        assert isinstance(self.ray, MortalRay)
        self.kube._left = self.ray.left = None

    def until_ready(self, turns: int = 80) -> Phase:
        """Nobody but the coordinator does anything for the gang."""
        for _ in range(turns):
            self.turn()
            if self.status.phase is Phase.READY:
                break
        return self.status.phase

    def kill_pod(self, node: str) -> None:
        """It is deleted by others, and ended."""
        for pod, _ in self.kube.running():
            if pod.node == node:
                self.kube.drop("Pod", pod.name)
