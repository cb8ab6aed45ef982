"""A world of fakes with Kubernetes that remembers how it was at each write, and what may befall a gang there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import OnFault
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.translate.names import GANG_LABEL
from tests.coordinator.every_write import Noted, NotedKube, NotedRay, NotedStore
from tests.coordinator.fault_worlds import HERE, NAME, KubeWorld


class NotedKubeWorld(Noted, KubeWorld):
    """Racks of three trays."""

    ports: ClassVar[Mapping[str, type]] = {"kube": NotedKube, "ray": NotedRay, "store": NotedStore}

    def __init__(self, nodes: int = 6, cliques: int = 2) -> None:
        super().__init__(nodes, cliques)
        self.begin()

    def restart(self) -> None:
        KubeWorld.restart(self)

    def go_on(self) -> None:
        KubeWorld.turn(self)

    def ask(self, declared: OnFault, bundles: int = 2) -> None:
        asked = self.order(bundles, on_fault=declared, name="train")
        self.coordinator.submit(replace(asked, request=replace(asked.request, gang=NAME), maker=HERE))

    def fill(self, bundles: int = 3) -> str:
        other = self.coordinator.submit(self.order(bundles)).gang
        assert self.drive(other) is Phase.READY
        return other

    def strike(self, node: str) -> None:
        self.kube.taint(node, "NoExecute")

    def drain(self, node: str) -> None:
        self.kube.cordon(node)

    def mend(self, node: str) -> None:
        self.kube.taint(node, "")

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

    def leftovers(self) -> list[object]:
        alive = [name for name, raylet in self.ray.nodes.items() if raylet.alive]
        return [*self.left(), *self.store.keys(""), *self.kube.claimed(), *alive]


# -- what may befall it


def victim_node(world: NotedKubeWorld) -> str:
    """The node of its last bundle; where it has none, the first that somebody has, or that there is."""
    gang = world.coordinator.gangs.get(NAME)
    if gang is not None and gang.allocation is not None and gang.allocation.nodes[-1] in world.kube.nodes:
        return gang.allocation.nodes[-1]
    return min((node for node, _ in world.kube.claimed() if node in world.kube.nodes), default=min(world.kube.nodes))


def kill_pod(world: NotedKubeWorld, at: int = -1) -> None:
    pods = world.of_gang("Pod")
    if pods:
        world.kube.drop("Pod", pods[at])


def kill_all_pods(world: NotedKubeWorld) -> None:
    for pod in world.of_gang("Pod"):
        world.kube.drop("Pod", pod)


def kill_raylet(world: NotedKubeWorld) -> None:
    """Its container ends with it, and no pod of a gang is started twice."""
    for pod in world.of_gang("Pod")[-1:]:
        world.kube._things["Pod", pod]["status"] = {"phase": "Failed"}
        world.kube._running.discard(pod)
        world.kube._version += 1


def delete_claim(world: NotedKubeWorld) -> None:
    """By hand; Kubernetes keeps one that is in use until its pod has ended."""
    claims = world.of_gang("ResourceClaim")
    if claims:
        FakeKube.delete(world.kube, "ResourceClaim", claims[-1])


def lose_the_head(world: NotedKubeWorld) -> None:
    """With its control store: Ray begins anew, and programs end."""
    world.store.data.clear()
    for raylet in [name for name, node in world.ray.nodes.items() if node.alive]:
        world.ray.kill_node(raylet)
    world.ray.groups.clear()
    world.ray.nodes.clear()
    world.restart()


KUBE_VICTIMS: Mapping[str, Callable[[NotedKubeWorld], None]] = {
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
