"""The kinds of Kubernetes objects that are used, and their URL paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_dra.translate.kube.shapes import kind_in
from ray_dra.translate.names import (
    COMPUTE_DOMAIN_API,
    KAI_API,
    KUEUE_API,
    NVSENTINEL_API,
    POD_GROUP_APIS,
    RAY_API,
    SANDBOX_API,
    SANDBOX_TEMPLATE_API,
)

# kind: (group and version, plural, namespaced). Of two of one name one has its group and version in it.
KINDS: dict[str, tuple[str, str, bool]] = {
    "Namespace": ("v1", "namespaces", False),
    "Node": ("v1", "nodes", False),
    "Pod": ("v1", "pods", True),
    "Service": ("v1", "services", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "ConfigMap": ("v1", "configmaps", True),
    "Secret": ("v1", "secrets", True),
    "Event": ("v1", "events", True),
    "Endpoints": ("v1", "endpoints", True),
    "DaemonSet": ("apps/v1", "daemonsets", True),
    "Deployment": ("apps/v1", "deployments", True),
    "Job": ("batch/v1", "jobs", True),
    "Lease": ("coordination.k8s.io/v1", "leases", True),
    "Role": ("rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings", True),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "CustomResourceDefinition": ("apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "RuntimeClass": ("node.k8s.io/v1", "runtimeclasses", False),
    "DeviceClass": ("resource.k8s.io/v1", "deviceclasses", False),
    "ResourceSlice": ("resource.k8s.io/v1", "resourceslices", False),
    "DeviceTaintRule": ("resource.k8s.io/v1", "devicetaintrules", False),
    "ResourceClaim": ("resource.k8s.io/v1", "resourceclaims", True),
    "ResourceClaimTemplate": ("resource.k8s.io/v1", "resourceclaimtemplates", True),
    "ComputeDomain": (COMPUTE_DOMAIN_API, "computedomains", True),
    "RayCluster": (RAY_API, "rayclusters", True),
    "RayService": (RAY_API, "rayservices", True),
    "Workload": (KUEUE_API, "workloads", True),
    "PodGroup": (KAI_API, "podgroups", True),
    "ResourceFlavor": (KUEUE_API, "resourceflavors", False),
    "DrainRequest": (NVSENTINEL_API, "drainrequests", True),
    "Sandbox": (SANDBOX_API, "sandboxes", True),
    "SandboxTemplate": (SANDBOX_TEMPLATE_API, "sandboxtemplates", True),
    "RayJob": (RAY_API, "rayjobs", True),
    "PriorityClass": ("scheduling.k8s.io/v1", "priorityclasses", False),
    **{kind_in(api, "PodGroup"): (api, "podgroups", True) for api in POD_GROUP_APIS},
}


def path_of(kind: str, namespace: str | None = None, name: str | None = None) -> str:
    """The URL path of a kind's collection or of one object. KeyError for a kind that KINDS lacks."""
    group, plural, namespaced = KINDS[kind]
    parts = [root_of(group)]
    if namespaced and namespace is not None:
        parts.append(f"namespaces/{namespace}")
    parts.append(plural)
    if name is not None:
        parts.append(name)
    return "/".join(parts)


def kind_of(path: str) -> str:
    """What `path_of` made a URL path of, its subresources among them; "" for another path, such as of discovery."""
    for group, root in _ROOTS.items():
        if path.startswith(f"{root}/"):
            rest = path[len(root) + 1 :].split("/")
            plural = rest[2] if rest[0] == "namespaces" and len(rest) > 2 else rest[0]
            return _PLURALS.get((group, plural), "")
    return ""


def root_of(group: str) -> str:
    return f"/apis/{group}" if "/" in group else f"/api/{group}"


def path_for(thing: Mapping[str, Any], namespace: str | None, *, named: bool = True) -> str:
    meta, kind = thing["metadata"], kind_of_object(thing)
    return path_of(kind, namespace or meta.get("namespace") or "default", meta["name"] if named else None)


def kind_of_object(thing: Mapping[str, Any]) -> str:
    """As KINDS has it."""
    full = kind_in(thing.get("apiVersion", ""), thing["kind"])
    return full if full in KINDS else str(thing["kind"])


_ROOTS = {group: root_of(group) for group, _, _ in KINDS.values()}
_PLURALS = {(group, plural): kind for kind, (group, plural, _) in KINDS.items()}
