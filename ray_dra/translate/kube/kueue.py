"""Kueue's Workloads: a gang as one, and what one says. Pure.

Kueue knows Workloads of others' making, without any integration: it admits them in its order, and evicts them. A gang's
says what its workers will ask for, a pod set for each kind of bundle, each bundle counted as a pod of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ray_dra.core.gangs.quota import Answer, Labels, Quota, Said, kinds
from ray_dra.core.model.clique import label_value
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import RayCluster, ResourceFlavor, Workload
from ray_dra.translate.kube.queues import name_of
from ray_dra.translate.kube.raycluster import vendor_of, worker_template
from ray_dra.translate.kube.shapes import Raw, mapping, meta_of, text, texts
from ray_dra.translate.kube.slots import Slot, stem_of
from ray_dra.translate.kube.workers import resources_of
from ray_dra.translate.names import (
    ATTEMPT_LABEL,
    CLUSTER_LABEL,
    GANG_LABEL,
    KUEUE_API,
    RAY_API,
    RAY_API_UNWATCHED,
)
from ray_dra.translate.vendors import Vendor

MOST_POD_SETS = 18  # of a Workload
_FINAL = {
    "PodsReadyTimeout": "; the gang's own pods are not known to Kueue: turn waitForPodsReady off for this queue",
}


def request_name(gang: str, asks: int) -> str:
    """Of a gang's Workload; new for every request."""
    return f"{stem_of(gang)}-q{asks}"


def workload(request: GangRequest, quota: Quota, cluster: RayCluster) -> dict[str, Any]:
    """The Workload for a gang's present request. It ends with the RayCluster.

    Raises:
        InvalidRequest: the gang has more kinds of bundles than a Workload can say, or no worker can be made for it.
    """
    different = kinds(request)
    if len(different) > MOST_POD_SETS:
        raise InvalidRequest(
            "Kueue is told of so many kinds of bundles at most.",
            place=f"the queue {quota.queue}",
            wanted=f"{len(different)} kinds of bundles",
            available=str(MOST_POD_SETS),
        )
    name = request_name(request.gang, quota.asks)
    # By its owners Kueue finds the Workload that it made for a queued RayCluster, and deletes all others; it looks for
    # them under the API version that it was built with.
    api = RAY_API_UNWATCHED if cluster.queued else RAY_API
    owner = {"apiVersion": api, "kind": "RayCluster", "name": cluster.name, "uid": cluster.uid}
    return {
        "apiVersion": KUEUE_API,
        "kind": "Workload",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": {
                GANG_LABEL: label_value(request.gang),
                ATTEMPT_LABEL: name,
                CLUSTER_LABEL: label_value(cluster.name),
            },
            "ownerReferences": [{**owner, "blockOwnerDeletion": False}],
        },
        "spec": {
            "active": True,
            "queueName": name_of(quota.queue),
            "priority": request.priority,
            "podSets": [
                {"name": _pod_set(at), "count": count, "template": {"spec": _pod(bundle, cluster)}}
                for at, (bundle, count) in enumerate(different.items())
            ],
        },
    }


def _pod_set(at: int) -> str:
    return f"bundles-{at}"


def _pod(bundle: Bundle, cluster: RayCluster) -> dict[str, Any]:
    """What of a bundle's pod Kueue counts, and by what it chooses flavours."""
    template, vendor = worker_template(cluster)["template"]["spec"], vendor_of(cluster)
    alone = Slot("", "", (0,), ("",) * bundle.count, None, bundle.resources)
    ray, *beside = template["containers"]
    resources = resources_of(ray.get("resources") or {}, alone, [])
    for device in bundle.devices:
        counted = _counted_as(device, vendor)
        requests = resources.setdefault("requests", {})
        requests[counted] = str(int(requests.get(counted, 0)) + device.count)
    made: dict[str, Any] = {
        "containers": [_container(ray, resources), *(_container(each, each.get("resources") or {}) for each in beside)],
        "restartPolicy": "Never",
    }
    inits = [_container(each, each.get("resources") or {}) for each in template.get("initContainers") or ()]
    equal = {name: term for name, term in bundle.labels.items() if not term.startswith(("!", "in("))}
    optional = {
        "initContainers": inits,
        "nodeSelector": {**(template.get("nodeSelector") or {}), **equal},
        "affinity": template.get("affinity") or {},
        "tolerations": template.get("tolerations") or [],
    }
    return made | {field: copy.deepcopy(value) for field, value in optional.items() if value}


