"""ResourceSlices as Intel's GPU driver publishes them. Formats after its source (gpu 0.11, of August 2026); values are
ours, and no hardware has shown them."""

from __future__ import annotations

from typing import Any

from ray_dra.translate.vendors import BUS_ATTRIBUTE, INTEL

MEMORY = "131072Mi"
PRODUCT = "Max 1550"
BUSES = tuple(f"0000:{bus:02x}:00.0" for bus in (0x03, 0x1A, 0x29, 0x3C, 0x9A, 0xAB, 0xCA, 0xDA))


def gpu(at: int, *, product: str = PRODUCT, memory: str = MEMORY, **attributes: Any) -> dict[str, Any]:
    """A GPU, named by where it is and what it is: neither a number nor a UUID. It says no version of any driver."""
    bus = BUSES[at]
    said = {
        "type": {"string": INTEL.whole},
        "model": {"string": product},
        "family": {"string": "Max"},
        "driver": {"string": "xe"},
        "sriov": {"bool": True},
        "pciId": {"string": "0x0bd5"},
        "pciAddress": {"string": bus},
        "pciRoot": {"string": "00"},
        "health": {"string": "Healthy"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
        BUS_ATTRIBUTE: {"string": bus},
        **attributes,
    }
    return {
        "name": f"{bus.replace(':', '-').replace('.', '-')}-0x0bd5",
        "attributes": {name: value for name, value in said.items() if value is not None},
        "capacity": {"memory": {"value": memory}, "millicores": {"value": "1k"}},
    }


def virtual_function(at: int) -> dict[str, Any]:
    """Of a GPU: another function of its slot, which nothing calls its own."""
    bus = BUSES[at].replace(".0", ".1")
    there: dict[str, Any] = {BUS_ATTRIBUTE: {"string": bus}, "pciAddress": {"string": bus}}
    made = gpu(at, type={"string": "vf"}, **there)
    return {**made, "name": made["name"].replace("-0-0x", "-1-0x")}


def slices(node: str, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "metadata": {"name": f"{node}-{INTEL.driver}-0"},
            "spec": {
                "driver": INTEL.driver,
                "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
                "devices": devices,
            },
        }
    ]


def box(node: str, product: str = PRODUCT) -> list[dict[str, Any]]:
    """In no order: the driver keeps them in a map."""
    return slices(node, [gpu(at, product=product) for at in (5, 0, 7, 2, 1, 6, 4, 3)])
