"""From an Allocation to one attempt at it: the slots, and every Kubernetes object to make, by worker groups.

Pure. One worker group for all nodes of a gang that are alike (clique, devices and what is asked of them, bundles'
resources): its claim template names the devices chosen on all of them by UUID, and its pods are bound to these nodes by
affinity. Since each node has exactly as many chosen devices as a claim counts, every pod gets its own node with exactly
what was planned. Kubernetes' scheduler allocates; these objects leave it no other choice. Neighbour: `workers.py`
writes the objects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.request import Bundle
from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate.kube.claims import expression_for
from ray_dra.translate.kube.slots import Slot, attempt_name, slots_of, uuids_of
from ray_dra.translate.kube.workers import Maker

CEL_BYTES = 10 * 1024  # the API's limit for one expression


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a gang: its slots by node, and every object to make for it, in the order of making."""

    name: str
    slots: Mapping[str, Slot]
    domains: tuple[dict[str, Any], ...]
    templates: tuple[dict[str, Any], ...]
    groups: tuple[dict[str, Any], ...]
    pods: tuple[dict[str, Any], ...] = field(default=())  # one for each group, for a dry run

    @property
    def channel_templates(self) -> tuple[str, ...]:
        return tuple(d["spec"]["channel"]["resourceClaimTemplate"]["name"] for d in self.domains)

    def missing(self, there: Collection[str]) -> list[dict[str, Any]]:
        """ComputeDomains and claim templates of other names than these, in the order of making."""
        return [thing for thing in (*self.domains, *self.templates) if thing["metadata"]["name"] not in there]

    def missing_groups(self, there: Collection[str]) -> list[dict[str, Any]]:
        """Worker groups of other names than these."""
        return [group for group in self.groups if group["groupName"] not in there]


def attempt_of(
    allocation: Allocation, raycluster: RayCluster, *, compute_domains: bool, asked: Sequence[Bundle] = ()
) -> Attempt:
    """Every object for this allocation.

    Args:
        compute_domains: the cluster serves ComputeDomains: a gang over several nodes of one multi-node clique gets one.
        asked: the request's bundles, in the allocation's order; the claims say what they say of their devices.
    """
    name = attempt_name(allocation.gang, allocation.epoch)
    slots = slots_of(allocation, asked)
    maker = Maker(allocation, name, raycluster)
    used = {counter for counter, _ in allocation.counters} if compute_domains else set()
    joined = dict.fromkeys(s.clique for s in slots.values() if s.clique and imex_counter(s.node) in used)
    channels = {clique: f"{name}-d{at}" for at, clique in enumerate(joined)}
    templates, groups, pods = [], [], []
    for at, members in enumerate(_alike(slots)):
        part = f"{name}-{at}"
        channel = channels.get(members[0].clique or "")
        if members[0].uuids:
            templates.append(maker.claim_template(part, members))
        group = maker.group(part, members, channel)
        groups.append(group)
        pods.append(maker.pod(group))
    domains = tuple(maker.domain(domain) for domain in channels.values())
    return Attempt(name, slots, domains, tuple(templates), tuple(groups), tuple(pods))


def _alike(slots: Mapping[str, Slot]) -> list[list[Slot]]:
    """Slots that one worker group can serve, split where one CEL expression would be too long."""
    kinds: dict[Any, list[Slot]] = {}
    for slot in slots.values():
        key = (slot.clique, len(slot.uuids), slot.criteria, tuple(sorted(slot.resources.items())))
        kinds.setdefault(key, []).append(slot)
    found = []
    for members in kinds.values():
        start = 0
        for end in range(1, len(members) + 1):
            if end == len(members) or len(expression_for(uuids_of(members[start : end + 1]))) > CEL_BYTES:
                found.append(members[start:end])
                start = end
    return found
