"""A cluster as a file: what the planner knows of it, so that a decision can be repeated elsewhere.

JSON or YAML; fields with their usual values are left out, and docs/snapshot.md tells all of them.
`inventory_of(snapshot_of(inventory))` gives the same answers as the inventory did.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.checked import whole
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.imex import NO_LIMITS, Limits
from ray_dra.core.model.locality import Connect, Gpus, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import MAX_BUNDLES, GangRequest
from ray_dra.errors import InvalidRequest, InvalidSnapshot, shown
from ray_dra.translate.files.plain import plain, read_file
from ray_dra.translate.files.sense import (
    NODE_CLIQUE,
    check_amounts,
    check_cliques,
    check_gangs,
    check_levels,
    check_limits,
    check_nodes,
    check_parts,
    check_positions,
    known_fields,
    listed,
    name_attributes,
    name_boxes,
    refuse_unknown,
    take_cliques,
)
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import gpu, mig, mps, part_named, time_slicing

VERSION = 1


@dataclass(frozen=True, slots=True)
class Others:
    """What work outside the gangs has on a node: GPUs by position, amounts of other resources, and parts of GPUs by
    their devices' names; `domain`: an IMEX domain."""

    devices: tuple[int, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    domain: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """See the module. `gangs` are the allocations that are held; `others` is by node; `placed` by node and gang: the
    parts of GPUs that the gang's claims have got, which need not be those that were planned; `levels`: the
    labels of nodes that name the levels above their cliques, the lowest first."""

    nodes: tuple[Node, ...]
    gangs: tuple[Allocation, ...] = ()
    others: Mapping[str, Others] = field(default_factory=dict)
    placed: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    limits: Limits = NO_LIMITS
    version: int = VERSION
    levels: tuple[str, ...] = ()


_SNAPSHOT = TypeAdapter(Snapshot)
GPU, MIG = inspect.signature(gpu).parameters, inspect.signature(mig).parameters
SHARING: dict[str, Callable[..., GpuSharing]] = {"mps": mps, "time_slicing": time_slicing}
REQUEST = (
    "bundles",
    "count",
    "strategy",
    "locality",
    "product",
    "devices",
    "part",
    "sharing",
    "confidential",
    "priority",
    "preemptible",
)
"""What a gang's file may say: as `placement_group` has it; `count`: the bundles, so many times over."""


def snapshot_of(inventory: Inventory) -> Snapshot:
    """The inventory as plain values. What a gang has on nodes and devices that are gone is left out."""
    gangs = (_there(inventory, gang) for gang in inventory.gangs)
    return Snapshot(
        nodes=tuple(state.node for state in sorted(inventory.node_states.values(), key=lambda s: s.key)),
        gangs=tuple(a for a in gangs if a is not None),
        others={
            state.name: others
            for state in inventory.node_states.values()
            if (others := _others_on(state, domain=state.name in inventory.others_domains)) != Others()
        },
        placed={s.name: placed for s in inventory.node_states.values() if (placed := _placed(s))},
        limits=inventory.limits,
        levels=inventory.level_labels if inventory.leveled else (),
    )


def _placed(state: NodeState) -> dict[str, tuple[str, ...]]:
    gangs = sorted({gang for gpu in state.parts for gang in gpu.placed})
    return {gang: _names(state, [gpu.placed.get(gang, 0) for gpu in state.parts]) for gang in gangs}


def _others_on(state: NodeState, *, domain: bool) -> Others:
    used = dict(state.used_by_others) if any(state.used_by_others.values()) else {}
    return Others(bits(state.busy), used, _parts_of_others(state), domain)


def _parts_of_others(state: NodeState) -> tuple[str, ...]:
    return _names(state, [gpu.others for gpu in state.parts])


def _names(state: NodeState, masks: Sequence[int]) -> tuple[str, ...]:
    return tuple(g.gpu.parts[at].id.device for g, mask in zip(state.parts, masks, strict=True) for at in bits(mask))


def _there(inventory: Inventory, gang: str) -> Allocation | None:
    """What a gang has of the nodes and devices that are there, at the devices' present places."""
    allocation = inventory.allocation(gang)
    if allocation is None:
        return None
    placed = []
    for bundle in allocation.holdings:
        state = inventory.node_states.get(bundle.node)
        if state is not None:
            present = {g.device: g.position for g in state.grants}
            present |= {part.id: gpu.at for gpu in state.parts for part in gpu.gpu.parts}
            grants = (g._replace(position=present[g.device]) for g in bundle.grants if g.device in present)
            placed.append(bundle._replace(grants=tuple(grants)))
    return allocation._replace(bundles=tuple(placed), kept=None) if placed else None


def inventory_of(snapshot: Snapshot) -> Inventory:
    """An inventory that answers as the one in the snapshot.

    Raises:
        InvalidSnapshot: it can be no cluster: a node twice, links that are not symmetric, a gang on a device that is
            not there, two gangs on one device, amounts below 0, or the like.
    """
    nodes = check_nodes(snapshot.nodes)
    check_limits(snapshot.limits)
    check_gangs(snapshot.gangs, nodes)
    if not isinstance(snapshot.others, Mapping):
        raise InvalidSnapshot("others is by node.", place="others", wanted=shown(snapshot.others))
    placed = snapshot.placed
    if not isinstance(placed, Mapping) or not all(isinstance(each, Mapping) for each in placed.values()):
        raise InvalidSnapshot("placed is by node and gang.", place="placed", wanted=shown(placed))
    inventory = Inventory(snapshot.nodes, snapshot.limits, check_levels(snapshot.levels))
    for name, others in snapshot.others.items():
        place = f"others of node {shown(name)}"
        if name not in nodes or not isinstance(others, Others):
            raise InvalidSnapshot("There is no such node.", place=place, wanted=shown(name), available="a node's name")
        check_positions(others.devices, len(nodes[name].devices), f"{place}.devices")
        check_amounts(others.resources, f"{place}.resources")
        busy = 0
        for at in others.devices:
            busy |= 1 << at
        inventory.set_others(name, busy, others.resources)
        check_parts(others.parts, nodes[name], f"{place}.parts")
    for name in snapshot.others.keys() | placed.keys():
        if name not in nodes:
            raise InvalidSnapshot(
                "There is no such node.", place="placed", wanted=shown(name), available="a node's name"
            )
        for gang, parts in placed.get(name, {}).items():
            check_parts(parts, nodes[name], f"placed of gang {shown(gang)} on node {shown(name)}")
        masks = {gang: _masks(inventory, name, parts) for gang, parts in placed.get(name, {}).items()}
        others_have = snapshot.others[name].parts if name in snapshot.others else ()
        if others_have or masks:
            inventory.set_parts(name, _masks(inventory, name, others_have), masks)
    inventory.set_others_domains(frozenset(name for name, others in snapshot.others.items() if others.domain))
    for allocation in snapshot.gangs:
        try:
            inventory.hold(allocation)
        except ValueError as error:
            raise InvalidSnapshot(
                "The snapshot contradicts itself.", place=f"gang {allocation.gang}", available=str(error)
            ) from error
    return inventory


def _masks(inventory: Inventory, node: str, parts: Iterable[str]) -> dict[str, int]:
    """UUID of each GPU of a node -> mask of these parts of it."""
    names = tuple(parts)
    return {gpu.gpu.uuid: gpu.mask_of(names) for gpu in inventory.node_states[node].parts}


_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def dump_snapshot(snapshot: Snapshot) -> str:
    """YAML, for people and for `load_snapshot`. People look for a node's clique beside its name, so it stands there."""
    values = _SNAPSHOT.dump_python(snapshot, mode="json", exclude_defaults=True)
    values["version"] = VERSION
    values["nodes"] = [
        {"name": plain.pop("name"), NODE_CLIQUE: node.clique, **plain} if node.clique is not None else plain
        for plain, node in zip(values["nodes"], snapshot.nodes, strict=True)
    ]
    return yaml.dump(values, Dumper=_DUMPER, sort_keys=False, default_flow_style=None, width=120)


def load_snapshot(text: str | bytes) -> Snapshot:
    """From JSON or YAML, UTF-8, at most 64 MiB and 64 levels deep.

    Raises:
        InvalidSnapshot: it is neither, or not a snapshot. What the values say together, `inventory_of` checks.
    """
    values = plain(text, "a cluster snapshot")
    version = values.get("version", VERSION) if isinstance(values, dict) else VERSION
    if version != VERSION:
        raise InvalidSnapshot(
            "The snapshot was written by another version.",
            place="version",
            wanted=shown(version),
            available=str(VERSION),
        )
    refuse_unknown(values, Snapshot, Others)
    name_boxes(values["nodes"])
    name_attributes(values["nodes"])
    cliques = take_cliques(values["nodes"])
    try:
        found = _SNAPSHOT.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidSnapshot(
            f"This is not a cluster snapshot: {first['msg']}.", place=place, wanted=shown(first["input"])
        ) from error
    check_cliques(cliques, found.nodes)
    return found


def load_request(text: str | bytes) -> GangRequest:
    """A gang from JSON or YAML, as REQUEST lists it: `bundles` as Ray has them, `locality` by the fields of Locality.

    Raises:
        InvalidSnapshot: no such file.
        InvalidRequest: a gang that can never be right.
    """
    given = plain(text, "a gang request")
    if not isinstance(given, dict) or not given.keys() <= set(REQUEST):
        unknown = next((k for k in given if k not in REQUEST), None) if isinstance(given, dict) else given
        raise InvalidSnapshot(
            "This is not a gang request.", place="request", wanted=shown(unknown), available=", ".join(REQUEST)
        )
    bundles = listed(given.get("bundles"), "bundles", MAX_BUNDLES)
    count = whole(given.get("count", 1), "count", least=1, most=MAX_BUNDLES)
    if len(bundles) * count > MAX_BUNDLES:
        raise InvalidRequest("Too many bundles.", place="count", wanted=str(count), available=f"{MAX_BUNDLES} bundles")
    where = dict(known_fields(given.get("locality", {}), Locality, "locality"))
    for name, kind in (("connect", Connect), ("gpus", Gpus)):
        if isinstance(where.get(name), str) and where[name] in {c.value for c in kind}:
            where[name] = kind(where[name])
    request = request_from_bundles(
        bundles * count,
        strategy=given.get("strategy"),
        locality=Locality(**where),
        product=given.get("product"),
        devices=_devices(given.get("devices")),
        part=_part(given.get("part")),
        sharing=_sharing(given.get("sharing")),
        confidential=given.get("confidential", False),
        priority=given.get("priority", 0),
    )
    return replace(request, preemptible=given.get("preemptible", False))


def _devices(given: object) -> DeviceCriteria | None:
    """The arguments of `ray_dra.gpu`, by name."""
    if given is None:
        return None
    if not isinstance(given, dict) or not given.keys() <= GPU.keys():
        raise InvalidSnapshot(
            "devices is what ray_dra.gpu takes.", place="devices", wanted=shown(given), available=", ".join(GPU)
        )
    return gpu(**given)


def _part(given: object) -> PartCriteria | None:
    """The arguments of `ray_dra.mig`, by name; or a profile."""
    if given is None or isinstance(given, str):
        return part_named(given) if given is not None else None
    if not isinstance(given, dict) or not given.keys() <= MIG.keys():
        raise InvalidSnapshot(
            "part is what ray_dra.mig takes.", place="part", wanted=shown(given), available=", ".join(MIG)
        )
    return mig(**given)


def _sharing(given: object) -> GpuSharing | None:
    """The arguments of `ray_dra.mps` or `ray_dra.time_slicing`, under its name; or the name alone."""
    if given is None:
        return None
    said = {given: {}} if isinstance(given, str) else given
    if isinstance(said, dict) and len(said) == 1:
        name, arguments = next(iter(said.items()))
        make = SHARING.get(name) if isinstance(name, str) else None
        known = inspect.signature(make).parameters.keys() if make is not None else set[str]()
        if make is not None and isinstance(arguments, dict) and arguments.keys() <= known:
            return make(**arguments)
    raise InvalidSnapshot(
        "sharing is what ray_dra.mps or ray_dra.time_slicing takes.",
        place="sharing",
        wanted=shown(given),
        available="mps: {memory: 20Gi, threads: 25}, or time_slicing: {interval: Short}",
    )


def read_snapshot(path: Path | str) -> Snapshot:
    """Raises InvalidSnapshot where the file cannot be read, or is none."""
    return load_snapshot(read_file(path))


def read_request(path: Path | str) -> GangRequest:
    """See `load_request`; raises InvalidSnapshot where the file cannot be read, too."""
    return load_request(read_file(path))
