"""From an Allocation to Kubernetes objects: claim templates, ComputeDomains, and KubeRay worker groups.

Pure. One worker group for all nodes of a gang that are alike (clique, number of devices, bundles' resources): its claim
template names the devices chosen on all of them by UUID, and its pods are bound to these nodes by affinity. Since each
node has exactly as many chosen devices as a claim counts, every pod gets its own node with exactly what was planned.
Kubernetes' scheduler allocates; these objects leave it no other choice.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.clique import BOX_PREFIX, label_value
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import (
    ATTEMPT_LABEL,
    ATTEMPT_VARIABLE,
    CLUSTER_LABEL,
    COMPUTE_DOMAIN_API,
    DEFAULT_TEMPLATE,
    GANG_LABEL,
    GATE,
    GPU_CLASS,
    GPU_DOMAIN,
    NODE_VARIABLE,
    PLUGIN_RESOURCE,
    RAY_API,
    START_HOOK_VARIABLE,
    TEMPLATE_ANNOTATION,
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,253}")  # of a resource: nothing in it that a shell reads
CEL_BYTES = 10 * 1024  # the API's limit for one expression
RAYLET_CPUS, RAYLET_MEMORY = 0.25, 1 << 30  # what a raylet needs besides the bundles


@dataclass(frozen=True, slots=True)
class Slot:
    """A gang's part of one node: its bundles, and what its raylet offers."""

    node: str
    bundles: tuple[int, ...]
    uuids: tuple[str, ...]  # in the node's order
    clique: str | None
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a gang: its slots by node, and every object to make for it, in the order of making."""

    name: str
    slots: Mapping[str, Slot]
    domains: tuple[dict[str, Any], ...]
    templates: tuple[dict[str, Any], ...]
    groups: tuple[dict[str, Any], ...]
    pods: tuple[dict[str, Any], ...] = field(default=())  # one for each group, for a dry run

    @property
    def channel_templates(self) -> tuple[str, ...]:
        return tuple(d["spec"]["channel"]["resourceClaimTemplate"]["name"] for d in self.domains)


def attempt_name(gang: str, epoch: int) -> str:
    """Short, so that pods' names stay within their 63 characters; new for every attempt."""
    return f"rd-{hashlib.sha256(gang.encode()).hexdigest()[:8]}-{epoch}"


def slot_label(attempt: str, node: str) -> str:
    """The label by which a bundle selects a slot's raylet; a restarted raylet has it again."""
    return label_value(f"{attempt}.{node}")


def slots_of(allocation: Allocation) -> dict[str, Slot]:
    """The slots of an allocation, in topology order, by node."""
    by_node: dict[str, list[tuple[int, Placed]]] = {}
    for index, placed in enumerate(allocation.bundles):
        by_node.setdefault(placed.node, []).append((index, placed))
    found = {}
    for node, members in by_node.items():
        grants = sorted((g for _, placed in members for g in placed.grants), key=lambda g: g.position)
        cliques = {g.clique for g in grants}
        resources: dict[str, float] = {}
        for _, placed in members:
            for name, amount in placed.resources.items():
                resources[name] = resources.get(name, 0.0) + amount
        found[node] = Slot(
            node,
            tuple(index for index, _ in members),
            tuple(g.uuid or "" for g in grants),
            cliques.pop() if len(cliques) == 1 else None,
            resources,
        )
    return found


def worker_template(raycluster: Mapping[str, Any]) -> dict[str, Any]:
    """The worker group that gangs' workers are copies of: named by the RayCluster's annotation, or `ray-dra`.

    Raises:
        InvalidRequest: there is none, or it asks for GPUs itself.
    """
    meta, spec = raycluster["metadata"], raycluster["spec"]
    wanted = (meta.get("annotations") or {}).get(TEMPLATE_ANNOTATION, DEFAULT_TEMPLATE)
    groups = spec.get("workerGroupSpecs") or []
    found = next((g for g in groups if g["groupName"] == wanted), None)
    place = f"RayCluster {meta['namespace']}/{meta['name']}"
    if found is None:
        raise InvalidRequest(
            f"The RayCluster has no worker group to copy: add one named {DEFAULT_TEMPLATE!r} with replicas 0, or name"
            f" one in the annotation {TEMPLATE_ANNOTATION}.",
            place=place,
            wanted=wanted,
            available=", ".join(g["groupName"] for g in groups) or "no worker groups",
        )
    pod = found["template"]["spec"]
    for container in pod["containers"]:
        resources = container.get("resources") or {}
        asked = {*(resources.get("requests") or {}), *(resources.get("limits") or {})}
        if PLUGIN_RESOURCE in asked or resources.get("claims"):
            raise InvalidRequest(
                f"The worker group to copy asks for GPUs itself; leave {PLUGIN_RESOURCE} and claims out of it.",
                place=f"{place}, group {wanted}, container {container['name']}",
            )
    if pod.get("resourceClaims"):
        raise InvalidRequest("The worker group to copy has claims of its own.", place=f"{place}, group {wanted}")
    return dict(found)


