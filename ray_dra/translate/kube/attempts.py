"""From an Allocation to one attempt at it: the slots, and every Kubernetes object to make for them.

Pure. A slot has a pod, bound to its node by affinity, and a ResourceClaim that the pod owns, with the devices chosen
there by UUID. Kubernetes' scheduler allocates; these objects leave it no other choice. Neighbour: `workers.py` writes
the objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.gpu_sharing import SharingKind
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.request import Bundle
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate.kube.slots import Slot, attempt_name, slots_of
from ray_dra.translate.kube.workers import Maker


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a gang: its slots by node, and every object to make for them.

    Attributes:
        domains: the ComputeDomain of each clique that has one.
    """

    name: str
    slots: Mapping[str, Slot]
    domains: Mapping[str, dict[str, Any]]
    _maker: Maker

    @property
    def pod_group(self) -> dict[str, Any] | None:
        """By which KAI Scheduler takes its pods whole, or Kubernetes' own as a second belt; None where neither does."""
        return self._maker.pod_group(len(self.slots))

    @property
    def channel_templates(self) -> tuple[str, ...]:
        """What the ComputeDomains' controller makes, and pods name."""
        return tuple(d["spec"]["channel"]["resourceClaimTemplate"]["name"] for d in self.domains.values())

    @property
    def gate_hint(self) -> str:
        """What its claims need of the driver that nothing published tells; "" for nothing."""
        sharing = next((slot.sharing for slot in self.slots.values() if slot.sharing is not None), None)
        if sharing is None:
            return ""
        gate = "MPSSupport" if sharing.kind is SharingKind.MPS else "TimeSlicingSettings"
        return f" (its GPUs are shared, {sharing}: NVIDIA's driver needs its feature gate {gate} for that)"

    def missing_pod_group(self, there: Collection[str]) -> dict[str, dict[str, Any]]:
        """Its PodGroup, where it has one and there is none of that name, by name."""
        made = self.pod_group
        return {} if made is None or made["metadata"]["name"] in there else {str(made["metadata"]["name"]): made}

    def missing_domains(self, there: Collection[str]) -> dict[str, dict[str, Any]]:
        """ComputeDomains of other names than these, by name."""
        named = {str(domain["metadata"]["name"]): domain for domain in self.domains.values()}
        return {name: domain for name, domain in named.items() if name not in there}

    def pod(self, slot: Slot) -> dict[str, Any]:
        """The slot's worker."""
        return self._maker.pod(slot, self.domains.get(slot.clique or ""))

    def claims(self, slot: Slot, pod: str) -> dict[str, dict[str, Any]]:
        """The claims of the slot's devices by name, owned by the pod of this uid; none for a slot without devices."""
        return {name: self._maker.claim(slot, pod, name, parts) for name, parts in slot.claims.items()}

    def unlike(self, slots: Iterable[Slot]) -> list[Slot]:
        """One of each kind among them: of those left out, the API server thinks as of these."""
        kinds: dict[Any, Slot] = {}
        for slot in slots:
            asked = tuple(sorted(slot.resources.items()))
            devices = (len(slot.uuids), len(slot.parts), len(slot.shares), slot.sharing, slot.criteria)
            kinds.setdefault((slot.clique in self.domains, devices, asked), slot)
        return list(kinds.values())


def attempt_of(
    allocation: Allocation,
    raycluster: RayCluster,
    *,
    compute_domains: bool,
    asked: Sequence[Bundle] = (),
    own: Callable[[str], bool] = lambda node: True,
    buses: Callable[[str, str], str | None] = lambda node, uuid: None,
    toleration: Mapping[str, str] | None = None,
    pool: Allocation | None = None,
    queue: str = "",
    gang_scheduling: str = "",
) -> Attempt:
    """Every object for this allocation.

    Args:
        compute_domains: the cluster serves ComputeDomains: a gang over several nodes of one multi-node clique gets one.
        asked: the request's bundles, in the allocation's order; the claims say what they say of their devices.
        own: whether a worker is made for the gang on the node; on others it uses a raylet that is there.
        pool: what the gang holds of whose GPUs this one has shares.
        buses: the bus id of a node's GPU, for workers to which GPUs are passed through.
        toleration: of the taint that the devices have while the gang's claims change.
        queue: outside, that the gang is paid from.
        gang_scheduling: the version of Kubernetes' own PodGroups; "": its pods are in none. Of one worker there is no
            half, and KAI has PodGroups of its own.

    Raises:
        InvalidRequest: the RayCluster's template makes no such worker.
    """
    name = attempt_name(allocation.gang, allocation.epoch)
    slots = {node: slot for node, slot in slots_of(allocation, asked).items() if own(node)}
    slots = {node: _passed_through(slot, buses) if slot.confidential else slot for node, slot in slots.items()}
    if pool is not None:
        of_pool = slots_of(pool)
        slots = {node: _in_pool(slot, of_pool[node]) if slot.shares else slot for node, slot in slots.items()}
    maker = Maker(allocation, name, raycluster, toleration, queue, gang_scheduling if len(slots) > 1 else "")
    names = _domain_names(name, allocation, slots) if compute_domains else {}
    return Attempt(name, slots, {clique: maker.domain(named) for clique, named in names.items()}, maker)


def domains_of(
    allocation: Allocation, asked: Sequence[Bundle], *, own: Callable[[str], bool] = lambda node: True
) -> dict[str, str]:
    """Node -> the ComputeDomain that its worker is in, where they are served at all. Arguments as of `attempt_of`."""
    slots = {node: slot for node, slot in slots_of(allocation, asked).items() if own(node) and not slot.confidential}
    names = _domain_names(attempt_name(allocation.gang, allocation.epoch), allocation, slots)
    joined = _joined(allocation, slots)
    return {node: names[slot.clique] for node, slot in slots.items() if slot.clique in names and node in joined}


def _domain_names(attempt: str, allocation: Allocation, slots: Mapping[str, Slot]) -> dict[str, str]:
    """Clique -> the name of its ComputeDomain, of those that have one."""
    joined = _joined(allocation, slots)
    cliques = dict.fromkeys(slot.clique for node, slot in slots.items() if slot.clique and node in joined)
    return {clique: f"{attempt}-{_short(clique)}" for clique in cliques if clique}


def _joined(allocation: Allocation, slots: Mapping[str, Slot]) -> set[str]:
    """The nodes of an IMEX domain."""
    used = {counter for counter, _ in allocation.counters}
    return {node for node in slots if imex_counter(node) in used}


def _in_pool(slot: Slot, of_pool: Slot) -> Slot:
    """Its worker names the claim of the pool's worker there, and so sees all GPUs of that; its shares say which are for
    its bundles."""
    return replace(slot, pool=of_pool.name, uuids=of_pool.uuids, clique=None)


def _short(clique: str) -> str:
    """Of the clique alone: a gang that loses its part in one, and comes back to it, has the others as they were."""
    return f"d{hashlib.sha256(clique.encode()).hexdigest()[:8]}"


def _passed_through(slot: Slot, buses: Callable[[str, str], str | None]) -> Slot:
    """In a virtual machine no NVLink leads to other nodes, and none is seen of a box that is passed through in part."""
    found = tuple(bus for uuid in slot.uuids if (bus := buses(slot.node, uuid)) is not None)
    if len(found) < len(slot.uuids):
        raise InvalidRequest(
            "Nothing tells where the node's GPUs are, for them to be passed through.",
            place=f"node {slot.node}",
            wanted=f"the bus ids of {len(slot.uuids)} GPUs",
            available=str(len(found)),
        )
    return replace(slot, clique=None, buses=found)
