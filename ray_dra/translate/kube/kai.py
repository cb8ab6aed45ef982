"""KAI Scheduler's PodGroups: an attempt at a gang as one, how its pods say so, and what KAI says of it. Pure.

KAI admits no request ahead: it takes a PodGroup's pods when they are there, all or none, or says why not. Each attempt
has a PodGroup of its own, made before its pods, so that KAI's podgrouper, which goes by owners, does not put them into
the RayCluster's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ray_dra.core.gangs.quota import Answer, Said, kinds
from ray_dra.core.model.clique import label_value
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.kube_objects import PodGroup, RayCluster
from ray_dra.translate.kube.queues import KAI, kind_of, name_of
from ray_dra.translate.kube.shapes import Raw, mapping, meta_of, text
from ray_dra.translate.names import (
    ATTEMPT_LABEL,
    CLUSTER_LABEL,
    GANG_LABEL,
    KAI_API,
    KAI_EVICTION_ANNOTATION,
    KAI_POD_GROUP_ANNOTATION,
    KAI_PRIORITIES_ANNOTATION,
    KAI_QUEUE_LABEL,
    KAI_SCHEDULER,
    KAI_SKIP_ANNOTATION,
    RAY_API,
)
from ray_dra.translate.quantity import quantity

NEVER_STALE = "-1s"  # KAI ends all of a PodGroup that is below its minimum for a minute; we repair it
_CONDITION = "UnschedulableOnNodePool"
_NO_QUOTA = ("OverLimit", "NonPreemptibleOverQuota", "QueueDoesNotExist")
"""Reasons for which KAI may take the pods later, and nothing about their nodes helps."""
_IN_TURN = ("PreemptionDelayNotElapsed",)
"""Reasons for which it will take the very pods that are there, which stay."""

PRIORITIES = "PRIORITY=CLASS, several with commas between, each priority once: 0=train,100=inference"
_PRIORITY = re.compile(r"\s*(-?[0-9]{1,9})\s*=\s*([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)\s*")


def is_kai(queue: str) -> bool:
    """Whether a gang of this queue is placed by KAI."""
    return kind_of(queue) == KAI


def pod_group_name(attempt: str, cluster: RayCluster) -> str:
    """KAI knows PodGroups by their name alone, whatever the namespace: so the RayCluster's uid is in it."""
    return f"{attempt}-{cluster.uid}"


def priority_classes(said: str) -> tuple[tuple[int, str], ...] | None:
    """(the least priority of gangs, their PriorityClass), the lowest first; None: the annotation says no such thing."""
    found = [_PRIORITY.fullmatch(part) for part in said.split(",")] if said else []
    classes = {int(each[1]): each[2] for each in found if each is not None}
    return tuple(sorted(classes.items())) if len(classes) == len(found) else None


def check_priorities(cluster: RayCluster) -> None:
    """Raises InvalidRequest: the annotation says no priority classes."""
    said = cluster.settings.get(KAI_PRIORITIES_ANNOTATION, "")
    if priority_classes(said) is None:
        raise InvalidRequest(
            "The RayCluster says no priority classes for KAI Scheduler.",
            place=f"RayCluster {cluster.namespace}/{cluster.name}, annotation {KAI_PRIORITIES_ANNOTATION}",
            wanted=shown(said),
            available=PRIORITIES,
        )


def _ranked(cluster: RayCluster, priority: int) -> dict[str, str]:
    """The class of a gang of this priority; none below the least, and where the annotation has become wrong since the
    gang was asked for: KAI's own then."""
    classes = priority_classes(cluster.settings.get(KAI_PRIORITIES_ANNOTATION, "")) or ()
    found = [name for least, name in classes if least <= priority]
    return {"priorityClassName": found[-1]} if found else {}


