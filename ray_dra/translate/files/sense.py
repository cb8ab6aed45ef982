"""Whether a snapshot can be a cluster: every field of its type, nothing twice, nothing where it cannot be.

A snapshot comes from a file or from a program's own hands, and the planner trusts what it is given. `plain.py` reads
the file, `snapshot.py` makes the values of it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.checked import MAX_NAME
from ray_dra.core.model.clique import box_clique
from ray_dra.core.model.device import Device, DeviceId, FabricKind, Health
from ray_dra.core.model.device_selector import VERSIONS
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import GrantedPart, Part, PartedGpu
from ray_dra.core.model.request import MAX_AMOUNT, MAX_BUNDLES, MAX_DEVICES_PER_BUNDLE, MAX_PRIORITY, WHOLE
from ray_dra.errors import InvalidSnapshot, shown
from ray_dra.translate.vendors import NVIDIA

MAX_NODES = 200_000
MAX_DEVICES = 1_000_000
MAX_NUMBER = 1 << 62
MAX_PARTS = 256
"""Of one GPU, wherever on it."""

MOST_LEVELS = 16  # above the clique

NODE_CLIQUE = "clique"
"""What a file says of a node besides the fields of Node: the clique of its devices, which are what is believed."""


def known_fields(value: object, wanted_type: type, place: str, *, more: Iterable[str] = ()) -> Mapping[str, Any]:
    """`value`, a dict with no other keys than the fields of `wanted_type`, a dataclass. Raises InvalidSnapshot."""
    fields = [field.name for field in dataclasses.fields(wanted_type)] + [*more]
    if not isinstance(value, Mapping):
        raise _bad("A mapping was expected", place, value, ", ".join(fields))
    for name in value:
        if name not in fields:
            raise _bad("There is no such field", place, name, ", ".join(fields))
    return value


def listed(value: object, place: str, most: int) -> list[Any]:
    """`value`, a list of at most so many. Raises InvalidSnapshot."""
    if not isinstance(value, list):
        raise _bad("A list was expected", place, value, "a list")
    if len(value) > most:
        raise _bad("There are too many", place, len(value), f"at most {most}")
    return value


def refuse_unknown(plain: object, snapshot: type, others: type) -> None:
    """Fields of a file that no part of a snapshot has: one that is misspelt would be ignored in silence."""
    top = known_fields(plain, snapshot, "the snapshot")
    devices = 0
    for at, node in enumerate(listed(top.get("nodes"), "nodes", MAX_NODES)):
        known = known_fields(node, Node, f"nodes.{at}", more=(NODE_CLIQUE,))
        each = listed(known.get("devices", []), f"nodes.{at}.devices", MAX_DEVICES_PER_BUNDLE)
        devices += len(each)
        for i, device in enumerate(each):
            known_fields(device, Device, f"nodes.{at}.devices.{i}")
        for i, gpu in enumerate(listed(known.get("parted", []), f"nodes.{at}.parted", MAX_DEVICES_PER_BUNDLE)):
            parted = known_fields(gpu, PartedGpu, f"nodes.{at}.parted.{i}")
            for part in listed(parted.get("parts"), f"nodes.{at}.parted.{i}.parts", MAX_PARTS):
                known_fields(part, Part, f"nodes.{at}.parted.{i}.parts")
    if devices > MAX_DEVICES:
        raise _bad("There are too many devices", "nodes", devices, f"at most {MAX_DEVICES}")
    listed(top.get("gangs", []), "gangs", MAX_DEVICES)
    busy = top.get("others", {})
    if not isinstance(busy, Mapping):
        raise _bad("A mapping was expected", "others", busy, "node: what others have there")
    for name, work in busy.items():
        known_fields(work, others, f"others.{shown(name)}")
    known_fields(top.get("limits", {}), Limits, "limits")


def take_cliques(nodes: Iterable[dict[str, Any]]) -> list[Any]:
    """The clique that a file says of each node, None where it says none. The nodes have none of it any more."""
    return [node.pop(NODE_CLIQUE, None) for node in nodes]


def check_cliques(said: Iterable[object], nodes: Iterable[Node]) -> None:
    """Raises InvalidSnapshot where a node is said to be in another clique than its devices."""
    for at, (clique, node) in enumerate(zip(said, nodes, strict=True)):
        if clique is not None and clique != node.clique:
            available = node.clique or "none; a clique is the first of the domains of each device in it"
            raise _bad("The devices of the node are not in this clique", f"nodes.{at}.{NODE_CLIQUE}", clique, available)


def check_nodes(nodes: object) -> dict[str, Node]:
    """The nodes by name.

    Raises:
        InvalidSnapshot: not nodes, one twice, a device twice, links that are not symmetric, amounts that are none.
    """
    if not isinstance(nodes, (tuple, list)):
        raise _bad("Nodes are a tuple", "nodes", nodes, "a tuple of Node")
    found: dict[str, Node] = {}
    devices: set[Any] = set()
    uuids: set[str] = set()
    for at, node in enumerate(nodes):
        _is(Node, node, f"nodes.{at}")
        place = f"node {shown(node.name)}"
        _text(node.name, f"{place}.name")
        if node.name in found:
            raise _bad("A node is there twice", place, node.name, "one node of a name")
        found[node.name] = node
        _check_node(node, place)
        for device in node.devices:
            if device.id in devices:
                raise _bad("A device is there twice", place, str(device.id), "one device of an id")
            devices.add(device.id)
            if device.uuid is not None and device.uuid in uuids:
                raise _bad("A UUID is there twice", place, device.uuid, "one device of a UUID")
            if device.uuid is not None:
                uuids.add(device.uuid)
    return found


def _check_node(node: Node, place: str) -> None:
    _is(tuple, node.devices, f"{place}.devices")
    if len(node.devices) > MAX_DEVICES_PER_BUNDLE:
        raise _bad("There are too many", f"{place}.devices", len(node.devices), f"at most {MAX_DEVICES_PER_BUNDLE}")
    for i, device in enumerate(node.devices):
        _is(Device, device, f"{place}.devices.{i}")
        _check_device(device, f"{place}.devices.{i}")
    for name in ("links", "ancestors"):
        _check_matrix(getattr(node, name), len(node.devices), f"{place}.{name}")
    check_amounts(node.resources, f"{place}.resources")
    _check_table(node.labels, f"{place}.labels", lambda value, where: _text(value, where, empty=True))
    _check_parted(node, f"{place}.parted")
    for name in ("ready", "spare"):
        _is(bool, getattr(node, name), f"{place}.{name}")
    _text(node.reason, f"{place}.reason", empty=True, most=MAX_NUMBER)
    if node.ray_node_id is not None:
        _text(node.ray_node_id, f"{place}.ray_node_id")
    if node.order is not None:
        _whole(node.order, f"{place}.order")


def _check_device(device: Device, at: str) -> None:
    identity = device.id
    if not isinstance(identity, DeviceId) or not all(type(part) is str and part.isascii() for part in identity):
        _is(DeviceId, identity, at)
        for part in identity:
            _text(part, at)
    if device.index is not None:
        _whole(device.index, at)
    if device.uuid is not None:
        _text(device.uuid, at)
    _text(device.kind, at)
    _text(device.health_reason, at, empty=True, most=MAX_NUMBER)
    _is(Health, device.health, at)
    _is(FabricKind, device.fabric_kind, at)
    _is(tuple, device.domains, at)
    for domain in device.domains:
        _text(domain, at)
    _check_table(device.attributes, at, _check_attribute)
    _check_table(device.capacity, at, _whole)


def _check_parted(node: Node, place: str) -> None:
    """Each GPU in parts once, at the place of a device that is it, and each part once."""
    _is(tuple, node.parted, place)
    uuids, ids = set(), {device.id for device in node.devices}
    for at, gpu in enumerate(node.parted):
        where = f"{place}.{at}"
        _is(PartedGpu, gpu, where)
        _text(gpu.uuid, where)
        if gpu.uuid in uuids:
            raise _bad("A GPU is there twice", where, gpu.uuid, "one GPU of a UUID")
        uuids.add(gpu.uuid)
        if gpu.position is not None:
            _whole(gpu.position, where, most=len(node.devices) - 1)
            if node.devices[gpu.position].uuid != gpu.uuid:
                raise _bad("Another GPU is at this position", where, gpu.position, f"the position of {gpu.uuid}")
        _check_table(gpu.attributes, where, _check_attribute)
        _is(Health, gpu.health, where)
        _text(gpu.health_reason, where, empty=True, most=MAX_NUMBER)
        _check_part_counters(gpu.counters, where)
        _is(tuple, gpu.parts, where)
        if len(gpu.parts) > MAX_PARTS:
            raise _bad("There are too many parts", where, len(gpu.parts), f"at most {MAX_PARTS}")
        counters = {name for name, _ in gpu.counters}
        for part in gpu.parts:
            _is(Part, part, where)
            _is(DeviceId, part.id, where)
            for text in (*part.id, part.profile) if part.uuid is None else (*part.id, part.profile, part.uuid):
                _text(text, where)
            if part.id in ids:
                raise _bad("A device is there twice", where, str(part.id), "one device of an id")
            ids.add(part.id)
            _whole(part.memory, where)
            _check_part_counters(part.consumes, where)
            lacking = sorted({name for name, _ in part.consumes} - counters)
            if lacking:
                raise _bad("The GPU has no such counter", where, lacking[0], ", ".join(sorted(counters)) or "none")


def _check_part_counters(counters: object, at: str) -> None:
    """(name, amount) each, a name once."""
    _is(tuple, counters, at)
    assert isinstance(counters, tuple)
    for each in counters:
        if not (isinstance(each, tuple) and len(each) == 2):
            raise _bad("A counter is (name, amount)", at, each, "[name, amount]")
        _text(each[0], at)
        _whole(each[1], at)
    if len({name for name, _ in counters}) < len(counters):
        raise _bad("A counter is there twice", at, counters, "one counter of a name")


def _check_attribute(value: object, at: str) -> None:
    if isinstance(value, str):
        _text(value, at, empty=True, most=4096)
    elif type(value) not in (int, bool):
        raise _bad("An attribute is a text, a whole number or a boolean", at, value, "str, int or bool")


def _check_matrix(rows: object, size: int, at: str) -> None:
    """None, or a symmetric table of numbers from 0, one row and column a device."""
    if not isinstance(rows, tuple) or (rows and len(rows) != size):
        raise _bad("There is a row for each device", at, rows, f"{size} rows, or none")
    for row in rows:
        if not isinstance(row, tuple) or len(row) != size:
            raise _bad("There is a column for each device", at, row, f"{size} numbers")
        for value in row:
            if type(value) is not int or not 0 <= value < 1 << 31:
                raise _bad("A whole number from 0 was expected", at, value, "a whole number from 0")
    if rows and rows != tuple(zip(*rows, strict=True)):
        raise _bad("This is not symmetric", at, rows, "as many between a and b as between b and a")


def check_limits(limits: object) -> None:
    """Raises InvalidSnapshot for what are no limits."""
    _is(Limits, limits, "limits")
    assert isinstance(limits, Limits)
    for name in ("compute_domains", "one_per_clique"):
        _is(bool, getattr(limits, name), f"limits.{name}")
    _whole(limits.domain_nodes, "limits.domain_nodes", least=1)


def check_levels(levels: object) -> tuple[str, ...]:
    """Labels of levels above cliques. Raises InvalidSnapshot for what are none."""
    if not isinstance(levels, (tuple, list)) or len(levels) > MOST_LEVELS:
        raise _bad("Levels are a list of labels", "levels", levels, f"{MOST_LEVELS} at most")
    for name in levels:
        _is(str, name, "levels")
    if len(set(levels)) < len(levels):
        raise _bad("A level is there twice", "levels", levels, "each once")
    return tuple(levels)


def check_positions(positions: object, size: int, at: str) -> None:
    """Places of devices on a node that has so many."""
    if not isinstance(positions, (tuple, list)):
        raise _bad("Positions are a list", at, positions, "a list")
    for position in positions:
        _whole(position, at, most=size - 1)


def check_parts(parts: object, node: Node, at: str) -> None:
    """Names of devices that are parts of the node's GPUs."""
    _is(tuple, parts, at)
    there = {part.id.device for gpu in node.parted for part in gpu.parts}
    assert isinstance(parts, tuple)
    for name in parts:
        _text(name, at)
        if name not in there:
            raise _bad("No GPU of the node has this part", at, name, "the name of a part's device")


