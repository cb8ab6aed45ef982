"""NVSentinel's DrainRequests: what one asks for, which of its pods are still there, and the answer. Pure.

Its node drainer makes one for each fault, waits for the condition DrainComplete, and has the node mended then. It names
the pods that are to go and leaves their end to a plugin. A gang's pods are its coordinator's to end: the node shows a
sign to drain since it was quarantined, the gang has notice, and what it has declared is done. Others' are evicted.

Neighbour: `processes/drain_plugin.py` asks and answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ray_dra.translate.kube.shapes import Raw, labels_of, mapping, meta_of, text
from ray_dra.translate.names import GANG_LABEL

COMPLETE = "DrainComplete"
ENDED = ("Succeeded", "Failed")  # phases of a pod in which nothing of it runs
MOST_NAMED = 8


class DrainRequest(NamedTuple):
    """`pods`: by namespace and name, those that are to leave the node; `version`: which the answer is for."""

    namespace: str
    name: str
    version: str
    node: str
    pods: tuple[tuple[str, str], ...]
    conditions: tuple[Mapping[str, Any], ...] = ()
    deleting: bool = False

    @property
    def complete(self) -> bool:
        return any(each.get("type") == COMPLETE and each.get("status") == "True" for each in self.conditions)


class Remaining(NamedTuple):
    """A pod that is still on the node. `gang`: the value of its label; "" for others' pods. `ending`: it is deleted."""

    namespace: str
    name: str
    gang: str
    ending: bool


def read_drain_request(thing: Raw) -> DrainRequest:
    """Raises one of `shapes.UNREADABLE` for what is none."""
    meta, spec = meta_of(thing), mapping(thing["spec"])
    named = mapping(spec.get("podsToDrain") or {})
    if not all(isinstance(names, list | None) for names in named.values()):  # the letters of a text are no pods
        raise TypeError("the pods of a namespace are a list")
    pods = tuple((text(namespace), text(name)) for namespace, names in named.items() for name in names or ())
    conditions = mapping(thing.get("status") or {}).get("conditions") or ()
    return DrainRequest(
        meta.namespace,
        meta.name,
        text(thing["metadata"]["resourceVersion"]),
        text(spec["nodeName"]),
        pods,
        tuple(mapping(each) for each in conditions),
        meta.deleting,
    )


def remaining(request: DrainRequest, pods: Iterable[Raw]) -> list[Remaining]:
    """Those of the request's pods that are still on its node: one of the same name may be elsewhere by now."""
    found = []
    for pod in pods:
        meta = meta_of(pod)
        here = (pod.get("spec") or {}).get("nodeName") == request.node
        if here and (pod.get("status") or {}).get("phase") not in ENDED:
            found.append(Remaining(meta.namespace, meta.name, labels_of(pod).get(GANG_LABEL, ""), meta.deleting))
    return found


def eviction(pod: Remaining) -> dict[str, Any]:
    """The API server refuses it where a PodDisruptionBudget is against it."""
    meta = {"namespace": pod.namespace, "name": pod.name}
    return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}


def answer(request: DrainRequest, left: Sequence[Remaining], now: str) -> dict[str, Any] | None:
    """The change of the request's status; None where it says this already, or was complete before.

    Args:
        left: its pods that are still there.
        now: the time, as Kubernetes writes it.
    """
    if request.complete:
        return None
    status = "False" if left else "True"
    said = {"type": COMPLETE, "status": status, "reason": _reason(left), "message": _message(request, left)}
    before = next((each for each in request.conditions if each.get("type") == COMPLETE), None)
    if before is not None and all(before.get(key) == value for key, value in said.items()):
        return None
    since = before["lastTransitionTime"] if before is not None and before.get("status") == status else now
    others = [dict(each) for each in request.conditions if each.get("type") != COMPLETE]
    conditions = [*others, {**said, "lastTransitionTime": since}]
    return {"metadata": {"resourceVersion": request.version}, "status": {"conditions": conditions}}


def _reason(left: Sequence[Remaining]) -> str:
    if not left:
        return "Drained"
    return "GangsRun" if any(pod.gang for pod in left) else "PodsEnd"


def _message(request: DrainRequest, left: Sequence[Remaining]) -> str:
    if not left:
        return f"none of {len(request.pods)} pods is on node {request.node}"
    gangs: dict[str, list[str]] = {}
    for pod in left:
        gangs.setdefault(f"{pod.namespace}/{pod.gang}" if pod.gang else "", []).append(f"{pod.namespace}/{pod.name}")
    said = [
        f"gang {gang} has {_names(names)} here" if gang else f"to be evicted: {_names(names)}"
        for gang, names in sorted(gangs.items())
    ]
    more = f"; and {len(said) - MOST_NAMED} more gangs" if len(said) > MOST_NAMED else ""
    hint = "; a gang leaves by what it declares about faults (on_fault), or at its end" if any(gangs) else ""
    return "; ".join(said[:MOST_NAMED]) + more + hint


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
