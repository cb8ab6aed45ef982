"""Why a gang of parts of GPUs does not fit. Neighbour: `shortfalls.py` does the same for whole GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from ray_dra.core.cluster.gpu_parts import GpuParts
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.explain.shares import not_ready
from ray_dra.core.model.device_selector import COMPUTE_CAPABILITY
from ray_dra.core.model.locality import Gpus
from ray_dra.core.model.parts import profile_order
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.model.shortfall import CLUSTER, Place, PlaceKind, Shortfall, ShortfallKind, short
from ray_dra.core.planner.parts import PartsSearch
from ray_dra.core.planner.work import STEPS, Work

PROFILES_TOLD = 16
BY_RESET = "8.0"  # compute capability; later ones need none, and others of the 8th have no parts


def parts_short(inventory: Inventory, request: GangRequest, *, proven: bool) -> tuple[Shortfall, ...]:
    """Reasons for a no; at least one."""
    search = PartsSearch(inventory, request, Work())
    found: list[Shortfall] = []
    gpus = request.locality.gpus
    one_node = request.strategy is Strategy.STRICT_PACK
    one_a_node = request.strategy is Strategy.STRICT_SPREAD
    for c, (bundle, wanted) in enumerate(zip(search.classes, search.counts, strict=True)):
        by_node = {state: _most(search, c, state, one_a_node) for state in search.gpus}
        where = "on one GPU" if gpus is Gpus.SAME else "on one node" if one_node else ""
        if gpus is Gpus.SAME:
            there = max((search.capacity(c, o) for gpus_ in search.gpus.values() for o in gpus_), default=0)
        elif one_node:
            there = max(by_node.values(), default=0)
        else:
            there = sum(by_node.values())
            where = "each on another GPU" if gpus is Gpus.SPREAD else "each on another node" if one_a_node else ""
        if there < wanted:
            profiles = () if there else _profiles(inventory)
            part = str(bundle.part)
            facts = {
                "part": part,
                "where": where,
                "profiles": profiles,
                "unheard": bool(profiles) and not any(search.mask(c, gpu.table) for gpu in _gpus(inventory)),
                "largest": max((m for gpu in _gpus(inventory) for m in gpu.table.memories), default=0),
                "by_reset": () if there or profiles else _by_reset(inventory),
                "lost": not_ready(inventory.node_states.values()),
                "criteria": bundle.criteria,
            }
            found.append(short(ShortfallKind.PARTS, CLUSTER, wanted, there, **facts))
    if not proven:
        found.append(short(ShortfallKind.BOUND, CLUSTER, (), None, steps=STEPS, parts=True))
    if not found:
        parts = tuple((str(b.part), n) for b, n in zip(search.classes, search.counts, strict=True))
        found.append(short(ShortfallKind.PARTS, Place(PlaceKind.GANG), parts, None))
    return tuple(found)


def _most(search: PartsSearch, c: int, state: NodeState, one_a_node: bool) -> int:
    """How many bundles of a class alone a node holds."""
    here = sum(search.capacity(c, o) for o in search.gpus[state] if search.accepts(c, state, o.gpu))
    return min(here, search.by_resources(state, c), 1 if one_a_node else here)


def _gpus(inventory: Inventory) -> Iterator[GpuParts]:
    return (gpu for state in inventory.node_states.values() for gpu in state.parts)


def _by_reset(inventory: Inventory) -> tuple[str, ...]:
    """Products that are given in parts, or whole, by a reset alone: claims do not turn them over."""
    devices = (device for state in inventory.node_states.values() for device in state.node.devices)
    found = {d.product or "" for d in devices if str(d.attributes.get(COMPUTE_CAPABILITY, "")).startswith(BY_RESET)}
    return tuple(sorted(found))[:PROFILES_TOLD]


def _profiles(inventory: Inventory) -> tuple[str, ...]:
    """What parts there are, taken or not."""
    found = {part.profile for gpu in _gpus(inventory) for part in gpu.gpu.parts}
    return tuple(sorted(found, key=profile_order))[:PROFILES_TOLD]
