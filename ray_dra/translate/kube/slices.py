"""From what Kubernetes publishes to core Nodes: ResourceSlices, node labels, taints and conditions.

For GPUs that no raylet has yet. Only the newest complete generation of a pool counts. The clique is the node's label; a
box without one is a clique of its own where its product is always on NVSwitches. Once a raylet runs, NVML confirms it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ray_dra.core.model.clique import box_clique
from ray_dra.core.model.device import Attribute, Device, DeviceId, Health
from ray_dra.core.model.node import Links, Node
from ray_dra.ports.kubernetes import KubeNode
from ray_dra.translate.names import BUS_ATTRIBUTE, CLIQUE_LABEL, DRIVER, NUMA_ATTRIBUTE, PLUGIN_RESOURCE

# Products whose GPUs are all joined by NVSwitches. Others (PCIe cards, bridged pairs, DGX-1) have no clique, and their
# links are unknown here.
SWITCHED = re.compile(r"H100 80GB HBM3|H200|H20\b|\bB[23]00|GB[23]00|A100-SXM4|H800$|A800-SXM4")

_DECIMAL = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0} | {s: 1e3**at for at, s in enumerate("kMGTPE", 1)}
_FACTORS = _DECIMAL | {f"{s}i": 1024.0**at for at, s in enumerate("KMGTPE", 1)}
# As Kubernetes' parser has it: one suffix or one exponent, so that 1E is an exa and 1E3 a thousand.
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE]?)|([eE][+-]?[0-9]+))")


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number. ValueError for what is none, is negative, or has no end."""
    known = isinstance(text, str | int | float) and not isinstance(text, bool)
    found = _QUANTITY.fullmatch(str(text)) if known else None
    if found is None:
        raise ValueError(f"{text!r:.100} is no quantity of Kubernetes")
    number, suffix, exponent = found.groups()
    value = float(number + (exponent or "")) * _FACTORS[suffix or ""]
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r:.100} is no amount that a node can have")
    return value


def read_node(thing: Mapping[str, Any]) -> KubeNode:
    """A Node object, without the many kilobytes that nobody here needs. Raises as `readable` catches it."""
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    allocatable = status.get("allocatable") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    return KubeNode(
        name=thing["metadata"]["name"],
        labels=thing["metadata"].get("labels") or {},
        ready=conditions.get("Ready") == "True",
        unschedulable=bool(spec.get("unschedulable")),
        taints=tuple((t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints") or ()),
        cpus=quantity(allocatable.get("cpu", 0)),
        memory=quantity(allocatable.get("memory", 0)),
        device_plugin=quantity(allocatable.get(PLUGIN_RESOURCE, 0)) > 0,
    )


def newest(slices: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """The devices of a pool's newest generation, and why they cannot be used ("" where they can)."""
    found = list(slices)
    if not found:
        return [], "no ResourceSlice is published"
    generation = max(s["spec"]["pool"]["generation"] for s in found)
    current = [s for s in found if s["spec"]["pool"]["generation"] == generation]
    wanted = current[0]["spec"]["pool"]["resourceSliceCount"]
    devices = [device for s in current for device in s["spec"].get("devices") or ()]
    if len(current) != wanted:
        return devices, f"its pool is being published ({len(current)} of {wanted} slices)"
    return devices, ""


def node_from_slices(
    node: KubeNode, slices: Iterable[Mapping[str, Any]], tolerations: Sequence[Mapping[str, Any]] = ()
) -> Node:
    """The node as the planner sees it; not ready, with the reason, where nothing may be placed on it.

    Args:
        slices: those of the node's pool of NVIDIA's GPU driver.
        tolerations: of the pods that will be placed.
    """
    published, reason = newest(slices)
    full = sorted((d for d in published if text_of(d, "type") == "gpu"), key=_number)
    products = {text_of(device, "productName") for device in full}
    switched = len(full) > 1 and all(product and SWITCHED.search(product) for product in products)
    clique = node.labels.get(CLIQUE_LABEL) or (box_clique(node.name) if switched else None)
    devices = tuple(_device(node.name, device, clique) for device in full)
    linked = switched or CLIQUE_LABEL in node.labels
    return Node(
        name=node.name,
        devices=devices,
        links=_all_to_all(len(devices)) if linked else (),
        resources={"CPU": node.cpus, "memory": node.memory},
        labels=node.labels,
        order=_tray(node),
        ready=not (reason := _why_not(node, tolerations) or reason),
        reason=reason,
    )


def devices_of(claim: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(node, device) that a claim has, GPUs or parts of them; an administrator's access takes nothing from anyone."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    for result in (allocation.get("devices") or {}).get("results") or ():
        if result["driver"] == DRIVER and not result.get("adminAccess"):
            yield result["pool"], result["device"]


def _device(node: str, device: Mapping[str, Any], clique: str | None) -> Device:
    attributes: dict[str, Attribute] = {}
    for key, name in (
        ("product", "productName"),
        ("numa", NUMA_ATTRIBUTE),
        ("pciBusID", BUS_ATTRIBUTE),
    ):
        value = _value(device, name)
        if value is not None:
            attributes[key] = value
    taints = [f"{t['key']}={t.get('value', '')}" for t in device.get("taints") or ()]
    memory = (device.get("capacity") or {}).get("memory")
    return Device(
        id=DeviceId(DRIVER, node, device["name"]),
        index=_number(device),
        uuid=text_of(device, "uuid"),
        attributes=attributes,
        capacity={} if memory is None else {"memory": int(quantity(memory["value"]))},
        domains=() if clique is None else (clique,),
        health=Health.TAINTED if taints else Health.OK,
        health_reason=", ".join(taints),
    )


def _why_not(node: KubeNode, tolerations: Sequence[Mapping[str, Any]]) -> str:
    if not node.ready:
        return "Kubernetes says that the node is not ready"
    if node.device_plugin:
        return f"a device plugin offers its GPUs as {PLUGIN_RESOURCE}; they cannot be claimed as well"
    if node.unschedulable:
        return "the node is cordoned"
    for key, value, effect in node.taints:
        if effect in ("NoSchedule", "NoExecute") and not any(_tolerates(t, key, value, effect) for t in tolerations):
            return f"the node has the taint {key}={value}:{effect}, which the worker template does not tolerate"
    return ""


def _tolerates(toleration: Mapping[str, Any], key: str, value: str, effect: str) -> bool:
    """Kubernetes' rule: an empty key with Exists tolerates everything, an empty effect all effects."""
    if toleration.get("effect") not in (None, "", effect):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", key)
    return toleration.get("key") == key and toleration.get("value", "") == value


def _value(device: Mapping[str, Any], name: str) -> Attribute | None:
    attribute = (device.get("attributes") or {}).get(name) or {}
    return next((v for v in attribute.values() if isinstance(v, str | int | bool)), None)


def text_of(device: Mapping[str, Any], name: str) -> str | None:
    """An attribute of a device that is a text."""
    value = _value(device, name)
    return value if isinstance(value, str) else None


def _number(device: Mapping[str, Any]) -> int:
    """NVIDIA names a GPU by its minor number, `gpu-3`; NVML's order is the same where the driver numbers by bus."""
    tail = str(device["name"]).rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def _tray(node: KubeNode) -> int | None:
    tail = re.search(r"(\d+)$", node.name)
    return int(tail[1]) if tail and CLIQUE_LABEL in node.labels else None


def _all_to_all(count: int) -> Links:
    return tuple(tuple(int(i != j) for j in range(count)) for i in range(count))
