"""A slot is a gang's part of one node; an attempt is one try at the gang. Pods, labels and keys carry their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.clique import label_value
from ray_dra.core.model.device_selector import ANY_DEVICE, DeviceCriteria
from ray_dra.core.model.request import Bundle


@dataclass(frozen=True, slots=True)
class Slot:
    """A gang's part of one node: its bundles, and what its raylet offers."""

    node: str
    bundles: tuple[int, ...]
    uuids: tuple[str, ...]  # in the node's order
    clique: str | None
    resources: Mapping[str, float]
    criteria: DeviceCriteria = ANY_DEVICE  # what all its bundles say of their devices


def attempt_name(gang: str, epoch: int) -> str:
    """Short, so that pods' names stay within their 63 characters; new for every attempt."""
    return f"rd-{hashlib.sha256(gang.encode()).hexdigest()[:8]}-{epoch}"


def slot_label(attempt: str, node: str) -> str:
    """The label by which a bundle selects a slot's raylet; a restarted raylet has it again."""
    return label_value(f"{attempt}.{node}")


def slots_of(allocation: Allocation, asked: Sequence[Bundle] = ()) -> dict[str, Slot]:
    """The slots of an allocation, in topology order, by node. `asked`: the bundles of its request, in its order."""
    by_node: dict[str, list[tuple[int, Placed]]] = {}
    for index, placed in enumerate(allocation.bundles):
        by_node.setdefault(placed.node, []).append((index, placed))
    found = {}
    for node, members in by_node.items():
        grants = sorted((g for _, placed in members for g in placed.grants), key=lambda g: g.position)
        cliques = {g.clique for g in grants}
        resources: dict[str, float] = {}
        for _, placed in members:
            for name, amount in placed.resources.items():
                resources[name] = resources.get(name, 0.0) + amount
        found[node] = Slot(
            node,
            tuple(index for index, _ in members),
            tuple(g.uuid or "" for g in grants),
            cliques.pop() if len(cliques) == 1 else None,
            resources,
            _common([asked[index] for index, placed in members if asked and placed.grants]),
        )
    return found


def _common(bundles: Sequence[Bundle]) -> DeviceCriteria:
    """What they all say: one claim has the devices of all, and cannot tell which are whose."""
    each = list(dict.fromkeys(bundle.criteria or ANY_DEVICE for bundle in bundles))
    if not each:
        return ANY_DEVICE
    first = each[0]
    return DeviceCriteria(
        first.device_class if len({c.device_class for c in each}) == 1 else "",
        first.products if len({c.products for c in each}) == 1 else (),
        tuple(s for s in first.selectors if all(s in c.selectors for c in each)),
    )


def uuids_of(slots: Iterable[Slot]) -> list[str]:
    return [uuid for slot in slots for uuid in slot.uuids]