def _counted_as(device: DeviceRequest, vendor: Vendor) -> str:
    """The resource that Kueue counts devices as: as the vendor's device plugin offers them, where that has a name."""
    if device.share is not None:
        return vendor.plugin_shared or vendor.plugin
    if device.part is not None:
        profile = device.part.profile.replace("+", ".")
        return vendor.plugin_part + profile if profile else vendor.part_class
    return vendor.plugin if device.device_class in ("", vendor.device_class) else device.device_class


def _container(theirs: Raw, resources: Mapping[str, Any]) -> dict[str, Any]:
    amounts = {kind: dict(resources[kind]) for kind in ("requests", "limits") if resources.get(kind)}
    made: dict[str, Any] = {"name": theirs["name"], "image": theirs.get("image") or "none", "resources": amounts}
    return made | ({"restartPolicy": theirs["restartPolicy"]} if "restartPolicy" in theirs else {})


# -- what Kueue says


def read_workload(thing: Raw) -> Workload:
    status = mapping(thing.get("status") or {})
    said = {c["type"]: c for c in status.get("conditions") or ()}
    evicted, finished = said.get("Evicted"), said.get("Finished")
    silent = f"Kueue has said nothing of it yet, for the LocalQueue {(thing.get('spec') or {}).get('queueName')}"
    gone = next((each for each in (evicted, finished) if each and each["status"] == "True"), None)
    assigned = mapping(status.get("admission") or {}).get("podSetAssignments") or ()
    return Workload(
        *meta_of(thing),
        active=bool((thing.get("spec") or {}).get("active", True)),
        admitted=said.get("Admitted", {}).get("status") == "True",
        evicted=text(gone["reason"]) if gone is not None else "",
        said=_words(gone or said.get("Admitted") or said.get("QuotaReserved") or {}, said) or silent,
        flavors={
            text(each["name"]): tuple(sorted(set(texts(each.get("flavors") or {}).values()))) for each in assigned
        },
    )


def _words(first: Raw, said: Mapping[str, Raw]) -> str:
    """Kueue's own; a request that has a reservation may wait for what its queue checks besides."""
    quota = said.get("QuotaReserved") or {}
    chosen = quota if quota.get("status") == "False" and first.get("type") == "Admitted" else first
    return str(chosen.get("message") or chosen.get("reason") or "")


def read_flavor(thing: Raw) -> ResourceFlavor:
    spec = mapping(thing.get("spec") or {})
    return ResourceFlavor(text(thing["metadata"]["name"]), dict(texts(spec.get("nodeLabels") or {})))


def answer_of(found: Workload, quota: Quota, request: GangRequest, flavors: Mapping[str, ResourceFlavor]) -> Answer:
    """Evicted is read before Admitted, which stays true until the request is given up."""
    if found.deleting:
        return Answer(Said.WAITS, "the request is being deleted")
    if not found.active or found.evicted.startswith("Deactivated"):
        return Answer(Said.REFUSED, f"Deactivated: {found.said}")
    if found.evicted in _FINAL:
        return Answer(Said.REFUSED, f"{found.evicted}: {found.said}{_FINAL[found.evicted]}")
    if found.evicted:
        return Answer(Said.EVICTED, f"{found.evicted}: {found.said}")
    if not found.admitted:
        return Answer(Said.WAITS, found.said)
    if quota.granted is not None:
        return Answer(Said.ADMITTED, granted=quota.granted)
    granted: list[Labels] = []
    for at in range(len(kinds(request))):
        labels: dict[str, str] = {}
        for name in found.flavors.get(_pod_set(at), ()):
            if name not in flavors:
                return Answer(Said.WAITS, f"admitted with the ResourceFlavor {name}, which is not there")
            labels |= flavors[name].labels
        granted.append(tuple(sorted(labels.items())))
    return Answer(Said.ADMITTED, granted=tuple(granted))
