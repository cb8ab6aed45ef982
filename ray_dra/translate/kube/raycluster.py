"""The RayCluster: which of its worker groups gangs' workers are copies of, whether a group may be added to it, and the
patches that add, stop and remove groups. Pure.

The list of worker groups is one value to the API server. So a patch appends to it or names places in it, each with a
test that the place has the group that was meant, and never merges.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import RayAuth, RayCluster, Toleration, WorkerGroup, WorkerSettings
from ray_dra.translate.kube.shapes import Raw, mapping, meta_of, text, texts
from ray_dra.translate.names import (
    ATTEMPT_LABEL,
    DEFAULT_TEMPLATE,
    FAULT_TOLERANCE_ANNOTATION,
    KUBERAY_ORIGIN_LABEL,
    OWN_COMMAND_ANNOTATION,
    PLUGIN_RESOURCE,
    TEMPLATE_ANNOTATION,
)

GROUPS = "/spec/workerGroupSpecs"


def read_raycluster(thing: Raw) -> RayCluster:
    meta, spec = thing["metadata"], mapping(thing["spec"])
    groups = tuple(_read_group(group) for group in spec.get("workerGroupSpecs") or ())
    template = texts(meta.get("annotations") or {}).get(TEMPLATE_ANNOTATION, DEFAULT_TEMPLATE)
    owners = [owner["name"] for owner in meta.get("ownerReferences") or () if owner["kind"] == "RayService"]
    said = meta_of(thing)
    found = RayCluster(
        said.name,
        text(meta["namespace"]),
        uid=text(meta["uid"]),
        version=text(meta["resourceVersion"]),
        groups=groups,
        template=template,
        tolerations=_tolerations(next((g.spec for g in groups if g.name == template), {})),
        strategy=text((spec.get("upgradeStrategy") or {}).get("type") or ""),
        service=text(owners[0]) if owners else "",
        autoscaled=bool(spec.get("enableInTreeAutoscaling")),
        workers=_worker_settings(meta, spec),
    )
    with suppress(InvalidRequest):  # said to whoever asks for a gang
        worker_template(found)
    return found


def _worker_settings(meta: Raw, spec: Raw) -> WorkerSettings:
    annotations, labels = texts(meta.get("annotations") or {}), texts(meta.get("labels") or {})
    head = mapping(spec.get("headGroupSpec") or {})
    service = mapping((head.get("headService") or {}).get("metadata") or {})
    containers: Sequence[Raw] = ((head.get("template") or {}).get("spec") or {}).get("containers") or ({},)
    auth = mapping(spec.get("authOptions") or {})
    tolerant = annotations.get(FAULT_TOLERANCE_ANNOTATION, "").lower() == "true"
    scaler = mapping(spec.get("autoscalerOptions") or {})
    return WorkerSettings(
        head_service=text(service.get("name") or ""),
        head_port=text((head.get("rayStartParams") or {}).get("port") or "6379"),
        ray_version=text(spec.get("rayVersion") or ""),
        auth=_auth(auth) if auth.get("mode") == "token" else None,
        fault_tolerant=tolerant or spec.get("gcsFaultToleranceOptions") is not None,
        own_command=annotations.get(OWN_COMMAND_ANNOTATION, "").lower() == "true",
        serving=labels.get(KUBERAY_ORIGIN_LABEL) == "RayService",
        never_restarted=bool(spec.get("enableInTreeAutoscaling")) and scaler.get("version") == "v2",
        head_env=frozenset(text(entry["name"]) for entry in containers[0].get("env") or ()),
    )


def _auth(told: Raw) -> RayAuth:
    return RayAuth(secret=text(told.get("secretName") or ""), by_kubernetes=bool(told.get("enableK8sTokenAuth")))


def _read_group(group: Raw) -> WorkerGroup:
    labels = texts(mapping(group["template"].get("metadata") or {}).get("labels") or {})
    attempt = labels.get(ATTEMPT_LABEL)
    return WorkerGroup(
        name=text(group["groupName"]),
        attempt=attempt,
        replicas=group.get("replicas"),
        suspended=bool(group.get("suspend")),
        spec=group if attempt is None else {},
    )


def _tolerations(group: Raw) -> tuple[Toleration, ...]:
    listed = (group["template"].get("spec") or {}).get("tolerations") or () if group else ()
    return tuple(
        Toleration(
            key=text(each.get("key") or ""),
            exists=each.get("operator") == "Exists",
            value=text(each.get("value") or ""),
            effect=text(each.get("effect") or ""),
        )
        for each in listed
    )


def worker_template(cluster: RayCluster) -> Mapping[str, Any]:
    """The worker group that gangs' workers are copies of: named by the RayCluster's annotation, or `ray-dra`.

    Raises:
        InvalidRequest: there is none, or it asks for GPUs itself.
    """
    found = next((group.spec for group in cluster.groups if group.name == cluster.template), None)
    place = _place(cluster)
    if found is None:
        raise InvalidRequest(
            f"The RayCluster has no worker group to copy: add one named {DEFAULT_TEMPLATE!r} with replicas 0, or name"
            f" one in the annotation {TEMPLATE_ANNOTATION}.",
            place=place,
            wanted=cluster.template,
            available=", ".join(group.name for group in cluster.groups) or "no worker groups",
        )
    if not found:
        raise InvalidRequest(
            "The worker group to copy is a gang's own.", place=f"{place}, annotation {TEMPLATE_ANNOTATION}"
        )
    pod = found["template"]["spec"]
    if not pod["containers"]:
        raise InvalidRequest("The worker group to copy has no container.", place=f"{place}, group {cluster.template}")
    for container in pod["containers"]:
        resources = container.get("resources") or {}
        asked = {*(resources.get("requests") or {}), *(resources.get("limits") or {})}
        if PLUGIN_RESOURCE in asked or resources.get("claims"):
            raise InvalidRequest(
                f"The worker group to copy asks for GPUs itself; leave {PLUGIN_RESOURCE} and claims out of it.",
                place=f"{place}, group {cluster.template}, container {container['name']}",
            )
    if pod.get("resourceClaims"):
        raise InvalidRequest(
            "The worker group to copy has claims of its own.", place=f"{place}, group {cluster.template}"
        )
    return found


def refuse_unfit(cluster: RayCluster) -> None:
    """Refuse a RayCluster to which worker groups cannot be added without harm. Raises InvalidRequest with the
    reason."""
    if cluster.strategy == "Recreate":
        raise InvalidRequest(
            "A RayCluster with upgradeStrategy Recreate deletes every pod, the head's too, when a group is added; set"
            " it to None.",
            place=_place(cluster),
        )
    if cluster.service:
        raise InvalidRequest(
            "A RayService overwrites its RayCluster's worker groups, which would orphan gangs; use a RayCluster or"
            " a RayJob.",
            place=_place(cluster),
            wanted="no RayService as owner",
            available=cluster.service,
        )


def _place(cluster: RayCluster) -> str:
    return f"RayCluster {cluster.namespace}/{cluster.name}"


# -- patches (RFC 6902)


def groups_added(cluster: RayCluster, groups: Sequence[Raw]) -> list[Raw]:
    """Of the RayCluster in this very version."""
    change: list[Raw] = [{"op": "test", "path": "/metadata/resourceVersion", "value": cluster.version}]
    if not cluster.groups:
        return [*change, {"op": "add", "path": GROUPS, "value": list(groups)}]
    return change + [{"op": "add", "path": f"{GROUPS}/-", "value": group} for group in groups]


def groups_stopped(cluster: RayCluster, pods: Mapping[str, Collection[str]]) -> list[Raw]:
    """Their pods end and are not made anew. `pods`: those that each group still has.

    Removing a group at once would orphan its pods for good; with Ray's autoscaler on, the operator refuses a suspended
    group, and takes one of no replicas.
    """
    change: list[Raw] = []
    for at, group in enumerate(cluster.groups):
        if group.name not in pods:
            continue
        change.append(_still(at, group))
        if not cluster.autoscaled:
            change.append({"op": "add", "path": f"{GROUPS}/{at}/suspend", "value": True})
            continue
        for field, value in (
            ("minReplicas", 0),
            ("replicas", 0),
            ("maxReplicas", 0),
            ("scaleStrategy", {"workersToDelete": list(pods[group.name])}),
        ):
            change.append({"op": "add", "path": f"{GROUPS}/{at}/{field}", "value": value})
    return change


def groups_removed(cluster: RayCluster, names: Collection[str]) -> list[Raw]:
    """From the last to the first, so that the earlier places stay right within the one patch."""
    change: list[Raw] = []
    for at, group in reversed(list(enumerate(cluster.groups))):
        if group.name in names:
            change += [_still(at, group), {"op": "remove", "path": f"{GROUPS}/{at}"}]
    return change


def _still(at: int, group: WorkerGroup) -> Raw:
    return {"op": "test", "path": f"{GROUPS}/{at}/groupName", "value": group.name}
