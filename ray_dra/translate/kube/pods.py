"""What a pod says of itself: let in or not, where it is, why it is not further; and the patch that lets it in. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray_dra.ports.kube_objects import ComputeDomain, Pod
from ray_dra.translate.kube.shapes import Raw, labels_of, mapping, meta_of, text
from ray_dra.translate.names import GATE, WARM_LABEL


def read_pod(thing: Raw) -> Pod:
    spec, status = thing["spec"], mapping(thing.get("status") or {})
    gates = tuple(text(gate["name"]) for gate in spec.get("schedulingGates") or ())
    return Pod(
        *meta_of(thing),
        uid=text(thing["metadata"]["uid"]),
        node=text(spec.get("nodeName") or "") or None,
        gated=GATE in gates,
        gates=tuple(name for name in gates if name != GATE),
        pending=_why_pending(text(thing["metadata"]["name"]), status),
        waiting=_why_not_started(status),
        prepared=_prepared(status),
        failed=_why_failed(status) if status.get("phase") == "Failed" else "",
        ended=status.get("phase") in ("Failed", "Succeeded"),
        warm=labels_of(thing).get(WARM_LABEL),
        pulled=_pulled(status),
    )


def gate_opened(pod: Pod) -> dict[str, Any]:
    """The merge patch that opens our gate and leaves others alone; of this very pod, not of one that replaces it."""
    left = [{"name": name} for name in pod.gates]
    return {"metadata": {"uid": pod.uid}, "spec": {"schedulingGates": left or None}}


def signs(pods: Iterable[Pod]) -> tuple[int, int, int, int]:
    """Pods, let in, bound, started: what grows while there is progress."""
    counts = [0, 0, 0, 0]
    for pod in pods:
        counts[0] += 1
        counts[1] += not pod.gated
        counts[2] += pod.node is not None
        counts[3] += not pod.waiting
    return counts[0], counts[1], counts[2], counts[3]


def imex_readiness(domains: Iterable[ComputeDomain]) -> str:
    """Which nodes of a gang's ComputeDomains are not ready yet; "" where all that are known are."""
    waiting = [node for domain in domains for node in domain.waiting]
    return f"; IMEX is not ready on {', '.join(waiting)}" if waiting else ""


def _why_pending(name: str, status: Raw) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name}: {condition.get('message') or condition.get('reason')}"
    return f"{name} to be scheduled"


def _prepared(status: Raw) -> bool:
    found = status.get("conditions") or ()
    return any(each["type"] == "PodReadyToStartContainers" and each["status"] == "True" for each in found)


def _pulled(status: Raw) -> bool:
    """Whether each container has been made of its image, or fails at something that comes after the image."""
    found = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    return bool(found) and all(each.get("imageID") or _past_image(each) for each in found)


def _past_image(container: Raw) -> bool:
    reason = ((container.get("state") or {}).get("waiting") or {}).get("reason") or ""
    return text(reason).startswith(("CreateContainer", "RunContainer"))


def _why_not_started(status: Raw) -> str:
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (entry.get("state") or {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    return "" if status.get("phase") in ("Running", "Succeeded") else "its containers to start"


def _why_failed(status: Raw) -> str:
    """Never empty."""
    found = status.get("message") or status.get("reason")
    for entry in status.get("containerStatuses") or ():
        ended = (entry.get("state") or {}).get("terminated")
        if ended:
            found = ended.get("message") or f"{ended.get('reason', '')}, exit code {ended.get('exitCode')}"
            break
    return str(found or "").strip() or "no reason given"
