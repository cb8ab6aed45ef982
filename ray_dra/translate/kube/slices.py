"""From what Kubernetes publishes to core Nodes: ResourceSlices, node labels, taints and conditions.

For GPUs that no raylet has yet. Only the newest complete generation of a pool counts. The clique is the node's label; a
box without one is a clique of its own where its product is always on NVSwitches. Once a raylet runs, NVML confirms it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ray_dra.core.model.clique import box_clique
from ray_dra.core.model.device import Attribute, Device, DeviceId, FabricKind, Health
from ray_dra.core.model.device_selector import MAX_VALUE, MEMORY
from ray_dra.core.model.gpu_sharing import SharingKind
from ray_dra.core.model.node import Links, Node
from ray_dra.core.model.parts import Part, PartedGpu
from ray_dra.core.model.signs import Seen, Severity, Sign, health_of, worst
from ray_dra.ports.kube_objects import CounterSet, KubeNode, Placing, PublishedDevice, ResourceSlice
from ray_dra.translate.kube.images import images_on
from ray_dra.translate.kube.schedulable import CONDITIONS, obstacle
from ray_dra.translate.kube.shapes import Raw, mapping, text, whole
from ray_dra.translate.names import PASSTHROUGH_LABEL
from ray_dra.translate.quantity import quantity
from ray_dra.translate.vendors import BUS_ATTRIBUTE, CLIQUE_LABELS, COMPARED, NVIDIA, PLUGINS, VENDORS, Vendor

ANYWHERE = Placing()


_ANY_PART = "parts"  # our counter of parts that nothing tells apart
_PARTITIONS = re.compile(r"partition[0-9]+")  # attributes of GPUs that Fabric Manager gives out in sets


def read_node(thing: Raw) -> KubeNode:
    """A Node object, without the many kilobytes that nobody here needs. Raises one of `shapes.UNREADABLE`."""
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
        device_plugin=next((name for name in PLUGINS if quantity(allocatable.get(name, 0)) > 0), ""),
        images=images_on(status.get("images") or ()),
        conditions=tuple(sorted(name for name in CONDITIONS if conditions.get(name) == "True")),
    )


def read_slice(thing: Raw) -> ResourceSlice:
    spec, pool = thing["spec"], thing["spec"]["pool"]
    found = ResourceSlice(
        name=text(thing["metadata"]["name"]),
        version=text(thing["metadata"]["resourceVersion"]),
        driver=text(spec["driver"]),
        node=text(spec.get("nodeName", "")),
        generation=whole(pool["generation"]),
        count=whole(pool["resourceSliceCount"]),
        devices=tuple(_read_device(device) for device in spec.get("devices") or ()),
        counters=tuple(_counters(each["name"], each) for each in spec.get("sharedCounters") or ()),
    )
    if text(pool["name"]) != found.node and found.driver in VENDORS and found.node:
        # Claims say what they have by the pool's name: nobody could tell which node's devices are taken.
        raise ValueError(f"the pool {pool['name']:.100} of node {found.node} is not named as its node")
    for device in found.devices:
        _memory(device)
    node_from_slices(KubeNode(found.node), [found])
    return found


def _read_device(device: Raw) -> PublishedDevice:
    attributes: dict[str, Attribute] = {}
    for name, attribute in mapping(device.get("attributes") or {}).items():
        value = next((v for v in map(_only, attribute.values()) if isinstance(v, str | int | bool)), None)
        # A claim compares versions by CEL's semver, which is an error on anything else and ends the whole allocation.
        if value is not None and (name not in COMPARED or "version" in attribute):
            attributes[name] = value
    return PublishedDevice(
        name=text(device["name"]),
        attributes=attributes,
        capacity={name: each["value"] for name, each in mapping(device.get("capacity") or {}).items()},
        taints=tuple((f"{t['key']}={t.get('value', '')}", text(t["effect"])) for t in device.get("taints") or ()),
        consumes=tuple(_counters(each["counterSet"], each) for each in device.get("consumesCounters") or ()),
        several=bool(device.get("allowMultipleAllocations")),
        whole=any(map(_taken_whole, (device.get("capacity") or {}).values())),
    )


def _counters(name: object, each: Raw) -> CounterSet:
    counters = mapping(each.get("counters") or {})
    return CounterSet(text(name), tuple((text(key), int(quantity(n["value"]))) for key, n in sorted(counters.items())))


def _taken_whole(capacity: Raw) -> bool:
    """Whether a claim that does not say how much it wants has all of a capacity, and no other can do with nothing."""
    policy = capacity.get("requestPolicy") or {}
    least = (policy.get("validRange") or {}).get("min")
    return (
        "default" in policy
        and quantity(policy["default"]) >= quantity(capacity["value"])
        and least is not None
        and quantity(least) > 0
    )


def _only(value: object) -> object:
    """A list's one value, as the driver writes NUMA nodes with DRAListTypeAttributes; several are no value."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def newest(slices: Iterable[ResourceSlice]) -> tuple[list[PublishedDevice], str]:
    """The devices of a pool's newest generation, and why they cannot be used ("" where they can)."""
    found = list(slices)
    if not found:
        return [], "no ResourceSlice is published"
    generation = max(s.generation for s in found)
    current = [s for s in found if s.generation == generation]
    wanted = current[0].count
    devices = [device for s in current for device in s.devices]
    if len(current) != wanted:
        return devices, f"its pool is being published ({len(current)} of {wanted} slices)"
    # Of a pool like these Kubernetes gives out nothing, or it cannot be told what.
    by_name = {device.name: device for device in devices}
    if len(by_name) < len(devices):
        return list(by_name.values()), "its pool has two devices of one name"
    sets = [counters.name for s in current for counters in s.counters]
    if len(set(sets)) < len(sets):
        return devices, "its pool has two sets of counters of one name"
    lacking = {name for device in devices for name in device.counter_sets}.difference(sets)
    if lacking:
        return devices, f"its devices use up counters that its pool lacks ({min(lacking)})"
    return devices, ""


