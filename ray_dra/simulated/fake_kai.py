"""A KAI Scheduler for `fake_kube.py`: queues with a limit of GPUs, and PodGroups whose pods it binds and ends whole.

Its words and habits are those that were seen of 0.17: it knows PodGroups by name, whatever their namespace; it ends one
that is below its minimum after a minute, unless it says never or a pod of it is gated; it counts claims that name its
queue and whose device class has "gpu" in its name. A condition that it has written stays when the pods are bound, so
that nobody relies on its going.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_dra.simulated.fake_gang_scheduling import bind_all_or_none, is_free
from ray_dra.translate.names import (
    KAI_EVICTION_ANNOTATION,
    KAI_POD_GROUP_ANNOTATION,
    KAI_QUEUE_LABEL,
    KAI_SCHEDULER,
    KAI_SKIP_ANNOTATION,
)
from ray_dra.translate.vendors import NVIDIA

STALE_STEPS = 120  # a minute, of a fake Kubernetes that takes two steps a second
Raw = dict[str, Any]


def is_placed_by_kai(pod: Mapping[str, Any]) -> bool:
    return bool(pod["spec"].get("schedulerName") == KAI_SCHEDULER)


class FakeKai:
    """See the module. `queues`: name -> its limit of GPUs."""

    def __init__(self, queues: Mapping[str, float]) -> None:
        self.queues = dict(queues)
        self.runs = True
        self._stale: dict[str, int] = {}  # PodGroup -> for how many steps it is below its minimum

    def step(
        self,
        groups: Sequence[Raw],
        pods: Sequence[Raw],
        claims_of: Callable[[Raw], list[Raw | None]],
        bind: Callable[[Raw], None],
    ) -> None:
        """A cycle, over all of the cluster. `bind`: binds a pod, if it can."""
        if not self.runs:
            return
        by_name = {group["metadata"]["name"]: group for group in groups}
        members: dict[str, list[Raw]] = {name: [] for name in by_name}
        for pod in pods:
            told = pod["metadata"].get("annotations") or {}
            if told.get(KAI_SKIP_ANNOTATION) == "true" and told.get(KAI_POD_GROUP_ANNOTATION) in members:
                members[told[KAI_POD_GROUP_ANNOTATION]].append(pod)
        for name, group in by_name.items():
            self._judge(name, group, members[name])
            free = [pod for pod in members[name] if is_free(pod)]
            if free and len(free) + len(_bound(members[name])) >= group["spec"].get("minMember", 1):
                others = [pod for each in members.values() for pod in _bound(each)]
                used = sum(_gpus(claims_of(pod), group["spec"]["queue"]) for pod in others)
                self._turn(group, free, used, claims_of, bind)

    def evict(self, group: Raw, pods: Sequence[Raw], when: str) -> None:
        """For another queue's work, or one of a higher priority: all of its pods in one cycle."""
        group["metadata"].setdefault("annotations", {})[KAI_EVICTION_ANNOTATION] = when
        for pod in pods:
            if (pod["metadata"].get("annotations") or {}).get(KAI_POD_GROUP_ANNOTATION) == group["metadata"]["name"]:
                pod["metadata"]["deletionTimestamp"] = "now"

    def _judge(self, name: str, group: Raw, pods: Sequence[Raw]) -> None:
        some = _bound(pods)
        stale = 0 < len(some) < group["spec"].get("minMember", 1)
        gated = any(pod["spec"].get("schedulingGates") for pod in pods)
        never = str(group["spec"].get("stalenessGracePeriod", "60s")).startswith("-")
        self._stale[name] = self._stale.get(name, 0) + 1 if stale and not gated and not never else 0
        if self._stale[name] >= STALE_STEPS:
            self.evict(group, pods, "2026-11-28T12:00:00Z")

    def _turn(
        self,
        group: Raw,
        pods: Sequence[Raw],
        used: float,
        claims_of: Callable[[Raw], list[Raw | None]],
        bind: Callable[[Raw], None],
    ) -> None:
        queue = group["spec"]["queue"]
        if queue not in self.queues:
            _say(group, pods, "QueueDoesNotExist", f"Queue '{queue}' does not exist", {})
            return
        claims = [claim for pod in pods for claim in claims_of(pod)]
        wanted, limit = sum(_gpus(claims_of(pod), queue) for pod in pods), self.queues[queue]
        if used + wanted > limit:
            message = (
                f"{queue} quota has reached the allowable limit of GPUs. Limit is {limit:g} GPUs, currently {used:g}"
                f" GPUs allocated and workload requested {wanted:g} GPUs"
            )
            amounts = {
                "podGroupRequestedResources": wanted,
                "queueAllocatedResources": used,
                "queueResourceLimits": limit,
            }
            details = {name: {NVIDIA.plugin: f"{amount:g}", "cpu": "-1m"} for name, amount in amounts.items()}
            _say(group, pods, "OverLimit", message, {"queueDetails": {"name": queue, **details}})
            return
        if any(claim is None or not _counted(claim, queue) for claim in claims):
            return
        bind_all_or_none(pods, claims_of, bind)


def _bound(pods: Sequence[Raw]) -> list[Raw]:
    return [pod for pod in pods if "nodeName" in pod["spec"]]


def _counted(claim: Mapping[str, Any], queue: str) -> bool:
    return bool((claim["metadata"].get("labels") or {}).get(KAI_QUEUE_LABEL) == queue)


def _gpus(claims: Sequence[Mapping[str, Any] | None], queue: str) -> float:
    return float(
        sum(
            request["exactly"]["count"]
            for claim in claims
            if claim is not None and _counted(claim, queue)
            for request in claim["spec"]["devices"]["requests"]
            if "gpu" in request["exactly"]["deviceClassName"]
        )
    )


def _say(group: Raw, pods: Sequence[Raw], reason: str, message: str, details: Mapping[str, Any]) -> None:
    told = {"reason": reason, "message": message, "details": details}
    group.setdefault("status", {})["schedulingConditions"] = [
        {"type": "UnschedulableOnNodePool", "status": "True", "reason": "Unschedulable", "reasons": [told]}
    ]
    for pod in pods:
        condition = {"type": "PodScheduled", "status": "False", "message": f"{reason}: {message}"}
        pod["status"]["conditions"] = [condition]
