"""A slot is a gang's place for one worker, an attempt one try at the gang. Pods, labels and keys carry their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.device_selector import ANY_DEVICE, DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing, SharingKind
from ray_dra.core.model.parts import profile_order
from ray_dra.core.model.request import Bundle
from ray_dra.translate.ray.confidential import is_confidential


class SlotPart(NamedTuple):
    """A part of a GPU that a slot has: of this GPU and profile, and which one where it is there already."""

    parent: str
    profile: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A gang's place for one worker: its bundles, the node where they lie, and what the raylet offers there.

    Attributes:
        label: names the slot, not the node: by it a bundle selects the slot's raylet, and one that is made anew, be it
            on another node, has it again.
    """

    label: str
    node: str
    bundles: tuple[int, ...]
    uuids: tuple[str, ...]  # of whole devices, in the node's order, also of those that its bundles share
    clique: str | None
    resources: Mapping[str, float]
    criteria: DeviceCriteria = ANY_DEVICE  # what all its bundles say of their devices
    parts: tuple[SlotPart, ...] = ()  # of GPUs, in the order in which its raylet numbers them
    renewed: int = 0  # where its worker took the place of a lost one: how often the gang had been planned by then
    shares: tuple[str, ...] = ()  # the device's UUID of each share, in the same order
    sharing: GpuSharing | None = None  # by what its bundles share devices
    confidential: bool = False  # its worker is a confidential virtual machine
    buses: tuple[str, ...] = ()  # where its GPUs are on the node, if they are passed through
    pool: str = ""  # the claim of another gang's worker of which it has shares; "": it has claims of its own

    @property
    def name(self) -> str:
        """Of its pod, and of its claim where it has whole devices. A lost pod may be there for as long as its node is
        silent, so the one in its place has another name."""
        return self.label.replace(".", "-") + (f"-r{self.renewed}" if self.renewed else "")

    @property
    def devices(self) -> int:
        """How many its raylet offers: of devices that are shared one for each share, so that Ray has none to pack."""
        return len(self.shares or self.uuids) + len(self.parts)

    @property
    def mps(self) -> tuple[int, int] | None:
        """The limits of each client (threads in percent, mebibytes; 0: none); None: not shared by MPS."""
        if self.sharing is None or self.sharing.kind is not SharingKind.MPS:
            return None
        return self.sharing.threads or 0, self.sharing.mebibytes

    @property
    def claims(self) -> Mapping[str, tuple[SlotPart, ...]]:
        """The names of its claims: one for whole devices (no parts), and one for the parts of each GPU. The allocator
        goes back within a claim and not beyond it, and the driver makes the parts of a claim one after the other. GPUs
        that are shared are one claim, too: MPS has one daemon a claim, and a container sees one daemon."""
        if self.pool:
            return {}
        found = {self.name: ()} if self.uuids else {}
        parents = list(dict.fromkeys(part.parent for part in self.parts))
        return found | {
            f"{self.name}-g{at}": tuple(part for part in self.parts if part.parent == parent)
            for at, parent in enumerate(parents)
        }


def attempt_name(gang: str, epoch: int) -> str:
    """Short, so that pods' names stay within their 63 characters; new for every attempt."""
    return f"{stem_of(gang)}-{epoch}"


def stem_of(gang: str) -> str:
    """What the names of a gang's objects begin with."""
    return f"rd-{hashlib.sha256(gang.encode()).hexdigest()[:8]}"


def attempt_of_slot(label: str) -> str:
    """The attempt that a slot belongs to; an attempt's own name is left as it is."""
    return label.partition(".")[0]


def slot_labels(allocation: Allocation) -> dict[str, str]:
    """Node -> the label of the gang's slot there, in topology order: slots are numbered as their first bundles are. A
    gang that has changed its shape may have its bundles in another order, and has the same slots; one that has shrunk
    has fewer."""
    attempt = attempt_name(allocation.gang, allocation.epoch)
    there = dict.fromkeys(placed.node for placed in allocation.in_workers)
    nodes = allocation.numbered or there
    return {node: f"{attempt}.{number}" for number, node in enumerate(nodes) if node in there}


def workers_of(allocation: Allocation) -> tuple[object, ...]:
    """What tells two allocations of one attempt apart that have not the same workers."""
    kept = allocation.in_workers[len(allocation.bundles) :]
    return allocation.renewed, allocation.numbered, len(allocation.bundles), tuple(placed.node for placed in kept)


def slot_order(grant: Grant) -> tuple[object, ...]:
    """Sorts a slot's devices as its raylet numbers them: by position, and the parts of a GPU as its claim has them."""
    profile = profile_order(grant.part.profile) if grant.part is not None else ()
    return grant.position, profile, grant.uuid or "", grant.device.device


def slots_of(allocation: Allocation, asked: Sequence[Bundle] = ()) -> dict[str, Slot]:
    """The slots of an allocation, in topology order, by node. `asked`: the bundles of its request, in its order."""
    by_node: dict[str, list[tuple[int, Placed]]] = {}
    for index, placed in enumerate(allocation.bundles):
        by_node.setdefault(placed.node, []).append((index, placed))
    kept: dict[str, list[Placed]] = {}
    for placed in allocation.in_workers[len(allocation.bundles) :]:
        kept.setdefault(placed.node, []).append(placed)
    labels, renewed = slot_labels(allocation), dict(allocation.renewed)
    found = {}
    for node in labels:
        members = by_node.get(node, [])
        all_placed = [*(placed for _, placed in members), *kept.get(node, ())]
        grants = sorted((g for placed in all_placed for g in placed.grants), key=slot_order)
        cliques = {g.clique for g in grants}
        resources: dict[str, float] = {}
        for placed in all_placed:
            for name, amount in placed.resources.items():
                resources[name] = resources.get(name, 0.0) + amount
        found[node] = Slot(
            labels[node],
            node,
            tuple(index for index, _ in members),
            tuple(dict.fromkeys(g.uuid or "" for g in grants if g.part is None)),
            cliques.pop() if len(cliques) == 1 else None,
            resources,
            _common([asked[index] for index, placed in members if asked and placed.grants]),
            tuple(SlotPart(g.part.parent, g.part.profile, g.uuid) for g in grants if g.part is not None),
            renewed.get(node, 0),
            tuple(g.uuid or "" for g in grants if g.amount is not None),
            next((asked[index].sharing for index, placed in members if asked and placed.grants), None),
            bool(asked) and is_confidential([asked[index] for index, _ in members]),
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