def check_amounts(amounts: object, at: str) -> None:
    """Resources: finite, and 0 or more."""
    _check_table(amounts, at, _amount)


def check_gangs(gangs: object, nodes: Mapping[str, Node]) -> None:
    """Raises InvalidSnapshot for allocations of nodes and devices that are not there, and for a gang twice."""
    if not isinstance(gangs, (tuple, list)):
        raise _bad("Gangs are a tuple", "gangs", gangs, "a tuple of Allocation")
    places = {name: _places(node) for name, node in nodes.items()}
    seen = set()
    for n, gang in enumerate(gangs):
        _is(Allocation, gang, f"gangs.{n}")
        _text(gang.gang, f"gangs.{n}.gang")
        place = f"gang {shown(gang.gang)}"
        if gang.gang in seen:
            raise _bad("A gang is there twice", place, gang.gang, "one gang of a name")
        seen.add(gang.gang)
        _whole(gang.epoch, f"{place}.epoch")
        _whole(gang.priority, f"{place}.priority", least=-MAX_PRIORITY, most=MAX_PRIORITY)
        _check_counters(gang.counters, f"{place}.counters")
        _is(tuple, gang.bundles, f"{place}.bundles")
        if not 0 < len(gang.bundles) <= MAX_BUNDLES:
            raise _bad("A gang has bundles", place, len(gang.bundles), f"1 to {MAX_BUNDLES}")
        for i, placed in enumerate(gang.bundles):
            _check_placed(placed, places, f"{place}.bundles.{i}")


