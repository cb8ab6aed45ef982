"""From what NVML said to a core Node. The rules are NVIDIA's, and the ones that peers got wrong.

- A multi-node clique counts only when the fabric is COMPLETED with SUCCESS, its cluster UUID is not
  zero and its health is not bad. An H100 box says COMPLETED with a zero UUID: a box of its own.
- While the fabric is still starting the clique is unknown, and unknown is no clique.
- XIDs of applications say nothing about the device.
- A GPU all of whose NVLinks are down is in no clique that its fabric names: that may say COMPLETED all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ray_dra.core.model.clique import box_clique, fabric_clique
from ray_dra.core.model.device import Attribute, Device, DeviceId, DomainId, FabricKind
from ray_dra.core.model.device_selector import COMPUTE_CAPABILITY, DRIVER_VERSION, MEMORY
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import Part, PartedGpu
from ray_dra.core.model.signs import Seen, Sign, health_of, worst
from ray_dra.ports.nvml import FabricReading, GpuReading, MigReading, NodeReading
from ray_dra.translate.nvml.nvlink import link_matrix, nvlink_graph, switched
from ray_dra.translate.vendors import NVIDIA

FABRIC_COMPLETED = 3
ZERO_UUID = "00000000-0000-0000-0000-000000000000"
HEALTH_UNHEALTHY = 2
ROUTE_UNHEALTHY_SHIFT = 4  # two-bit fields: 1 is true, 2 is false
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
MIG_IS_ON = "MIG mode is on: it cannot be had whole, and its parts are given by claims alone"
RECOVERY_NAMES = {
    1: "GPU reset needed",
    2: "node reboot needed",
    3: "drain needed",
    4: "drain and reset needed",
    5: "IMEX domain recovery needed",
}


def node_from_reading(
    name: str,
    reading: NodeReading,
    *,
    ray_node_id: str | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    with_links: bool = True,
) -> Node:
    """The node as the planner will see it. A reading with an error gives a node without devices, not ready.

    Args:
        with_links: False: nobody will ask which GPUs are linked. The graph of links is then made only where the clique
            cannot be told without it.
    """
    common = dict(resources or {})
    if reading.error is not None:
        return Node(
            name,
            ray_node_id=ray_node_id,
            resources=common,
            labels=dict(labels or {}),
            ready=False,
            reason=reading.error,
        )
    graph = nvlink_graph(reading) if with_links or not all(map(_names_clique, reading.gpus)) else None
    together = switched(graph) if graph is not None else frozenset()
    devices = tuple(_device(name, gpu, reading.driver, at in together) for at, gpu in enumerate(reading.gpus))
    trays = {gpu.tray for gpu in reading.gpus if gpu.tray is not None}
    return Node(
        name=name,
        devices=devices,
        ray_node_id=ray_node_id,
        links=link_matrix(graph, len(reading.gpus)) if graph is not None and with_links else (),
        ancestors=reading.ancestors,
        resources=common,
        labels=dict(labels or {}),
        order=trays.pop() if len(trays) == 1 else None,
        parted=tuple(_parted(name, gpu) for gpu in reading.gpus if gpu.mig and gpu.migs and gpu.uuid),
    )


def _device(node: str, gpu: GpuReading, driver: str | None, in_box: bool) -> Device:
    clique = None if gpu.lost else clique_of(node, gpu.fabric, in_box)
    health, reason = health_of(worst(signs_of(gpu)))
    attributes: dict[str, Attribute] = {}
    for key, value in (
        ("product", gpu.name),
        ("numa", gpu.numa),
        ("pciBusID", gpu.bus),
        ("chassisSlot", gpu.chassis_slot),
        (COMPUTE_CAPABILITY, gpu.compute_capability),
        (DRIVER_VERSION, driver),
    ):
        if value is not None:
            attributes[key] = value
    return Device(
        id=DeviceId(NVIDIA.driver, node, f"gpu-{gpu.index}"),
        index=gpu.index,
        uuid=gpu.uuid,
        attributes=attributes,
        capacity={} if gpu.memory is None else {MEMORY: gpu.memory},
        domains=() if clique is None else (clique,),
        health=health,
        health_reason=reason,
        fabric_kind=FabricKind.BOX if clique == box_clique(node) else FabricKind.MULTI_NODE,
    )


def _parted(node: str, gpu: GpuReading) -> PartedGpu:
    """A GPU in MIG mode, by its partitions in NVML's order. NVML gives them no name."""
    parts = tuple(
        Part(
            DeviceId(NVIDIA.driver, node, f"gpu-{gpu.index}-mig-{at}"),
            profile_of(gpu, mig),
            mig.uuid,
            mig.memory_mb << 20,
        )
        for at, mig in enumerate(gpu.migs)
    )
    return PartedGpu(gpu.uuid or "", parts, attributes={} if gpu.name is None else {"product": gpu.name})