def refuse_unfit(raycluster: Mapping[str, Any]) -> None:
    """Refuse a RayCluster to which worker groups cannot be added without harm. Raises InvalidRequest with the
    reason."""
    meta = raycluster["metadata"]
    place = f"RayCluster {meta['namespace']}/{meta['name']}"
    strategy = (raycluster["spec"].get("upgradeStrategy") or {}).get("type")
    if strategy == "Recreate":
        raise InvalidRequest(
            "A RayCluster with upgradeStrategy Recreate deletes every pod, the head's too, when a group is added; set"
            " it to None.",
            place=place,
        )
    for owner in meta.get("ownerReferences") or ():
        if owner["kind"] == "RayService":
            raise InvalidRequest(
                "A RayService overwrites its RayCluster's worker groups, which would orphan gangs; use a RayCluster or"
                " a RayJob.",
                place=place,
                wanted="no RayService as owner",
                available=owner["name"],
            )


def attempt_of(allocation: Allocation, raycluster: Mapping[str, Any], *, imex: bool) -> Attempt:
    """Every object for this allocation.

    Args:
        imex: the cluster serves ComputeDomains: a gang over several nodes of a multi-node clique gets one there.
    """
    name = attempt_name(allocation.gang, allocation.epoch)
    slots = slots_of(allocation)
    maker = _Maker(allocation, name, raycluster)
    cliques = list(dict.fromkeys(s.clique for s in slots.values() if s.clique and not s.clique.startswith(BOX_PREFIX)))
    joined = [c for c in cliques if sum(s.clique == c for s in slots.values()) > 1] if imex else []
    channels = {clique: f"{name}-d{at}" for at, clique in enumerate(joined)}
    templates, groups, pods = [], [], []
    for at, members in enumerate(_alike(slots)):
        part = f"{name}-{at}"
        channel = channels.get(members[0].clique or "")
        if members[0].uuids:
            templates.append(maker.claim_template(part, members))
        group = maker.group(part, members, channel)
        groups.append(group)
        pods.append(maker.pod(group))
    domains = tuple(maker.domain(domain) for domain in channels.values())
    return Attempt(name, slots, domains, tuple(templates), tuple(groups), tuple(pods))


def _alike(slots: Mapping[str, Slot]) -> list[list[Slot]]:
    """Slots that one worker group can serve, split where one CEL expression would be too long."""
    kinds: dict[Any, list[Slot]] = {}
    for slot in slots.values():
        key = (slot.clique, len(slot.uuids), tuple(sorted(slot.resources.items())))
        kinds.setdefault(key, []).append(slot)
    found = []
    for members in kinds.values():
        start = 0
        for end in range(1, len(members) + 1):
            if end == len(members) or len(_expression(members[start : end + 1])) > CEL_BYTES:
                found.append(members[start:end])
                start = end
    return found


def _expression(members: Sequence[Slot]) -> str:
    """JSON's string literals are CEL's, too, so that no UUID can become code."""
    uuids = [uuid for slot in members for uuid in slot.uuids]
    return f'device.attributes["{GPU_CLASS}"].uuid in {json.dumps(uuids, separators=(",", ":"))}'