Here = tuple[DeviceId, int, GrantedPart | None]
"""A device, its position, and of what it is a part."""


def _places(node: Node) -> set[Here]:
    """What grants can be of a node."""
    wholes: set[Here] = {(device.id, i, None) for i, device in enumerate(node.devices)}
    return wholes | {
        (part.id, i, GrantedPart(part.profile, gpu.uuid)) for i, gpu in enumerate(node.parted) for part in gpu.parts
    }


def _check_placed(placed: object, places: Mapping[str, set[Here]], at: str) -> None:
    _is(Placed, placed, at)
    assert isinstance(placed, Placed)
    _text(placed.node, at)
    if placed.node not in places:
        raise _bad("There is no such node", at, placed.node, "a node of the snapshot")
    check_amounts(placed.resources, at)
    _is(tuple, placed.grants, at)
    there = places[placed.node]
    for grant in placed.grants:
        _is(Grant, grant, at)
        if grant.node != placed.node:
            raise _bad("A bundle is on one node", at, grant.node, placed.node)
        _whole(grant.position, at, most=max(len(there) - 1, 0))
        _is(DeviceId, grant.device, at)
        if grant.part is not None:
            _is(GrantedPart, grant.part, at)
        for text in (*grant.device, *(grant.part or ())):
            _text(text, at, empty=True)
        if (grant.device, grant.position, grant.part) not in there:
            raise _bad("This device is not there", at, f"{grant.device} at {grant.position}", "a device of the node")
        if grant.amount is not None:
            _whole(grant.amount, at, least=1, most=WHOLE - 1)
        _is(bool, grant.own, at)
        for value in (grant.uuid, grant.clique):
            if value is not None:
                _text(value, at)
    if len({(grant.amount is None, grant.part is None) for grant in placed.grants}) > 1:
        raise _bad("A bundle has whole devices, a share, or a part", at, placed.grants, "one of them")


