"""Which scheduler places gangs' pods, what others' names on a RayCluster mean for gangs, and what comes of two
schedulers on one node. Pure.

Gangs' pods are in no group of the RayCluster's spec, so whoever counts the spec (Kueue, KubeRay's batch schedulers)
never sees a gang come or go. Whoever counts pods by their owner (KAI's podgrouper) would: that is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.kube_objects import Claim, RayCluster, ResourceSlice
from ray_dra.translate.kube.queues import KAI, kind_of
from ray_dra.translate.kube.shapes import Raw
from ray_dra.translate.names import (
    GANG_SCHEDULING_ANNOTATION,
    KAI_QUEUE_LABEL,
    KAI_SCHEDULER,
    KUBERAY_GANG_LABEL,
    KUBERAY_SCHEDULER_LABEL,
    KUEUE_QUEUE_LABEL,
    QUEUE_ANNOTATION,
    VOLCANO_QUEUE_LABEL,
    YUNIKORN_LABEL,
)

DEFAULT_SCHEDULER = "default-scheduler"
_SPEC = "counts the head and the groups of the spec; gangs are in none of them, and are placed whole by their own gates"
_MEANINGS = {
    KUEUE_QUEUE_LABEL: "Kueue queues the RayCluster as a whole, and suspends it as a whole; gangs are in none of its"
    f" quotas but by the annotation {QUEUE_ANNOTATION}",
    KUBERAY_GANG_LABEL: f"KubeRay's gang {_SPEC}",
    KUBERAY_SCHEDULER_LABEL: f"KubeRay's batch scheduler {_SPEC}",
    VOLCANO_QUEUE_LABEL: f"Volcano's PodGroup {_SPEC}",
    YUNIKORN_LABEL: f"YuniKorn's application {_SPEC}",
    KAI_QUEUE_LABEL: f"KAI's PodGroup of the RayCluster {_SPEC}",
}
"""Labels of a RayCluster by which somebody else queues or places it, and what that does to its gangs."""


class GivenTwice(NamedTuple):
    """A device that several claims have. `claims`: (namespace, name), sorted."""

    node: str
    device: str
    claims: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        named = " and ".join(f"{namespace}/{name}" for namespace, name in self.claims)
        return f"{self.device} on {self.node}: given to the claims {named}"


ONE_SCHEDULER = "let one scheduler place all pods with claims on a node"
"""The cure."""


def given_twice(claims: Iterable[Claim], slices: Iterable[ResourceSlice]) -> list[GivenTwice]:
    """Devices that more than one claim has, though they are for one at a time. Of an administrator's access nobody
    takes anything, and `Claim.devices` has none of it."""
    first: dict[tuple[str, str], Claim] = {}
    more: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        for device in set(claim.devices):
            if first.setdefault(device, claim) is not claim:
                more.setdefault(device, [first[device]]).append(claim)
    if not more:
        return []
    several = {(each.node, device.name) for each in slices for device in each.devices if device.several}
    return [
        GivenTwice(node, device, tuple(sorted({(claim.namespace, claim.name) for claim in found})))
        for (node, device), found in sorted(more.items())
        if (node, device) not in several
    ]


def scheduler_of(template: Raw) -> str:
    """Of a pod template's spec."""
    return str(template.get("schedulerName") or DEFAULT_SCHEDULER)


def check_scheduler(cluster: RayCluster, group: Raw) -> None:
    """Raises InvalidRequest where gangs' pods, copies of this group's, would be counted with others'."""
    place, spec = f"RayCluster {cluster.namespace}/{cluster.name}, group {cluster.template}", group["template"]["spec"]
    if spec.get("schedulingGroup"):
        raise InvalidRequest(
            "The worker group to copy is in a PodGroup of Kubernetes' own, which would count the pods of all gangs"
            f' together; leave schedulingGroup out of it. With the annotation {GANG_SCHEDULING_ANNOTATION}: "true" each'
            " gang has one of its own.",
            place=place,
            wanted="no schedulingGroup",
            available=shown(str(spec["schedulingGroup"])),
        )
    by_kai, named = kind_of(cluster.settings.get(QUEUE_ANNOTATION, "")) == KAI, scheduler_of(spec)
    if named == KAI_SCHEDULER and not by_kai:
        raise InvalidRequest(
            "The worker group to copy is placed by KAI Scheduler, which would put gangs' pods into the head's PodGroup"
            f" and end both together; leave schedulerName out of it, or name the queue that pays for gangs in the"
            f" annotation {QUEUE_ANNOTATION}: kai/NAME, for which each has a PodGroup of its own.",
            place=place,
            wanted="no schedulerName",
            available=KAI_SCHEDULER,
        )
    if by_kai and named not in (KAI_SCHEDULER, DEFAULT_SCHEDULER):
        raise InvalidRequest(
            "Gangs are paid from a queue of KAI Scheduler's, and the worker group to copy names another scheduler;"
            " leave schedulerName out of it.",
            place=place,
            wanted=KAI_SCHEDULER,
            available=shown(named),
        )


def meanings(labels: Mapping[str, object]) -> list[tuple[str, str]]:
    """What the labels of a RayCluster by which somebody else queues or places it mean for its gangs, by name."""
    return [(name, said) for name, said in _MEANINGS.items() if name in labels]


def contested_nodes(pods: Iterable[Raw], nodes: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Nodes, of these, on which more than one scheduler has placed pods with claims: node -> the schedulers, sorted.
    A DaemonSet's pods do not count: they go to each node, and have devices by an administrator's access or channels."""
    found: dict[str, set[str]] = {}
    for pod in pods:
        spec = pod["spec"]
        owners = pod["metadata"].get("ownerReferences") or ()
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if spec.get("nodeName") not in nodes or not spec.get("resourceClaims") or ended:
            continue
        if any(owner.get("kind") == "DaemonSet" for owner in owners):
            continue
        found.setdefault(spec["nodeName"], set()).add(scheduler_of(spec))
    return {node: tuple(sorted(names)) for node, names in sorted(found.items()) if len(names) > 1}