def profile_of(gpu: GpuReading, mig: MigReading) -> str:
    """The profile by the device's name; else as NVIDIA makes it: compute slices, and eighths of the GPU's memory,
    rounded up, in GB. In a container NVML may not tell how much memory the whole GPU has: the slices alone then."""
    _, _, named = (mig.name or "").rpartition(" MIG ")
    if mig.name is not None and named != mig.name:
        return named
    if not gpu.memory:
        return f"{mig.slices}g"
    eighths = math.ceil(8 * (mig.memory_mb << 20) / gpu.memory)
    gigabytes = math.floor(eighths / 8 * -(-gpu.memory // (1 << 30)) + 0.5)
    return f"{mig.slices}g.{gigabytes}gb"


def _names_clique(gpu: GpuReading) -> bool:
    """Whether the fabric alone tells the GPU's clique, or that it is in none."""
    return gpu.lost or clique_of("", gpu.fabric, True) != box_clique("")


def clique_of(node: str, fabric: FabricReading | None, in_box: bool) -> DomainId | None:
    """The clique of one GPU; None is "unknown, or none", never a shared placeholder."""
    box = box_clique(node) if in_box else None
    if fabric is None or fabric.state == 0:  # not supported: A100, small virtual machines
        return box
    if fabric.state != FABRIC_COMPLETED or fabric.status != 0:
        return None
    if fabric.health_summary == HEALTH_UNHEALTHY or fabric.health_mask >> ROUTE_UNHEALTHY_SHIFT & 3 == 1:
        return None
    if fabric.cluster_uuid == ZERO_UUID:
        return box
    return fabric_clique(fabric.cluster_uuid, fabric.clique_id)


def signs_of(gpu: GpuReading) -> Iterator[Seen]:
    """What NVML shows amiss with a GPU."""
    if gpu.lost:
        yield Seen(Sign.GPU_GONE, "the GPU is lost")
    for sign, codes in (
        (Sign.XID_OF_HARDWARE, [x for x in gpu.xids if x not in APPLICATION_XIDS]),
        (Sign.XID_OF_APPLICATION, [x for x in gpu.xids if x in APPLICATION_XIDS]),
    ):
        if codes:
            yield Seen(sign, f"XID {', '.join(map(str, codes))}")
    if gpu.recovery:
        yield Seen(Sign.RECOVERY_ACTION, RECOVERY_NAMES.get(gpu.recovery, f"recovery action {gpu.recovery}"))
    if gpu.remap_failed:
        yield Seen(Sign.REMAP_FAILED, "row remapping failed")
    if gpu.mig:
        if not gpu.recovery and not gpu.remap_failed:  # which say more
            yield Seen(Sign.MIG_ON, MIG_IS_ON)
        return  # it shows no NVLinks
    links = [link for link in gpu.links if link is not None]
    down = sum(not link.active for link in links)
    # Without a fabric that is up, links may never have been: a card without its bridge shows them all inactive.
    if down and gpu.fabric is not None and (gpu.fabric.state, gpu.fabric.status) == (FABRIC_COMPLETED, 0):
        sign = Sign.ALL_LINKS_DOWN if down == len(links) else Sign.SOME_LINKS_DOWN
        yield Seen(sign, f"{down} of {len(links)} NVLinks are down")