def node_from_slices(node: KubeNode, slices: Iterable[ResourceSlice], placing: Placing = ANYWHERE) -> Node:
    """The node as the planner sees it; not ready, with the reason, where nothing may be placed on it.

    Args:
        slices: those of the node's pool of one vendor's driver.
        placing: of the pods that will be placed.
    """
    pool = list(slices)
    published, reason = newest(pool)
    closed = obstacle(node, placing)
    vendor = VENDORS.get(pool[0].driver, NVIDIA) if pool else NVIDIA
    full = sorted((d for d in published if d.text("type") == vendor.whole), key=lambda d: (_number(d, vendor), d.name))
    reason = closed.said if closed is not None else reason or _unsafe(full, vendor)
    products = {device.text(vendor.product) for device in full}
    joined = len(full) > 1 and all(product and vendor.joined.search(product) for product in products)
    fabric = node.labels.get(vendor.clique_label)
    clique = fabric or (box_clique(node.name) if joined else None)
    kind = FabricKind.MULTI_NODE if fabric else FabricKind.BOX
    devices = tuple(
        _device(vendor, node.name, device, _number(device, vendor) if vendor.numbered else at, clique, kind)
        for at, device in enumerate(full)
    )
    linked = joined or vendor.clique_label in node.labels
    return Node(
        name=node.name,
        devices=devices,
        links=_all_to_all(len(devices)) if linked else (),
        resources={"CPU": node.cpus, "memory": node.memory},
        labels={**node.labels, PASSTHROUGH_LABEL: "true"} if _passes(vendor, published, full) else node.labels,
        order=_tray(node),
        ready=not reason,
        reason=reason,
        parted=tuple(_parted(vendor, node.name, published, _newest_counters(pool), devices)),
        unshared=_unshared(vendor, published),
    )


def _newest_counters(slices: Sequence[ResourceSlice]) -> list[CounterSet]:
    generation = max((each.generation for each in slices), default=0)
    return [counters for each in slices if each.generation == generation for counters in each.counters]


def _unsafe(full: Sequence[PublishedDevice], vendor: Vendor) -> str:
    """Why a claim on whole GPUs of the node would not get them for itself, or not at all. "" where it does."""
    named = [device.text(vendor.identity) for device in full]
    if not vendor.unique and len({*named, None}) <= len(named):
        return f"nothing tells its GPUs apart: {vendor.identity} is missing, or one of two"
    for device in full:
        if device.several and not device.whole:
            return f"claims of others can have its GPUs at the same time ({device.name} allows several)"
        if any(_PARTITIONS.fullmatch(name) for name in device.attributes):
            return f"its GPUs are given out in Fabric Manager's partitions alone ({device.name} is in some)"
    return ""


def _unshared(vendor: Vendor, published: Sequence[PublishedDevice]) -> tuple[tuple[str, str], ...]:
    """In which ways a claim cannot share GPUs of the node, by what is on where they are published so, and why."""
    if not vendor.sharing_config:
        return tuple((kind.value, f"claims cannot set how GPUs of {vendor.name} are shared") for kind in SharingKind)
    if any(device.consumes for device in published):
        return ((SharingKind.MPS.value, "its driver makes parts of GPUs, which excludes MPS"),)
    if any(device.several for device in published):
        return ((SharingKind.MPS.value, "its driver lets several claims have a GPU, which excludes MPS"),)
    return ()