def _check_counters(counters: object, at: str) -> None:
    """((scope, name), amount) each."""
    _is(tuple, counters, at)
    assert isinstance(counters, tuple)
    for each in counters:
        if not (isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], tuple) and len(each[0]) == 2):
            raise _bad("A counter is ((scope, name), amount)", at, each, "[[scope, name], amount]")
        for part in each[0]:
            _text(part, at)
        _whole(each[1], at)


def _check_table(value: object, at: str, check: Callable[[Any, str], None]) -> None:
    if not isinstance(value, Mapping):
        raise _bad("A mapping was expected", at, value, "a mapping")
    for name, each in value.items():
        _text(name, at)
        check(each, at)


def _amount(value: object, at: str) -> None:
    if type(value) not in (int, float) or not 0 <= value <= MAX_AMOUNT:  # type: ignore[operator]
        raise _bad("An amount is a number from 0", at, value, f"0 to {MAX_AMOUNT:g}")


def _whole(value: object, at: str, *, least: int = 0, most: int = MAX_NUMBER) -> None:
    if type(value) is not int or not least <= value <= most:
        raise _bad("A whole number was expected", at, value, f"{least} to {most}" if most >= least else "none")


def _text(value: object, at: str, *, empty: bool = False, most: int = MAX_NAME) -> None:
    if type(value) is not str or len(value) > most or not (value or empty) or not _encodes(value):
        limit = f"{'' if empty else '1 '}to {most} characters of UTF-8"
        raise _bad("A text was expected", at, value, limit if most < MAX_NUMBER else "UTF-8")


