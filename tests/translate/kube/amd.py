"""ResourceSlices as AMD's DRA driver publishes them: whole GPUs, partitions that are there, its partitions on demand,
and GPUs passed through. Formats after its source (1.0); values are ours, and no hardware has shown them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_dra.translate.vendors import AMD, BUS_ATTRIBUTE

MEMORY = 192 << 30
PRODUCT = "AMD_Instinct_MI300X_OAM"
BUSES = tuple(f"0000:{bus:02x}:00.0" for bus in (0x05, 0x26, 0x46, 0x65, 0x85, 0xA6, 0xC6, 0xE5))


def gpu(at: int, *, product: str = PRODUCT, **attributes: Any) -> dict[str, Any]:
    """A whole GPU. Like NVIDIA's it has a name by its numbers, and unlike it no UUID."""
    said = {
        "type": {"string": AMD.whole},
        "productName": {"string": product},
        "numaNode": {"int": at // 4},
        "driverVersion": {"version": "6.12.12"},
        "driverVersionFull": {"string": "6.12.12"},
        "deviceID": {"string": "0x74a1"},
        "partitionProfile": {"string": "spx_nps1"},
        BUS_ATTRIBUTE: {"string": BUSES[at]},
        **attributes,
    }
    return {
        "name": f"gpu-{at}-{128 + at}",
        "attributes": {name: value for name, value in said.items() if value is not None},
        "capacity": {
            "memory": {"value": str(MEMORY)},
            "computeUnits": {"value": "304"},
            "simdUnits": {"value": "1216"},
        },
    }


def partition(at: int, number: int, profile: str = "cpx_nps4", many: int = 8) -> dict[str, Any]:
    """One of the eight of a GPU in mode CPX. Its bus id is the GPU's, and it has no other name than the device's."""
    made = gpu(at, type={"string": AMD.part}, partitionProfile={"string": profile})
    return {
        **made,
        "name": f"gpu-{at * 8 + number}-{128 + at * 8 + number}",
        "capacity": {"memory": {"value": str(MEMORY // many)}},
    }


def partitioned(node: str, modes: Sequence[str]) -> list[dict[str, Any]]:
    """A node whose GPUs an administrator has set to these modes, one a GPU: cpx_nps4, dpx_nps1, or "" for whole."""
    many = {"c": 8, "d": 2}
    devices = []
    for at, mode in enumerate(modes):
        whole = {**gpu(at), "name": f"gpu-{at * 8}-{128 + at * 8}"}
        devices += [partition(at, n, mode, many[mode[0]]) for n in range(many[mode[0]])] if mode else [whole]
    return slices(node, devices)


def passed_through(at: int) -> dict[str, Any]:
    made = gpu(at, type={"string": "vfio"}, pciAddr={"string": BUSES[at]}, partitionProfile=None, driverVersion=None)
    return {**made, "name": f"gpu-vfio-{at}", "capacity": {}}


def on_demand(at: int, mode: str) -> dict[str, Any]:
    """What a GPU is in one mode: spx-nps1 is all of it. One mode at a time, by a counter."""
    whole = mode.startswith("spx")
    made = gpu(at, type={"string": AMD.whole if whole else AMD.part}, partitionProfile=None)
    several = {} if whole else {"allowMultipleAllocations": True}
    uses = {"consumesCounters": [{"counterSet": f"gpu-{at}-mutex", "counters": {"partition-mode": {"value": "1"}}}]}
    return {**made, **several, **uses, "name": f"gpu-{at}-{mode}"}


def counters(gpus: int) -> list[dict[str, Any]]:
    return [{"name": f"gpu-{at}-mutex", "counters": {"partition-mode": {"value": "1"}}} for at in range(gpus)]


def slices(
    node: str, devices: list[dict[str, Any]], shared: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """A pool of them; counters in a slice of their own."""
    specs: list[dict[str, Any]] = [{"sharedCounters": shared}] if shared else []
    specs.append({"devices": devices})
    return [
        {
            "metadata": {"name": f"{node}-{AMD.driver}-{at}"},
            "spec": {
                "driver": AMD.driver,
                "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": len(specs)},
                **spec,
            },
        }
        for at, spec in enumerate(specs)
    ]


def box(node: str, product: str = PRODUCT) -> list[dict[str, Any]]:
    return slices(node, [gpu(at, product=product) for at in range(8)])