def _passes(vendor: Vendor, published: Sequence[PublishedDevice], full: Sequence[PublishedDevice]) -> bool:
    """Whether each GPU can be passed through to a virtual machine instead."""
    passed = {d.text(BUS_ATTRIBUTE) for d in published if vendor.passed and d.text("type") == vendor.passed}
    return bool(full) and all(d.text(BUS_ATTRIBUTE) is not None and d.text(BUS_ATTRIBUTE) in passed for d in full)


def _parted(
    vendor: Vendor,
    node: str,
    published: Sequence[PublishedDevice],
    sets: Iterable[CounterSet],
    devices: Sequence[Device],
) -> Iterator[PartedGpu]:
    """The GPUs that are given out in parts, by their UUIDs; none of a vendor whose parts gangs cannot have.

    Parts that nothing tells apart are counted: the allocator chooses which of them a claim has.
    """
    if not vendor.part_class:
        return
    counters = {each.name: each.counters for each in sets}
    positions = {device.uuid: at for at, device in enumerate(devices)}
    found: dict[str, list[PublishedDevice]] = {}
    for device in sorted(published, key=lambda d: d.name):
        parent = device.text(vendor.parent)
        if device.text("type") == vendor.part and parent and device.text(vendor.profile):
            found.setdefault(parent, []).append(device)
    for parent, parts in sorted(found.items()):
        shared = {each for part in parts for each in part.counter_sets}
        if len(shared) > 1 or not shared <= counters.keys():
            continue  # nobody can tell how many of them there can be at once
        uuid = vendor.key(node, parent) or ""
        position = positions.get(uuid)
        health, why = _health(taint for part in parts for taint in part.taints)
        counted = () if shared or not vendor.nameless else ((_ANY_PART, len(parts)),)
        yield PartedGpu(
            uuid,
            tuple(_part(vendor, node, part) for part in parts),
            counters[shared.pop()] if shared else counted,
            position,
            {} if position is not None else _attributes(vendor, parts[0]),
            health,
            why,
        )


def _part(vendor: Vendor, node: str, device: PublishedDevice) -> Part:
    return Part(
        DeviceId(vendor.driver, node, device.name),
        device.text(vendor.profile) or "",
        None if vendor.nameless else device.text(vendor.identity),
        _memory(device) or 0,
        device.consumes[0].counters if device.consumes else ((_ANY_PART, 1),) * vendor.nameless,
    )


def _memory(device: PublishedDevice) -> int | None:
    """Bytes; None: it does not say."""
    memory = device.capacity.get(MEMORY)
    return None if memory is None else min(int(quantity(memory)), MAX_VALUE)


def _attributes(vendor: Vendor, device: PublishedDevice) -> dict[str, Attribute]:
    has = device.attributes
    return {ours: has[theirs] for theirs, ours in vendor.attributes.items() if theirs in has}


_TAINT_SIGNS = {"NoSchedule": Sign.DEVICE_TAINT_NO_SCHEDULE, "NoExecute": Sign.DEVICE_TAINT_NO_EXECUTE}


def _health(taints: Iterable[tuple[str, str]]) -> tuple[Health, str]:
    """After the worst of them, with all that are as bad. An effect that Kubernetes does not have yet is for people."""
    seen = [Seen(_TAINT_SIGNS.get(effect, Sign.DEVICE_TAINT_TOLD), said) for said, effect in dict.fromkeys(taints)]
    found = worst(seen)
    if found is None:
        return health_of(None)
    said = ", ".join(each.said for each in seen if each.severity >= Severity.DRAIN)
    return health_of(Seen(found.sign, said))


def _device(
    vendor: Vendor, node: str, device: PublishedDevice, index: int, clique: str | None, kind: FabricKind
) -> Device:
    memory = _memory(device)
    health, why = _health(device.taints)
    return Device(
        id=DeviceId(vendor.driver, node, device.name),
        index=index,
        uuid=vendor.key(node, device.text(vendor.identity)),
        attributes=_attributes(vendor, device),
        capacity={} if memory is None else {MEMORY: memory},
        domains=() if clique is None else (clique,),
        fabric_kind=kind,
        health=health,
        health_reason=why,
    )


def _number(device: PublishedDevice, vendor: Vendor) -> int:
    """The first number of its name: gpu-3, or gpu-3-131, which is card 3. NVML's order is the same where the driver
    numbers by bus."""
    found = re.search(r"-(\d{1,9})(?:-|$)", device.name) if vendor.numbered else None
    return int(found[1]) if found else 0


def _tray(node: KubeNode) -> int | None:
    tail = re.search(r"(\d+)$", node.name)
    return int(tail[1]) if tail and not node.labels.keys().isdisjoint(CLIQUE_LABELS) else None


def _all_to_all(count: int) -> Links:
    return tuple(tuple(int(i != j) for j in range(count)) for i in range(count))
