"""The RayCluster: what of it a gang's workers need, and which of its worker groups they are copies of. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray_dra.core.gangs.repair import FaultRule
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.kube_objects import Placing, RayAuth, RayCluster, WorkerGroup, WorkerSettings, WriteLimits
from ray_dra.translate.fault_policy import parse_fault_rules
from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.schedulable import read_placing
from ray_dra.translate.kube.schedulers import check_scheduler
from ray_dra.translate.kube.shapes import Raw, labels_of, mapping, meta_of, text, texts
from ray_dra.translate.names import (
    AUTOSCALER_VARIABLE,
    DEFAULT_TEMPLATE,
    DRIVER_ANNOTATION,
    FAULT_TOLERANCE_ANNOTATION,
    KUBERAY_ORIGIN_LABEL,
    KUBERAY_ORIGIN_NAME_LABEL,
    KUEUE_QUEUE_LABEL,
    LOCALITY_LABEL,
    ON_FAULT_LABEL,
    OUR_PREFIX,
    OWN_COMMAND_ANNOTATION,
    SCHEDULE_ANNOTATION,
    SPARES_ANNOTATION,
    TEMPLATE_ANNOTATION,
    WRITES_AT_ONCE_ANNOTATION,
    WRITES_PER_SECOND_ANNOTATION,
)
from ray_dra.translate.ray.confidential import hides, is_confidential
from ray_dra.translate.ray.policy import parse_rules
from ray_dra.translate.schedule import Schedule, read_schedule
from ray_dra.translate.vendors import NVIDIA, PLUGINS, VENDORS, Vendor

MOST_SPARES = 17  # of the 18 nodes of a rack
MOST_AT_ONCE = 64  # writes; each has a thread and a connection
_YES = ("1", "true")  # as Ray reads a setting


def read_raycluster(thing: Raw) -> RayCluster:
    meta, spec = thing["metadata"], mapping(thing["spec"])
    groups = tuple(_read_group(group) for group in spec.get("workerGroupSpecs") or ())
    annotations = texts(meta.get("annotations") or {})
    template = annotations.get(TEMPLATE_ANNOTATION, DEFAULT_TEMPLATE)
    said = meta_of(thing)
    found = RayCluster(
        said.name,
        text(meta["namespace"]),
        uid=text(meta["uid"]),
        groups=groups,
        template=template,
        placing=_placing(next((g.spec for g in groups if g.name == template), {})),
        workers=_worker_settings(meta, spec),
        settings={name: value for name, value in annotations.items() if name.startswith(OUR_PREFIX)},
        deleting=said.deleting,
        suspended=bool(spec.get("suspend")),
        queued=KUEUE_QUEUE_LABEL in texts(meta.get("labels") or {}),
    )
    if found.workers.serving:
        found = replace(found, service=labels_of(thing).get(KUBERAY_ORIGIN_NAME_LABEL, ""))
    with suppress(InvalidRequest):  # said to whoever asks for a gang
        worker_pod(found, worker_template(found), found.name)
    return found


def _worker_settings(meta: Raw, spec: Raw) -> WorkerSettings:
    annotations, labels = texts(meta.get("annotations") or {}), texts(meta.get("labels") or {})
    head = mapping(spec.get("headGroupSpec") or {})
    service = mapping((head.get("headService") or {}).get("metadata") or {})
    containers: Sequence[Raw] = ((head.get("template") or {}).get("spec") or {}).get("containers") or ({},)
    env = {text(entry["name"]): text(entry.get("value") or "") for entry in containers[0].get("env") or ()}
    scaled = bool(spec.get("enableInTreeAutoscaling"))
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
        autoscaled=scaled,
        never_restarted=scaled and scaler.get("version") == "v2",
        head_env=frozenset(env),
        # KubeRay puts its own after the user's, which decides.
        old_autoscaler=scaled
        and scaler.get("version") != "v2"
        and env.get(AUTOSCALER_VARIABLE, "1").lower() not in _YES,
    )


def _auth(told: Raw) -> RayAuth:
    return RayAuth(secret=text(told.get("secretName") or ""), by_kubernetes=bool(told.get("enableK8sTokenAuth")))


def _read_group(group: Raw) -> WorkerGroup:
    mapping(group["template"])
    return WorkerGroup(text(group["groupName"]), group)


def _placing(group: Raw) -> Placing:
    return read_placing(mapping(group["template"].get("spec") or {})) if group else Placing()


def worker_template(cluster: RayCluster) -> Mapping[str, Any]:
    """The worker group that gangs' workers are copies of: named by the RayCluster's annotation, or `ray-dra`.

    Raises:
        InvalidRequest: there is none, or it asks for GPUs or names a node itself; or the RayCluster's autoscaler would
            end the copies, or a scheduler count them with others; or its DRA driver is not known.
    """
    vendor_of(cluster)
    if cluster.workers.old_autoscaler:
        raise InvalidRequest(
            "Version 1 of Ray's autoscaler ends every worker that is of no group of the RayCluster, and so gangs';"
            f" leave {AUTOSCALER_VARIABLE} out of the head's environment, or set autoscalerOptions.version.",
            place=_place(cluster),
            wanted="autoscalerOptions.version: v2",
            available=f"{AUTOSCALER_VARIABLE} off",
        )
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
    pod = found["template"]["spec"]
    if pod.get("nodeName"):
        raise InvalidRequest(
            "The worker group to copy names one node, past the scheduler; leave nodeName out of it. A nodeSelector or a"
            " required node affinity limits the nodes of gangs.",
            place=f"{place}, group {cluster.template}",
            wanted=f"nodeName {shown(pod['nodeName'])}",
        )
    if not pod["containers"]:
        raise InvalidRequest("The worker group to copy has no container.", place=f"{place}, group {cluster.template}")
    for container in pod["containers"]:
        resources = container.get("resources") or {}
        asked = {*(resources.get("requests") or {}), *(resources.get("limits") or {})}
        offered = asked.intersection(PLUGINS)
        if offered or resources.get("claims"):
            named = min(offered, default=PLUGINS[0])
            raise InvalidRequest(
                f"The worker group to copy asks for GPUs itself; leave {named} and claims out of it.",
                place=f"{place}, group {cluster.template}, container {container['name']}",
            )
    if pod.get("resourceClaims"):
        raise InvalidRequest(
            "The worker group to copy has claims of its own.", place=f"{place}, group {cluster.template}"
        )
    check_scheduler(cluster, found)
    return found


def vendor_of(cluster: RayCluster) -> Vendor:
    """Whose GPUs the RayCluster's gangs have.

    Raises:
        InvalidRequest: its annotation names no driver that is known.
    """
    said = cluster.settings.get(DRIVER_ANNOTATION, NVIDIA.driver)
    if said not in VENDORS:
        raise InvalidRequest(
            "This DRA driver is not known.",
            place=f"{_place(cluster)}, annotation {DRIVER_ANNOTATION}",
            wanted=shown(said),
            available=", ".join(VENDORS),
        )
    return VENDORS[said]


def check_request_for(cluster: RayCluster, request: GangRequest) -> None:
    """Raises InvalidRequest where a gang's workers would be other than it asks for."""
    if is_confidential(request.bundles):
        check_confidential(cluster)
    elif hides(cluster.placing.runtime):
        raise InvalidRequest(
            "The RayCluster's workers are confidential virtual machines, which have GPUs in another way.",
            place=f"{_place(cluster)}, group {cluster.template}",
            wanted="workers that are none",
            available="confidential=True",
        )


