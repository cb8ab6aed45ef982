"""The openb trace: its nodes, its pods, and FGD's way of running them.

Pods of the trace, plus random ones of them again until the demand for GPUs is 1.3 times the capacity, in
an order shuffled by the seed, arrive one by one and never leave; one that does not fit is dropped.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_dra.core.gradient import Demand
from ray_dra.core.request import WHOLE, Bundle, DeviceRequest
from ray_dra.core.topology import Device, DeviceId, Node, Topology

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
        Node(
            row["sn"],
            tuple(
                Device(DeviceId("gpu.nvidia.com", row["sn"], f"gpu-{i}"), i, None, attributes={"product": row["model"]})
                for i in range(int(row["gpu"]))
            ),
            resources={"CPU": float(row["cpu_milli"]), "memory": float(row["memory_mib"])},
        )
        for row in _rows(folder / "openb_node_list_gpu_node.csv.gz")
    )


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
