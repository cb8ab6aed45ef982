"""The rules by which NVML's answers become cliques and health, each combination of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.clique import box_clique, fabric_clique
from ray_dra.core.model.device import Health
from ray_dra.ports.nvml import FabricReading, GpuReading, LinkReading, MigReading, NodeReading
from ray_dra.translate.nvml.reading import (
    APPLICATION_XIDS,
    FABRIC_COMPLETED,
    HEALTH_UNHEALTHY,
    ZERO_UUID,
    clique_of,
    node_from_reading,
    profile_of,
)

RACK = "9c6f5af3-53bf-49b5-a436-b66766c413c0"
GPU = GpuReading(0, "GPU-0", "NVIDIA GB200", "00000000:10:00.0", memory=192 << 30)


def test_a_clique_is_one_only_where_the_fabric_is_complete_well_and_has_a_name() -> None:
    """Every combination of state, status, name, health summary and route health, on a box and not."""
    for state, status, uuid, summary, route, in_box in product(
        range(4), (0, 1), (RACK, ZERO_UUID), range(3), range(4), (False, True)
    ):
        fabric = FabricReading(state, status, uuid, 7, health_mask=route << 4, health_summary=summary)
        box = box_clique("n") if in_box else None
        if state == 0:  # the GPU has no fabric
            wanted = box
        elif state != FABRIC_COMPLETED or status or summary == HEALTH_UNHEALTHY or route == 1:
            wanted = None  # unknown is no clique, and not the box either
        else:
            wanted = box if uuid == ZERO_UUID else fabric_clique(RACK, 7)
        assert clique_of("n", fabric, in_box) == wanted, fabric
    assert clique_of("n", None, True) == box_clique("n")
    assert clique_of("n", None, False) is None


@pytest.mark.parametrize(
    ("change", "health", "said"),
    [
        ({}, Health.OK, ""),
        ({"lost": True}, Health.GONE, "lost"),
        ({"xids": (79,)}, Health.TAINTED, "XID 79"),
        ({"xids": (31, 79, 48)}, Health.TAINTED, "XID 79, 48"),
        ({"xids": tuple(sorted(APPLICATION_XIDS))}, Health.OK, ""),
        ({"remap_failed": True}, Health.DRAIN, "row remapping"),
        ({"mig": True}, Health.TAINTED, "MIG mode"),
        ({"recovery": 0}, Health.OK, ""),
        ({"recovery": 9}, Health.DRAIN, "recovery action 9"),
        *(
            ({"recovery": at}, Health.DRAIN, said)  # facts: nvmlGpuRecoveryAction
            for at, said in enumerate(("GPU reset", "node reboot", "drain needed", "drain and reset", "IMEX domain"), 1)
        ),
    ],
)
def test_a_gpu_is_well_unless_its_hardware_says_otherwise(change: dict[str, object], health: Health, said: str) -> None:
    (device,) = node_from_reading("n", NodeReading(gpus=(replace(GPU, **change),))).devices  # type: ignore[arg-type]
    assert device.health is health
    assert said in device.health_reason
    assert bool(device.health_reason) is (health is not Health.OK)


def test_a_lost_gpu_is_in_no_clique() -> None:
    fabric = FabricReading(FABRIC_COMPLETED, 0, RACK, 7)
    gpus = (replace(GPU, fabric=fabric), replace(GPU, index=1, uuid="GPU-1", fabric=fabric, lost=True))
    assert [d.clique for d in node_from_reading("n", NodeReading(gpus=gpus)).devices] == [fabric_clique(RACK, 7), None]


def test_what_nvml_does_not_say_is_not_made_up() -> None:
    (device,) = node_from_reading("n", NodeReading(gpus=(GpuReading(3, None),))).devices
    assert (device.uuid, dict(device.attributes), dict(device.capacity), device.clique) == (None, {}, {}, None)
    assert (device.id.device, device.index) == ("gpu-3", 3)


def test_a_reading_that_failed_is_a_node_that_is_not_ready_and_says_why() -> None:
    node = node_from_reading("n", NodeReading(gpus=(GPU,), error="the driver hangs"), labels={"a": "b"})
    assert (node.devices, node.ready, node.reason, node.labels) == ((), False, "the driver hangs", {"a": "b"})


@pytest.mark.parametrize(("trays", "order"), [((3, 3), 3), ((3, 4), None), ((None, 3), 3), ((None, None), None)])
def test_a_nodes_place_in_its_rack_is_the_one_that_its_gpus_agree_on(
    trays: tuple[int | None, int | None], order: int | None
) -> None:
    gpus = tuple(replace(GPU, index=at, uuid=f"GPU-{at}", tray=tray) for at, tray in enumerate(trays))
    assert node_from_reading("n", NodeReading(gpus=gpus)).order == order


FABRICS = st.none() | st.builds(
    FabricReading,
    state=st.sampled_from([0, 2, FABRIC_COMPLETED]),
    status=st.integers(0, 1),
    cluster_uuid=st.sampled_from([RACK, ZERO_UUID]),
    clique_id=st.integers(1, 2),
    health_summary=st.integers(0, HEALTH_UNHEALTHY),
)
LINKS = st.lists(st.sampled_from([None, LinkReading(True, "switch", "s"), LinkReading(True)]), max_size=3).map(tuple)


@given(st.lists(st.tuples(FABRICS, LINKS, st.booleans()), max_size=4), st.booleans())
def test_without_links_a_node_has_the_same_devices(
    seen: list[tuple[FabricReading | None, tuple[LinkReading | None, ...], bool]], peers: bool
) -> None:
    gpus = tuple(
        replace(GPU, index=at, uuid=f"GPU-{at}", fabric=fabric, links=links, lost=lost)
        for at, (fabric, links, lost) in enumerate(seen)
    )
    reading = NodeReading(gpus=gpus, p2p=((peers,) * len(gpus),) * len(gpus))
    whole = node_from_reading("n", reading)
    assert node_from_reading("n", reading, with_links=False) == replace(whole, links=())


def test_a_worker_whose_fabric_names_its_clique_starts_without_networkx() -> None:
    """It is a sixth of a second of each worker's start."""
    code = (
        "import sys; from ray_dra.processes.start_hook import *; from ray_dra.translate.files.readings import *;"
        "from ray_dra.translate.nvml.reading import *; from ray_dra.ports.nvml import *;"
        f"fabric = FabricReading(FABRIC_COMPLETED, 0, {RACK!r}, 7); gpu = GpuReading(0, 'GPU-0', fabric=fabric);"
        "node = node_from_reading('n', NodeReading(gpus=(gpu,)), with_links=False);"
        "print(node.clique, 'networkx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [fabric_clique(RACK, 7), "False"]


@pytest.mark.parametrize(
    ("total", "slices", "memory", "profile"),
    [
        (80 << 30, 1, 9984, "1g.10gb"),
        (80 << 30, 1, 20096, "1g.20gb"),
        (80 << 30, 3, 40448, "3g.40gb"),
        (80 << 30, 7, 81152, "7g.80gb"),
        (40 << 30, 1, 4864, "1g.5gb"),
        (40 << 30, 7, 40192, "7g.40gb"),
        (None, 2, 9984, "2g"),
    ],
)
def test_a_partition_has_the_profile_that_nvidia_names_it_by(
    total: int | None, slices: int, memory: int, profile: str
) -> None:
    mig = MigReading("MIG-0", 1, 0, slices, memory)
    gpu = replace(GPU, memory=total, mig=True, migs=(mig,))
    node = node_from_reading("n", NodeReading("580", (gpu, replace(GPU, index=1, uuid="GPU-1"))))
    named = replace(mig, name="NVIDIA A100-SXM4-40GB MIG 1g.5gb+me")
    assert profile_of(gpu, named) == "1g.5gb+me"
    (parted,) = node.parted
    assert (parted.uuid, parted.position) == ("GPU-0", None)
    assert [(part.profile, part.uuid, part.memory) for part in parted.parts] == [(profile, "MIG-0", memory << 20)]
    assert [device.health for device in node.devices] == [Health.TAINTED, Health.OK]  # nobody can have it whole