def check_confidential(cluster: RayCluster) -> None:
    """Raises InvalidRequest where workers of the RayCluster are no confidential virtual machines."""
    worker_template(cluster)
    runtime = cluster.placing.runtime
    if not hides(runtime) or not vendor_of(cluster).passed_class:
        raise InvalidRequest(
            "The worker group to copy makes no confidential workers: it has no such runtimeClassName.",
            place=f"{_place(cluster)}, group {cluster.template}",
            wanted="runtimeClassName: kata-qemu-nvidia-gpu-snp, or -tdx",
            available=shown(runtime) if runtime else "none",
        )


def driver_of(cluster: RayCluster | None) -> str:
    """The DRA driver of its GPUs; the usual one's where it is not known, which is said to whoever asks for a gang."""
    with suppress(InvalidRequest):
        return vendor_of(cluster).driver if cluster is not None else NVIDIA.driver
    return NVIDIA.driver


def write_limits(cluster: RayCluster) -> WriteLimits:
    """As the RayCluster's annotations set them.

    Raises:
        InvalidRequest: one of them is no number, or none that can be.
    """
    usual = WriteLimits()
    at_once = _number(cluster, WRITES_AT_ONCE_ANNOTATION, usual.at_once, 1, MOST_AT_ONCE)
    return WriteLimits(int(at_once), _number(cluster, WRITES_PER_SECOND_ANNOTATION, usual.per_second, 0.1, 10_000.0))


def spares_in(cluster: RayCluster) -> int:
    """How many nodes of each clique are kept for repairs. Raises InvalidRequest: its annotation is no such number."""
    found = _number(cluster, SPARES_ANNOTATION, 0, 0, MOST_SPARES, "The number of spares in a clique cannot be this.")
    return int(found)


def fault_rules_in(cluster: RayCluster) -> tuple[FaultRule, ...]:
    """What is done about faults of gangs whose programs do not say it. Raises InvalidRequest: its annotation says what
    cannot be done."""
    said = cluster.settings.get(ON_FAULT_LABEL, "")
    return parse_fault_rules(said, f"{_place(cluster)}, annotation {ON_FAULT_LABEL}") if said else ()


def schedule_in(cluster: RayCluster) -> Schedule | None:
    """When its gangs have which of their named shapes. Raises InvalidRequest: its annotation is no schedule."""
    said = cluster.settings.get(SCHEDULE_ANNOTATION, "")
    return read_schedule(said, f"{_place(cluster)}, annotation {SCHEDULE_ANNOTATION}") if said else None


def default_locality(cluster: RayCluster) -> str:
    """The policy of the ordinary placement groups for which nobody else says one; "" where the RayCluster has none.

    Raises:
        InvalidRequest: its annotation is no policy.
    """
    said = cluster.settings.get(LOCALITY_LABEL, "")
    if said:
        parse_rules(said, f"{_place(cluster)}, annotation {LOCALITY_LABEL}")
    return said


def _number(
    cluster: RayCluster,
    setting: str,
    usual: float,
    least: float,
    most: float,
    otherwise: str = "The limit of writes to the API server cannot be set to this.",
) -> float:
    told = cluster.settings.get(setting)
    if told is None:
        return usual
    try:
        found = float(told) if len(told) <= 20 else math.nan
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise InvalidRequest(
            otherwise,
            place=f"{_place(cluster)}, annotation {setting}",
            wanted=shown(told),
            available=f"{least:g} to {most:g}",
        )
    return found


def _place(cluster: RayCluster) -> str:
    return f"RayCluster {cluster.namespace}/{cluster.name}"
