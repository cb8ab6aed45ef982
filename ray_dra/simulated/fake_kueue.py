"""A Kueue for `fake_kube.py`: queues with quotas, whose Workloads it admits in order, preempts, and explains.

Its words are Kueue 0.19.2's, and so are its habits: what it has evicted stays admitted until it is deleted, and till
then nobody else gets its quota.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_dra.translate.quantity import quantity

Amounts = Mapping[str, float]


class FakeKueue:
    """See the module.

    Args:
        queues: LocalQueue -> flavour -> resource -> quota. Each has a ClusterQueue of its own.
        flavors: flavour -> nodeLabels.
    """

    def __init__(
        self,
        queues: Mapping[str, Mapping[str, Amounts]],
        flavors: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.queues = {name: {f: dict(amounts) for f, amounts in each.items()} for name, each in queues.items()}
        names = {name for each in queues.values() for name in each}
        self.flavors = {name: dict((flavors or {}).get(name, {})) for name in sorted(names)}

    def step(self, workloads: Sequence[dict[str, Any]]) -> None:
        """Everyone's turn, the highest priority and then the oldest first; `workloads` are changed in place."""
        order = sorted(workloads, key=lambda w: (-w["spec"]["priority"], w["metadata"]["creationTimestamp"]))
        for workload in order:
            if not workload["spec"]["active"] and not _has(workload, "Evicted"):
                _say(workload, "Evicted", "Deactivated", "The workload is deactivated")
            if not _has(workload, "Admitted") and not _has(workload, "Evicted"):
                self._turn(workload, order)

    def evict(self, workload: dict[str, Any], reason: str, message: str) -> None:
        """For a reason that does not come from the queue."""
        _say(workload, "Evicted", reason, message)

    def _turn(self, workload: dict[str, Any], others: Sequence[dict[str, Any]]) -> None:
        queue = workload["spec"]["queueName"]
        if queue not in self.queues:
            _say(workload, "QuotaReserved", "Inadmissible", f"LocalQueue {queue} doesn't exist", "False")
            return
        here = [w for w in others if w["spec"]["queueName"] == queue and w is not workload]
        used = [w for w in here if _has(w, "Admitted")]
        assigned, why = self._assign(workload, used)
        if not why:
            workload["status"]["admission"] = {"clusterQueue": queue, "podSetAssignments": assigned}
            _say(workload, "QuotaReserved", "QuotaReserved", f"Quota reserved in ClusterQueue {queue}")
            _say(workload, "Admitted", "Admitted", "The workload is admitted")
            return
        _say(workload, "QuotaReserved", "Pending", why, "False")
        lower = [w for w in used if w["spec"]["priority"] < workload["spec"]["priority"]]
        victims: list[dict[str, Any]] = []
        for each in reversed(lower):
            victims.append(each)
            kept = [w for w in used if not any(w is victim for victim in victims)]
            if not self._assign(workload, kept)[1]:
                for victim in victims:
                    told = f"Preempted to accommodate a workload (UID: {workload['metadata']['uid']})"
                    _say(victim, "Evicted", "Preempted", f"{told} due to prioritization in the ClusterQueue")
                pending = f"{why}. Pending the preemption of {len(victims)} workload(s)"
                _say(workload, "QuotaReserved", "Pending", pending, "False")
                return

    def _assign(self, workload: dict[str, Any], used: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        """A flavour for each pod set, or why there is none."""
        quotas = self.queues[workload["spec"]["queueName"]]
        left = {flavor: dict(amounts) for flavor, amounts in quotas.items()}
        for other in used:
            for pod_set, given in zip(
                other["spec"]["podSets"], other["status"]["admission"]["podSetAssignments"], strict=True
            ):
                for name, amount in _asked(pod_set).items():
                    left[given["flavors"][name]][name] -= amount
        assigned = []
        for pod_set in workload["spec"]["podSets"]:
            asked, said = _asked(pod_set), []
            for flavor, amounts in left.items():
                short = [_lacking(flavor, name, amount, amounts, quotas[flavor]) for name, amount in asked.items()]
                if not any(short):
                    for name, amount in asked.items():
                        amounts[name] -= amount
                    assigned.append({"name": pod_set["name"], "flavors": dict.fromkeys(asked, flavor)})
                    break
                said += list(filter(None, short))
            else:
                return [], f"couldn't assign flavors to pod set {pod_set['name']}: {', '.join(said)}"
        return assigned, ""


def _lacking(flavor: str, name: str, amount: float, left: Amounts, quota: Amounts) -> str:
    if name not in quota:
        return f"resource {name} unavailable in ClusterQueue"
    if amount > quota[name]:
        return f"insufficient quota for {name} in flavor {flavor}, request > maximum capacity ({quota[name]:g})"
    if amount > left[name]:
        return f"insufficient unused quota for {name} in flavor {flavor}, {amount - left[name]:g} more needed"
    return ""


def _asked(pod_set: Mapping[str, Any]) -> dict[str, float]:
    """Of all its pods; init containers are not counted."""
    found: dict[str, float] = {}
    for container in pod_set["template"]["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            found[name] = found.get(name, 0.0) + quantity(amount) * pod_set["count"]
    return found


def _has(workload: Mapping[str, Any], kind: str) -> bool:
    found = (workload.get("status") or {}).get("conditions") or ()
    return any(each["type"] == kind and each["status"] == "True" for each in found)


def _say(workload: dict[str, Any], kind: str, reason: str, message: str, status: str = "True") -> None:
    said = workload.setdefault("status", {}).setdefault("conditions", [])
    said[:] = [each for each in said if each["type"] != kind]
    said.append({"type": kind, "status": status, "reason": reason, "message": message})