def named_by(claim: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """The devices that a gang's claim names, and how many of them it counts; none for a claim of another form."""
    requests: Sequence[Any] = ((claim.get("spec") or {}).get("devices") or {}).get("requests") or ()
    if ATTEMPT_LABEL not in (claim["metadata"].get("labels") or {}) or len(requests) != 1:
        return (), 0
    exactly = requests[0].get("exactly") or {}
    selectors: Sequence[Any] = exactly.get("selectors") or ()
    count = exactly.get("count", 1)
    if len(selectors) != 1 or not isinstance(count, int):
        return (), 0
    return _names_in(selectors[0]["cel"]["expression"]), count


def named_uuids(claim: Mapping[str, Any]) -> tuple[str, ...]:
    """The devices that a gang's claim names; none for a claim of somebody else's."""
    return named_by(claim)[0]


def claim_of(claim: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """(namespace, RayCluster, attempt) of a gang's claim, as a Pod's template makes it; None for any other.

    Whoever may create claims may set labels. An owner can be made up, too, but Kubernetes' garbage collector deletes
    what has an owner that does not exist: a claim that stays belongs to a Pod that is there.
    """
    meta = claim["metadata"]
    labels = meta.get("labels") or {}
    if ATTEMPT_LABEL not in labels or CLUSTER_LABEL not in labels:
        return None  # most claims
    owned = any(
        owner.get("controller") and (owner.get("apiVersion"), owner.get("kind")) == ("v1", "Pod")
        for owner in meta.get("ownerReferences") or ()
    )
    if not owned:
        return None
    return meta.get("namespace", ""), labels[CLUSTER_LABEL], labels[ATTEMPT_LABEL]


@functools.lru_cache(maxsize=1024)  # a group's claims all carry the same kilobytes, and every look reads them
def _names_in(expression: str) -> tuple[str, ...]:
    """Of an expression as `_expression` writes it; none of any other."""
    head, _, names = expression.partition(" in ")
    try:
        found = json.loads(names) if head.endswith(".uuid") else []
    except ValueError:
        return ()
    return tuple(name for name in found if isinstance(name, str)) if isinstance(found, list) else ()


def claim_age(claim: Mapping[str, Any]) -> tuple[str, str]:
    """Orders claims from the oldest on, alike for everyone who sees them."""
    meta = claim["metadata"]
    return str(meta.get("creationTimestamp", "")), str(meta.get("uid", ""))


class _Maker:
    def __init__(self, allocation: Allocation, attempt: str, raycluster: Mapping[str, Any]) -> None:
        meta = raycluster["metadata"]
        self._attempt = attempt
        self._namespace = meta["namespace"]
        self._template = worker_template(raycluster)
        self._labels = {
            GANG_LABEL: label_value(allocation.gang),
            ATTEMPT_LABEL: attempt,
            CLUSTER_LABEL: label_value(meta["name"]),
        }
        self._owner = {
            "apiVersion": RAY_API,
            "kind": "RayCluster",
            "name": meta["name"],
            "uid": meta["uid"],
            "blockOwnerDeletion": False,
        }

    def _meta(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": self._namespace,
            "labels": dict(self._labels),
            "ownerReferences": [self._owner],
        }

    def claim_template(self, name: str, members: Sequence[Slot]) -> dict[str, Any]:
        exactly = {
            "deviceClassName": GPU_CLASS,
            "allocationMode": "ExactCount",
            "count": len(members[0].uuids),
            "selectors": [{"cel": {"expression": _expression(members)}}],
        }
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": self._meta(name),
            "spec": {
                "metadata": {"labels": dict(self._labels)},
                "spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}},
            },
        }

    def domain(self, name: str) -> dict[str, Any]:
        """Ready at once with 0 nodes; each node's own readiness is what its pod's Prepare waits for."""
        return {
            "apiVersion": COMPUTE_DOMAIN_API,
            "kind": "ComputeDomain",
            "metadata": self._meta(name),
            "spec": {
                "numNodes": 0,
                "channel": {"resourceClaimTemplate": {"name": f"{name}-channel"}, "allocationMode": "Single"},
            },
        }

    def group(self, name: str, members: Sequence[Slot], channel: str | None) -> dict[str, Any]:
        """A copy of the user's worker group, bound to these nodes and devices."""
        group = copy.deepcopy(self._template)
        slot = members[0]
        for dropped in ("scaleStrategy", "suspend", "idleTimeoutSeconds", "resources"):
            group.pop(dropped, None)
        count = len(members)
        params = {str(k): str(v) for k, v in (group.get("rayStartParams") or {}).items()}
        params |= _offers(slot)
        labels = dict(group.get("labels") or {})
        if slot.clique is not None:
            labels[GPU_DOMAIN] = label_value(slot.clique)
        group |= {
            "groupName": name,
            "replicas": count,
            "minReplicas": count,
            "maxReplicas": count,
            "numOfHosts": 1,
            "rayStartParams": params,
            "labels": labels,
            "template": self._pod_template(name, members, channel, labels),
        }
        return group

    def pod(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A pod of the group, to see whether the API server takes it: one invalid group stops the operator."""
        template = copy.deepcopy(group["template"])
        metadata = {**template["metadata"], "namespace": self._namespace, "generateName": f"{group['groupName']}-"}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}

    def _pod_template(
        self, name: str, members: Sequence[Slot], channel: str | None, labels: Mapping[str, str]
    ) -> dict[str, Any]:
        template: dict[str, Any] = copy.deepcopy(self._template["template"])
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = {**(metadata.get("labels") or {}), **self._labels}
        if GPU_DOMAIN in labels:
            metadata["labels"][GPU_DOMAIN] = labels[GPU_DOMAIN]
        spec = template["spec"]
        spec["restartPolicy"] = "Never"
        spec["schedulingGates"] = [*(spec.get("schedulingGates") or ()), {"name": GATE}]
        spec["affinity"] = _bound_to(spec.get("affinity") or {}, [slot.node for slot in members])
        claims = []
        if members[0].uuids:
            claims.append({"name": "gpus", "resourceClaimTemplateName": name})
        if channel is not None:
            claims.append({"name": "imex", "resourceClaimTemplateName": f"{channel}-channel"})
        spec["resourceClaims"] = claims
        ray = spec["containers"][0]
        ray["resources"] = _resources(ray.get("resources") or {}, members[0], [c["name"] for c in claims])
        ours = {START_HOOK_VARIABLE, NODE_VARIABLE, ATTEMPT_VARIABLE}
        ray["env"] = [
            *(entry for entry in ray.get("env") or () if entry["name"] not in ours),
            {"name": START_HOOK_VARIABLE, "value": "ray_dra.hooks.start"},
            {"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": ATTEMPT_VARIABLE, "value": self._attempt},
        ]
        return template


def _offers(slot: Slot) -> dict[str, str]:
    """What the raylet is told to offer: exactly the bundles' sum, so that nothing else fits beside them.

    `ray start` takes whole CPUs and bytes only, so a fraction is rounded up: down, the bundles would not fit.
    """
    params = {"num-gpus": str(len(slot.uuids)), "num-cpus": str(_whole(slot.resources.get("CPU", 0.0)))}
    if "memory" in slot.resources:
        params["memory"] = str(_whole(slot.resources["memory"]))
    custom = {k: v for k, v in slot.resources.items() if k not in ("CPU", "GPU", "memory")}
    for name in custom:
        if not _PLAIN_NAME.fullmatch(name):
            raise InvalidRequest(
                "A worker is told of its resources in a shell, which would read this name.",
                place="bundles",
                wanted=shown(name),
                available="letters, digits and _ . : / -",
            )
    if custom:
        params["resources"] = json.dumps(json.dumps(custom, sort_keys=True))  # KubeRay passes it through a shell
    return params


def _whole(amount: float) -> int:
    """Rounded up; Ray counts in ten-thousandths, and a sum of fractions is not exact."""
    return math.ceil(round(amount, 4))


def _resources(theirs: Mapping[str, Any], slot: Slot, claims: Sequence[str]) -> dict[str, Any]:
    """The container's requests and limits: the bundles' and the raylet's own; theirs where the bundles say nothing."""
    requests, limits = dict(theirs.get("requests") or {}), dict(theirs.get("limits") or {})
    cpus = slot.resources.get("CPU")
    if cpus:
        requests["cpu"] = f"{round((cpus + RAYLET_CPUS) * 1000)}m"
        if "cpu" in limits:
            limits["cpu"] = requests["cpu"]
    memory = slot.resources.get("memory")
    if memory:
        requests["memory"] = limits["memory"] = str(_whole(memory) + RAYLET_MEMORY)
    made: dict[str, Any] = {"requests": requests, "limits": limits, "claims": [{"name": name} for name in claims]}
    return {key: value for key, value in made.items() if value}


def _bound_to(affinity: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """The user's affinity, and one of these nodes: each of their terms with each node, since terms are alternatives."""
    made = copy.deepcopy(dict(affinity))
    node_affinity = made.setdefault("nodeAffinity", {})
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    bound = []
    for term in terms:
        for node in nodes:
            field_ = {"key": "metadata.name", "operator": "In", "values": [node]}
            bound.append({**term, "matchFields": [*(term.get("matchFields") or ()), field_]})
    node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": bound}
    return made