def pod_group(
    gang: str, attempt: str, members: int, queue: str, cluster: RayCluster, priority: int = 0
) -> dict[str, Any]:
    """The PodGroup of an attempt that has so many workers: all of them, or none. It ends with the RayCluster."""
    owner = {"apiVersion": RAY_API, "kind": "RayCluster", "name": cluster.name, "uid": cluster.uid}
    return {
        "apiVersion": KAI_API,
        "kind": "PodGroup",
        "metadata": {
            "name": pod_group_name(attempt, cluster),
            "namespace": cluster.namespace,
            "labels": {
                GANG_LABEL: label_value(gang),
                ATTEMPT_LABEL: attempt,
                CLUSTER_LABEL: label_value(cluster.name),
            },
            "ownerReferences": [{**owner, "blockOwnerDeletion": False}],
        },
        "spec": {
            "queue": name_of(queue),
            "minMember": members,
            "stalenessGracePeriod": NEVER_STALE,
            **_ranked(cluster, priority),
        },
    }


def put_into(template: dict[str, Any], attempt: str, queue: str, cluster: RayCluster) -> None:
    """Say in a pod template that KAI places its pod, as one of the attempt's PodGroup. A priority class of the
    template's is the pods' alone: of the group KAI goes by the group's."""
    meta = template.setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), KAI_QUEUE_LABEL: name_of(queue)}
    told = {KAI_SKIP_ANNOTATION: "true", KAI_POD_GROUP_ANNOTATION: pod_group_name(attempt, cluster)}
    meta["annotations"] = {**(meta.get("annotations") or {}), **told}
    template["spec"]["schedulerName"] = KAI_SCHEDULER


# -- what KAI says


def read_pod_group(thing: Raw) -> PodGroup:
    status = mapping(thing.get("status") or {})
    annotations = mapping(thing["metadata"].get("annotations") or {})
    found = [
        each
        for condition in status.get("schedulingConditions") or ()
        if condition.get("type") == _CONDITION and condition.get("status", "True") == "True"
        for each in condition.get("reasons") or ()
    ]
    # What keeps it from quota first: with it nothing else matters.
    first = min(found, key=lambda each: each.get("reason") not in _NO_QUOTA, default=None)
    return PodGroup(
        *meta_of(thing),
        evicted=text(annotations.get(KAI_EVICTION_ANNOTATION) or ""),
        reason=text(first.get("reason") or "") if first is not None else "",
        said=_words(first) if first is not None else "",
    )


def _words(reason: Raw) -> str:
    """KAI's own, with what of the queue's numbers they may leave out."""
    details = mapping(mapping(reason.get("details") or {}).get("queueDetails") or {})
    words = f"{reason.get('reason')}: {text(reason.get('message') or 'no more is said')}"
    asked = mapping(details.get("podGroupRequestedResources") or {})
    has, most = (mapping(details.get(name) or {}) for name in ("queueAllocatedResources", "queueResourceLimits"))
    over = [
        f"{name} {amount} and {has.get(name, 0)} of {most[name]}"
        for name, amount in asked.items()
        if name in most and not str(most[name]).startswith("-")  # which is no limit
        if quantity(most[name]) < quantity(amount) + quantity(has.get(name, 0))
    ]
    return f"{words} (queue {details.get('name')}: {', '.join(over)})" if over else words


def waits_in_turn(groups: Iterable[PodGroup]) -> bool:
    """Whether KAI will take the pods that are there, in its own time."""
    return any(group.reason in _IN_TURN for group in groups)


def answer_of(groups: Iterable[PodGroup], request: GangRequest) -> Answer:
    """What KAI says of a gang's PodGroups: of the attempt that there is."""
    there = [group for group in groups if not group.deleting]
    for group in there:
        if group.evicted:
            said = f"KAI Scheduler ended its workers at {group.evicted} (kubectl describe podgroup {group.name})"
            return Answer(Said.EVICTED, said, ended=True)
    for group in there:
        if group.reason in _NO_QUOTA:
            return Answer(Said.LATER, group.said)
    return Answer(Said.ADMITTED, granted=((),) * len(kinds(request)))


def labels_of_claim(queue: str) -> Mapping[str, str]:
    """KAI asks of a claim that a pod names whose quota it is from."""
    return {KAI_QUEUE_LABEL: name_of(queue)} if is_kai(queue) else {}
