"""The openb trace: its nodes, its pods, and FGD's way of running them.

Pods of the trace, plus random ones of them again until the demand for GPUs is 1.3 times the capacity, in
an order shuffled by the seed, arrive one by one and never leave; one that does not fit is dropped. The seed puts the
nodes into an order of its own, too: of equal ones the first is taken, and FGD's simulator numbers them at random.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ray_dra.core.model.device import Device, DeviceId
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import WHOLE, Bundle, DeviceRequest
from ray_dra.core.model.topology import Topology
from ray_dra.core.policy.fgd import Demand

POPULAR = 0.95  # of the pods; the rarer kinds are left out of the mix, as in FGD's configuration


@dataclass(frozen=True, slots=True)
class Pod:
    cpus: float
    memory: float
    gpus: int
    share: int
    models: tuple[str, ...]

    @property
    def thousandths(self) -> int:
        return self.gpus * self.share

    @property
    def bundle(self) -> Bundle:
        share = self.share if self.share < WHOLE else None
        devices = (DeviceRequest(self.gpus, products=self.models, share=share),) if self.gpus else ()
        return Bundle(devices, {"CPU": self.cpus, "memory": self.memory})


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        yield from csv.DictReader(file)


def nodes(folder: Path) -> Topology:
    """The trace's GPU nodes. Cliques are not known of them."""
    return Topology.of(
        _node(row["sn"], row["model"], int(row["gpu"]), float(row["cpu_milli"]), float(row["memory_mib"]))
        for row in _rows(folder / "openb_node_list_gpu_node.csv.gz")
    )


def numbered(topology: Topology, seed: int) -> Topology:
    """The same nodes in an order that the seed gives."""
    found = sorted(topology.nodes.values(), key=lambda node: node.name)
    random.Random(f"nodes {seed}").shuffle(found)
    return Topology.of(replace(node, name=f"{i:04}-{node.name}") for i, node in enumerate(found))


def pods(folder: Path, workload: str) -> list[Pod]:
    """One pod list; equal pods are one object."""
    made: dict[Pod, Pod] = {}
    found = []
    for row in _rows(folder / f"openb_pod_list_{workload}.csv.gz"):
        gpus = int(row["num_gpu"])
        models = tuple(filter(None, row.get("gpu_spec", "").split("|")))
        pod = Pod(float(row["cpu_milli"]), float(row["memory_mib"]), gpus, int(row["gpu_milli"]) if gpus else 0, models)
        found.append(made.setdefault(pod, pod))
    return found


def synthetic() -> tuple[list[Pod], Topology]:
    """Seeded pods and 60 nodes that look like the trace's, for those who do not have it."""
    dice = random.Random(5)
    kinds = [(8000.0, 1, 1000), (6000.0, 1, 460), (4000.0, 1, 250), (12000.0, 1, 800), (32000.0, 4, 1000)]
    kinds += [(64000.0, 8, 1000), (10000.0, 0, 0), (16000.0, 2, 1000)]
    weights = (30, 18, 14, 12, 3, 3, 12, 4)
    pods_made = [
        Pod(cpus, cpus * 2, gpus, share, ("G2",) if gpus == 1 and dice.random() < 0.1 else ())
        for cpus, gpus, share in dice.choices(kinds, weights, k=280)
    ]
    rows = [("G2", 8, 96000.0)] * 30 + [("T4", 2, 104000.0)] * 20 + [("V100", 4, 48000.0)] * 10
    return pods_made, Topology.of(_node(f"node-{i:02}", m, g, c, c * 4) for i, (m, g, c) in enumerate(rows))


def _node(name: str, model: str, gpus: int, cpus: float, memory: float) -> Node:
    devices = (
        Device(DeviceId("gpu.nvidia.com", name, f"gpu-{i}"), i, None, attributes={"product": model})
        for i in range(gpus)
    )
    return Node(name, tuple(devices), resources={"CPU": cpus, "memory": memory})


def mix(trace: list[Pod]) -> list[Demand]:
    """The kinds of pod that make up `POPULAR` of the trace, by CPU, GPUs and model, with their frequencies."""
    kinds = Counter((p.cpus, p.gpus, p.share, p.models) for p in trace)
    chosen = []
    seen = 0
    for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])):
        if seen >= POPULAR * len(trace):
            break
        chosen.append((kind, count))
        seen += count
    return [
        Demand(count / seen, gpus, share or WHOLE, models, (("CPU", cpus),))
        for (cpus, gpus, share, models), count in chosen
    ]


def arrivals(trace: list[Pod], capacity: int, seed: int, until: float = 1.3) -> list[Pod]:
    """The pods in the order in which they come; `capacity` in thousandths."""
    dice = random.Random(seed)
    found = list(trace)
    demand = sum(p.thousandths for p in trace)
    while demand < until * capacity:
        pod = dice.choice(trace)
        found.append(pod)
        demand += pod.thousandths
    dice.shuffle(found)
    return found
