"""What a device has reaches the planner alike from ResourceSlices, from NVML, and from a snapshot's file."""

from __future__ import annotations

from pathlib import Path

import pytest

import ray_dra
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device_selector import COMPUTE_CAPABILITY, DRIVER_VERSION, MEMORY, value_of
from ray_dra.core.model.node import Node
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.ports.nvml import GpuReading, NodeReading
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.files.snapshot import Snapshot, dump_snapshot, load_request, load_snapshot
from ray_dra.translate.nvml.reading import node_from_reading
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.translate.kube.objects import node

SIMULATED = simulated_nodes("hgx-h100", nodes=1)[0]


def by_nvml() -> Node:
    gpus = tuple(
        GpuReading(i, SIMULATED.uuid(i), SIMULATED.profile.product, memory=80 << 30, compute_capability="9.0")
        for i in range(SIMULATED.profile.gpus)
    )
    return node_from_reading(SIMULATED.name, NodeReading("580.65.06", gpus), resources={"CPU": 64.0})


def by_snapshot() -> Node:
    return load_snapshot(dump_snapshot(Snapshot((by_nvml(),)))).nodes[0]


SOURCES = {"ResourceSlices": lambda: node(SIMULATED), "NVML": by_nvml, "a snapshot": by_snapshot}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_says_the_same(source: str) -> None:
    for device in SOURCES[source]().devices:
        has = [value_of(device, name) for name in (MEMORY, COMPUTE_CAPABILITY, DRIVER_VERSION)]
        assert has == [80 << 30, (9, 0, 0), (580, 65, 6)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"memory": ">=80G", "compute_capability": ">=9.0", "driver_version": ">=580"}, True),
        ({"memory": ">=81Gi"}, False),
        ({"compute_capability": ">=10.0"}, False),
        ({"driver_version": ">=590"}, False),
        ({"product": "NVIDIA H100 80GB HBM3", "memory": "80Gi"}, True),
    ],
    ids=str,
)
def test_the_planner_matches_it(source: str, asked: dict[str, str], fits: bool) -> None:
    request = request_from_bundles([{"GPU": 4}] * 2, devices=ray_dra.gpu(**asked))
    answer = plan(Inventory([SOURCES[source]()]), request)
    assert isinstance(answer, Allocation) is fits
    if isinstance(answer, Unsatisfiable):
        assert answer.shortfalls[0].kind is ShortfallKind.ATTRIBUTE
        assert answer.shortfalls[0].place.id == SIMULATED.name


def test_a_file_of_a_gang_says_it_by_the_names_of_gpu(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(dump_snapshot(Snapshot((by_nvml(),))))
    request = load_request('bundles: [{GPU: 8}]\ndevices: {memory: ">=80G", driver_version: ["!=575.1", ">=570"]}')
    assert isinstance(plan(Inventory([by_nvml()]), request), Allocation)
    refused = ray_dra.plan([{"GPU": 1}], devices=ray_dra.gpu(memory=">=100G"), cluster=path)
    assert isinstance(refused, Unsatisfiable)
    with pytest.raises(ray_dra.InvalidSnapshot, match="gpu"):
        load_request("bundles: [{GPU: 1}]\ndevices: {colour: red}")
