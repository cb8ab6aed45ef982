"""Clusters for the planner's benchmarks, by a short text: `nvl72:RACKS`, `boxes8:N`, `mix:N`.

`mix:N` is N boxes of 8 H100s, N DGX-1 (8 V100s that are partly connected) and as many GPUs again in
NVL72 racks. Numbers after a slash put levels above the cliques: in `nvl72:36/4/3` four racks are below
each leaf and three leaves below each spine, so there are nine leaves and three spines (a third number:
spines below each core). The last domain of a level has what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ray_dra.core.model.clique import box_clique, fabric_clique
from ray_dra.core.model.device import Attribute, Device, DeviceId, FabricKind
from ray_dra.core.model.node import Links, Node
from ray_dra.core.model.topology import Topology

TRAYS = 18  # compute trays of an NVL72 rack, 4 GPUs each
LEVELS = ("leaf", "spine", "core")
"""Labels of nodes that name the domains above their cliques, the lowest level first."""
CLUSTER_UUID = "9c6f5af3-53bf-49b5-a436-b66766c413c3"

# Links between each two GPUs of a DGX-1 V100, from NVIDIA's description of the machine.
DGX1: Links = tuple(
    tuple(map(int, row))
    for row in ("01122000", "10210200", "12020010", "21200001", "20000112", "02001021", "00101202", "00012120")
)


def full(gpus: int) -> Links:
    """Every two linked, as by switches."""
    return tuple(tuple(18 * (i != j) for j in range(gpus)) for i in range(gpus))


TRAY_LINKS, BOX_LINKS = full(4), full(8)


def machine(
    name: str, gpus: int, links: Links, clique: str | None, product: str, cpus: float, order: int | None = None
) -> Node:
    """One node; the first half of its GPUs is on NUMA node 0."""
    kinds: list[dict[str, Attribute]] = [{"product": product, "numa": n} for n in (0, 1)]
    kind = FabricKind.BOX if clique == box_clique(name) else FabricKind.MULTI_NODE
    devices = tuple(
        Device(
            id=DeviceId("gpu.nvidia.com", name, f"gpu-{i}"),
            index=i,
            uuid=f"GPU-{name}-{i}",
            attributes=kinds[2 * i >= gpus],
            domains=() if clique is None else (clique,),
            fabric_kind=kind,
        )
        for i in range(gpus)
    )
    return Node(name, devices, links=links, resources={"CPU": cpus}, order=order)


def racks(count: int) -> Iterator[Node]:
    for rack in range(count):
        clique = fabric_clique(CLUSTER_UUID, rack)
        for tray in range(TRAYS):
            yield machine(f"rack{rack}-tray{tray}", 4, TRAY_LINKS, clique, "NVIDIA GB200", 144.0, tray)


def boxes(count: int) -> Iterator[Node]:
    for i in range(count):
        name = f"h100-{i}"
        yield machine(name, 8, BOX_LINKS, box_clique(name), "NVIDIA H100 80GB HBM3", 192.0)


def dgx1(count: int) -> Iterator[Node]:
    for i in range(count):
        yield machine(f"dgx1-{i}", 8, DGX1, None, "Tesla V100-SXM2-32GB", 80.0)


def flat(topology: Topology) -> Topology:
    """The same nodes as if all their GPUs were one clique: for a bound that counts GPUs alone."""
    clique = fabric_clique(CLUSTER_UUID, 0)
    nodes = []
    for node in topology.nodes.values():
        devices = [replace(d, domains=(clique,), fabric_kind=FabricKind.MULTI_NODE) for d in node.devices]
        nodes.append(replace(node, devices=tuple(devices), links=full(len(devices))))
    return Topology.of(nodes)


def below(nodes: Iterable[Node], sizes: Sequence[int]) -> list[Node]:
    """The nodes with labels of levels: `sizes`, how many cliques a leaf has, how many leaves a spine, and so on."""
    cliques: dict[str, int] = {}
    found = []
    for node in nodes:
        at = cliques.setdefault(node.clique or node.name, len(cliques))
        labels = {}
        for level, size in zip(LEVELS, sizes, strict=False):
            at //= size
            labels[level] = f"{level}{at}"
        found.append(replace(node, labels={**node.labels, **labels}))
    return found


def cluster(shape: str) -> Topology:
    """The cluster that a text names; ValueError for one that is unknown."""
    kind, _, numbers = shape.partition(":")
    count, *sizes = map(int, numbers.split("/"))
    if kind not in _NODES or count < 1 or len(sizes) > len(LEVELS) or min(sizes, default=1) < 1:
        raise ValueError(
            f"unknown cluster {shape!r}: nvl72:RACKS, boxes8:N or mix:N, and with levels above cliques nvl72:RACKS/4/3"
        )
    return Topology.of(below(_NODES[kind](count), sizes))


def mixed(count: int) -> Iterator[Node]:
    yield from boxes(count)
    yield from dgx1(count)
    yield from racks(max(1, round(count * 8 / 72)))


_NODES = {"nvl72": racks, "boxes8": boxes, "mix": mixed}
