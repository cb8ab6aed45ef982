"""Whether Kubernetes places a worker's pod on a node, and whether the pods that run there stay: its rules for
conditions, cordons, taints, and the pod's own choice of nodes. Pure.

A cordon, a taint NoSchedule, NVSentinel's word and a choice that has changed close a node to new pods, and leave those
that run there alone; a node that is not ready, or that evicts (NoExecute), does not. How severe each sign is,
`core.model.signs` says. Neighbour: `slices.py`, which makes the planner's nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ray_dra.core.model.signs import Seen, Sign
from ray_dra.ports.kube_objects import KubeNode, NodeRequirement, Placing, Toleration
from ray_dra.translate.kube.shapes import Raw, mapping, text, texts
from ray_dra.translate.names import NVSENTINEL_STATE_LABEL
from ray_dra.translate.ray.confidential import MODES, hides
from ray_dra.translate.vendors import NVIDIA

_WHOLE = re.compile(r"[+-]?[0-9]{1,63}")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


# Of its label: all that it says from the quarantine until the label goes. Of its conditions: those of fatal faults,
# which it sets True; others it tells by events.
NVSENTINEL_STATES = frozenset(
    {
        "quarantined",
        "draining",
        "drain-succeeded",
        "drain-failed",
        "remediating",
        "remediation-succeeded",
        "remediation-failed",
    }
)
NVSENTINEL_CONDITIONS = frozenset(
    {
        "GpuMemWatch",
        "GpuNvlinkWatch",
        "GpuPcieWatch",
        "GpuThermalWatch",
        "NVSwitchDown",
        "NVSwitchFatalError",
        "SysLogsSXIDError",
        "SysLogsXIDError",
    }
)
MAINTENANCE_CONDITION = "CSPMaintenance"
CONDITIONS = NVSENTINEL_CONDITIONS | {MAINTENANCE_CONDITION}
"""Those of a node, besides Ready, that say anything here."""


def read_placing(pod: Raw) -> Placing:
    """Of a pod's spec."""
    affinity = mapping(mapping(pod.get("affinity") or {}).get("nodeAffinity") or {})
    required = affinity.get(_REQUIRED)
    return Placing(
        tolerations=tuple(
            Toleration(
                key=text(each.get("key") or ""),
                exists=each.get("operator") == "Exists",
                value=text(each.get("value") or ""),
                effect=text(each.get("effect") or ""),
            )
            for each in pod.get("tolerations") or ()
        ),
        selector=tuple(texts(pod.get("nodeSelector") or {}).items()),
        terms=None if not required else tuple(map(_read_term, mapping(required).get("nodeSelectorTerms") or ())),
        runtime=text(pod.get("runtimeClassName") or ""),
    )


def _read_term(term: Any) -> tuple[NodeRequirement, ...]:
    found = mapping(term)
    return tuple(
        NodeRequirement(text(each["key"]), text(each["operator"]), tuple(map(text, each.get("values") or ())), of_field)
        for which, of_field in (("matchExpressions", False), ("matchFields", True))
        for each in found.get(which) or ()
    )


def obstacle(node: KubeNode, placing: Placing) -> Seen | None:
    """What keeps a pod from the node, or is to; what harms those that run there comes first."""
    if not node.ready:
        return Seen(Sign.NODE_NOT_READY, "Kubernetes says that the node is not ready")
    if node.device_plugin:
        said = f"a device plugin offers its GPUs as {node.device_plugin}; they cannot be claimed as well"
        return Seen(Sign.DEVICE_PLUGIN, said)
    evicts = _not_tolerated(node, "NoExecute", placing)
    if evicts:
        return Seen(Sign.NODE_TAINT_NO_EXECUTE, evicts)
    watched = _watched(node)
    if watched is not None:
        return watched  # before the cordon that comes of it, and says less
    if node.unschedulable:
        return Seen(Sign.NODE_CORDONED, "the node is cordoned")
    keeps_away = _not_tolerated(node, "NoSchedule", placing)
    return Seen(Sign.NODE_TAINT_NO_SCHEDULE, keeps_away) if keeps_away else _not_chosen(node, placing)


def _watched(node: KubeNode) -> Seen | None:
    """What NVSentinel says of the node."""
    state = node.labels.get(NVSENTINEL_STATE_LABEL, "")
    if state in NVSENTINEL_STATES:
        return Seen(Sign.NVSENTINEL_STATE, f"NVSentinel says that the node is {state}")
    for condition in node.conditions:
        if condition in NVSENTINEL_CONDITIONS:
            return Seen(Sign.NVSENTINEL_CONDITION, f"NVSentinel says {condition} of the node")
    if MAINTENANCE_CONDITION in node.conditions:
        return Seen(Sign.MAINTENANCE, f"maintenance of the node is planned ({MAINTENANCE_CONDITION})")
    return None


def _not_tolerated(node: KubeNode, effect: str, placing: Placing) -> str:
    for key, value, has in node.taints:
        if has == effect and not any(_tolerates(t, key, value, effect) for t in placing.tolerations):
            return f"the node has the taint {key}={value}:{effect}, which the worker template does not tolerate"
    return ""


def _not_chosen(node: KubeNode, placing: Placing) -> Seen | None:
    mode = node.labels.get(NVIDIA.confidential_state)
    if mode in MODES and not hides(placing.runtime):
        said = f"its GPUs are in the confidential mode {mode}, and the worker template's runtime class is for none"
        return Seen(Sign.NODE_NOT_CHOSEN, said)
    for key, value in placing.selector:
        if node.labels.get(key) != value:
            said = f"the worker template's nodeSelector {key}={value} does not choose it: {_has(node, key)}"
            return Seen(Sign.NODE_NOT_CHOSEN, said)
    if placing.terms is None:
        return None
    unmet = [next((each for each in term if not _meets(node, each)), None) for term in placing.terms]
    if any(term and missing is None for term, missing in zip(placing.terms, unmet, strict=True)):
        return None  # one of the terms will do; an empty one chooses no node
    first = next((each for each in unmet if each is not None), None)
    said = "" if first is None else f" ({first}): {'it is another' if first.of_field else _has(node, first.key)}"
    return Seen(Sign.NODE_NOT_CHOSEN, f"the worker template's required node affinity does not choose it{said}")


def _has(node: KubeNode, key: str) -> str:
    return f"it has {key}={node.labels[key]}" if key in node.labels else f"it has no label {key}"


def _meets(node: KubeNode, wanted: NodeRequirement) -> bool:
    """Kubernetes' rule; an operator that it does not have chooses no node."""
    labels: Mapping[str, str] = {"metadata.name": node.name} if wanted.of_field else node.labels
    value = labels.get(wanted.key)
    match wanted.operator:
        case "In":
            return value in wanted.values
        case "NotIn":
            return value not in wanted.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            numbers = [int(each) for each in (value or "", *wanted.values) if _WHOLE.fullmatch(each)]
            if not all(-(2**63) <= number < 2**63 for number in numbers):
                return False  # Kubernetes reads 64 bits
            if len(numbers) != 2 or len(wanted.values) != 1:
                return False
            return numbers[0] > numbers[1] if wanted.operator == "Gt" else numbers[0] < numbers[1]
    return False


def _tolerates(toleration: Toleration, key: str, value: str, effect: str) -> bool:
    """Kubernetes' rule: an empty key with Exists tolerates everything, an empty effect all effects."""
    if toleration.effect not in ("", effect):
        return False
    if toleration.exists:
        return toleration.key in ("", key)
    return (toleration.key, toleration.value) == (key, value)
