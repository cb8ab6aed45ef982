"""What a pod says of itself: let in or not, where it is, why it is not further. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ray_dra.ports.kubernetes import Object
from ray_dra.translate.names import GATE, GROUP_LABEL


def gated(pod: Object) -> bool:
    return any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates") or ())


def group_of(pod: Object) -> str | None:
    label = (pod["metadata"].get("labels") or {}).get(GROUP_LABEL)
    return None if label is None else str(label)


def signs(pods: Iterable[Object]) -> tuple[int, int, int, int]:
    """Pods, let in, bound, started: what grows while there is progress."""
    counts = [0, 0, 0, 0]
    for pod in pods:
        counts[0] += 1
        counts[1] += not gated(pod)
        counts[2] += bool(pod["spec"].get("nodeName"))
        counts[3] += not why_not_started(pod)
    return counts[0], counts[1], counts[2], counts[3]


def why_pending(pod: Object) -> str:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{pod['metadata']['name']}: {condition.get('message') or condition.get('reason')}"
    return f"{pod['metadata']['name']} to be scheduled"


def why_not_started(pod: Object) -> str:
    status = pod.get("status") or {}
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (entry.get("state") or {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    return "" if status.get("phase") in ("Running", "Succeeded") else "its containers to start"


def imex_readiness(domains: Iterable[Object]) -> str:
    """Which nodes of a gang's ComputeDomains are not ready yet; "" where all that are known are."""
    nodes = [node for domain in domains for node in (domain.get("status") or {}).get("nodes") or ()]
    waiting = [str(node.get("name")) for node in nodes if node.get("status") != "Ready"]
    return f"; IMEX is not ready on {', '.join(waiting)}" if waiting else ""


NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


def no_image(pod: Object) -> bool:
    """Whether an image cannot be had, as opposed to: is being pulled."""
    return why_not_started(pod).startswith(NO_IMAGE)


def why_failed(pod: Object) -> str:
    status = pod.get("status") or {}
    for entry in status.get("containerStatuses") or ():
        ended = (entry.get("state") or {}).get("terminated")
        if ended:
            return str(ended.get("message") or f"{ended.get('reason', '')}, exit code {ended.get('exitCode')}").strip()
    return str(status.get("message") or status.get("reason") or "no reason given")
