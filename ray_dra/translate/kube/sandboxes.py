"""The Sandbox of agent-sandbox for a gang of one bundle: the user's template, with that gang's claims. Pure.

The claims are those of the gang's worker, by name, so that a Sandbox has what was planned for it and nothing else. The
worker's pod owns it, so that it ends with that. Neighbour: `workers.py` makes the worker.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.clique import label_value
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.kube.shapes import UNREADABLE, Raw, mapping
from ray_dra.translate.kube.slots import Slot, slots_of
from ray_dra.translate.kube.workers import bound_to
from ray_dra.translate.names import GANG_LABEL, OUR_PREFIX, SANDBOX_API
from ray_dra.translate.vendors import PLUGINS

FIELDS = ("podTemplate", "volumeClaimTemplates", "service", "shutdownTime", "shutdownPolicy")
"""Of a Sandbox's spec, which a template may have."""
UNMANAGED = "Unmanaged"


def read_template(spec: object, place: str = "template") -> dict[str, Any]:
    """A Sandbox's spec.

    Raises:
        InvalidRequest: it is none, or asks for devices itself.
    """
    try:
        found = {name: copy.deepcopy(value) for name, value in mapping(spec).items() if name in FIELDS}
        pod = mapping(found["podTemplate"]["spec"])
        containers = [mapping(each) for each in (*(pod.get("initContainers") or ()), *pod["containers"])]
        resources = [mapping(each.get("resources") or {}) for each in containers]
        asked = {name for each in resources for kind in ("requests", "limits") for name in each.get(kind) or ()}
        claims = pod.get("resourceClaims") or any(each.get("claims") for each in resources)
        if not pod["containers"]:
            raise LookupError("containers")
    except UNREADABLE as error:
        raise InvalidRequest(
            "This is no spec of a Sandbox.",
            place=place,
            wanted=shown(spec),
            available='{"podTemplate": {"spec": {"containers": [...]}}}',
        ) from error
    if claims or asked.intersection(PLUGINS) or pod.get("nodeName"):
        raise InvalidRequest(
            "The template of a Sandbox asks for devices or a node itself; what it has is planned.",
            place=place,
            wanted="resourceClaims" if claims else min(asked.intersection(PLUGINS), default="nodeName"),
            available="part=, devices= and near=",
        )
    return found


def read_sandbox_template(thing: Raw) -> dict[str, Any]:
    """The spec of a SandboxTemplate's Sandboxes. Raises InvalidRequest as `read_template` does, and where its network
    policy would not hold: agent-sandbox keeps that up for SandboxClaims alone."""
    spec, place = thing.get("spec") or {}, f"SandboxTemplate {thing['metadata']['name']}"
    managed = spec.get("networkPolicyManagement") or "Managed"
    if managed != UNMANAGED:
        raise InvalidRequest(
            "The template's network policy would not hold for this Sandbox; have one of the namespace's own.",
            place=place,
            wanted=f"networkPolicyManagement: {shown(managed)}",
            available=f"networkPolicyManagement: {UNMANAGED}",
        )
    return read_template(spec, place)


def sandbox_object(spec: Mapping[str, Any], gang: str, slot: Slot, pod: str, namespace: str) -> dict[str, Any]:
    """The Sandbox. `spec`: as it was read; `pod`: uid of the slot's worker."""
    made = copy.deepcopy(dict(spec))
    template = made["podTemplate"]
    meta, inside = template.setdefault("metadata", {}), template["spec"]
    for told in ("labels", "annotations"):  # by ours it would be taken for a gang's worker
        meta[told] = {name: value for name, value in (meta.get(told) or {}).items() if not name.startswith(OUR_PREFIX)}
    inside.setdefault("automountServiceAccountToken", False)
    inside["affinity"] = bound_to(inside.get("affinity") or {}, slot.node)
    local = {name: f"gpus{name.removeprefix(slot.name)}" for name in slot.claims}
    inside["resourceClaims"] = [{"name": ours, "resourceClaimName": name} for name, ours in local.items()]
    first = inside["containers"][0]
    first["resources"] = {**(first.get("resources") or {}), "claims": [{"name": ours} for ours in local.values()]}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": slot.name, "uid": pod}
    return {
        "apiVersion": SANDBOX_API,
        "kind": "Sandbox",
        "metadata": {
            "name": sandbox_name(slot),
            "namespace": namespace,
            "labels": {GANG_LABEL: label_value(gang)},
            "ownerReferences": [{**owner, "controller": False, "blockOwnerDeletion": False}],
        },
        "spec": made,
    }


def workers_of(allocation: Allocation) -> list[Slot]:
    """The workers of a gang, one a node."""
    return list(slots_of(allocation).values())


def sandbox_name(slot: Slot) -> str:
    """Its pod is called as it is, so no worker's may be."""
    return f"{slot.name}-sandbox"


def is_ready(thing: Raw) -> bool:
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def said_of(thing: Raw) -> str:
    """Why it is not ready, in its controller's words; "" where that has said nothing."""
    conditions = (thing.get("status") or {}).get("conditions") or ()
    found = next((each for each in conditions if each.get("type") == "Ready"), None)
    return str(found.get("message") or found.get("reason") or "") if found is not None else ""