def _encodes(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is(wanted_type: type, value: object, at: str) -> None:
    if not isinstance(value, wanted_type):
        wanted = ", ".join(m.value for m in wanted_type) if issubclass(wanted_type, enum.Enum) else wanted_type.__name__
        raise _bad(f"A {wanted_type.__name__} was expected", at, value, wanted)


def _bad(why: str, place: str, found: object, wanted: str) -> InvalidSnapshot:
    """`found` is what the snapshot wants to be taken, `wanted` what may stand there."""
    return InvalidSnapshot(f"{why}.", place=place, wanted=shown(found), available=wanted)


_OLDER_NAMES = {own: ours for own, ours in NVIDIA.attributes.items() if ours in VERSIONS and own != ours}
"""Files and records of before 0.2.0 have attributes under the names that one vendor has for them."""


def name_attributes(nodes: Iterable[Any]) -> None:
    """Nodes of files and records of before 0.2.0, as they were read: their attributes under core's names."""
    for node in nodes:
        if not isinstance(node, dict):
            continue
        for thing in (*_listed(node.get("devices")), *_listed(node.get("parted"))):
            attributes = thing.get("attributes") if isinstance(thing, dict) else None
            for older, name in _OLDER_NAMES.items():
                if isinstance(attributes, dict) and older in attributes:
                    attributes.setdefault(name, attributes.pop(older))


def name_classes(request: Any) -> None:
    """A gang's request of before 0.2.0, as it was read: the usual device class had a name, and selectors were under
    that vendor's names."""
    for bundle in _listed(request.get("bundles")) if isinstance(request, dict) else ():
        for device in _listed(bundle.get("devices")) if isinstance(bundle, dict) else ():
            if isinstance(device, dict) and device.get("device_class") == NVIDIA.device_class:
                device["device_class"] = ""
            for selector in _listed(device.get("selectors")) if isinstance(device, dict) else ():
                if isinstance(selector, dict) and selector.get("name") in _OLDER_NAMES:
                    selector["name"] = _OLDER_NAMES[selector["name"]]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def name_boxes(nodes: Iterable[Any]) -> None:
    """Nodes of files and records of before 0.2.0, as they were read: their devices do not say what kind of clique they
    are in, and a box is known by its id."""
    for node in nodes:
        for device in (node.get("devices") or ()) if isinstance(node, dict) else ():
            domains = device.get("domains")
            if isinstance(domains, list | tuple) and domains[:1] == [box_clique(str(node.get("name")))]:
                device.setdefault("fabric_kind", FabricKind.BOX.value)
