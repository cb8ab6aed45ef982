"""A worker's pod as KubeRay's operator builds it from a worker group, built by us. Pure.

The coordinator makes the pods of gangs itself, beside the operator's. To Ray and to KubeRay they are workers like any
others, so what the operator adds to a pod template is added here in the same way and order, held to the pods of
KubeRay 1.6.2 field by field on the real operator (tests/cluster/test_kuberay_pod.py); 1.7.0's were compared once
(docs/notes/own-pods.md). One thing differs on purpose: what the init containers run (see `_wait_for_gcs`).
Neighbours: `kuberay_start` writes the `ray start` line; `kuberay_operator` reads the operator's version and settings
off the head's pod.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate import names
from ray_dra.translate.kube.kuberay_operator import open_files, settings_env
from ray_dra.translate.kube.kuberay_start import AGENT_PORT, METRICS_PORT, start_command, start_options
from ray_dra.translate.kube.shapes import Raw

_SERVE_PORT = 8000
_SHARED_MEMORY = "shared-mem"
_TLS_FOLDER = "/etc/ray/tls"
_TOKEN_VOLUME, _TOKEN_FOLDER = "ray-token", names.KUBERAY_TOKEN_FOLDER
_ONE_HEALTH_PAGE = (2, 53)  # since this version of Ray one page of the agent says whether a node is healthy
_LABEL_LENGTH, _SECRET_NAME_LENGTH = 63, 50


def worker_pod(cluster: RayCluster, group: Raw, name: str) -> dict[str, Any]:
    """The pod that KubeRay would make for the worker group `group` of this RayCluster, under this name."""
    template = copy.deepcopy(dict(group["template"]))
    meta, spec = template.get("metadata") or {}, template["spec"]
    ray = spec["containers"][0]  # KubeRay takes the first container for Ray's
    options = start_options(group, _head(cluster))
    start = start_command(options, cluster.kuberay)

    # The operator copies the user's container into its init container before it adds to it.
    spec["initContainers"] = [*(spec.get("initContainers") or ()), _wait_for_gcs(cluster, ray)]
    env = ray["env"] = list(ray.get("env") or ())
    if cluster.workers.fault_tolerant:
        _set(env, names.GCS_RECONNECT_VARIABLE, "600")
    ports = ray["ports"] = list(ray.get("ports") or ())
    if not any(port.get("name") == "metrics" for port in ports):
        ports.append({"name": "metrics", "containerPort": METRICS_PORT})
    if cluster.workers.never_restarted:
        spec["restartPolicy"] = "Never"
    _let_in(cluster, spec)
    if cluster.kuberay.tls:
        _certify(cluster, spec)
    if "plasma-directory" not in options:
        _share_memory(spec, ray)
    _command(cluster, ray, meta, start)
    for container in spec["initContainers"]:
        container["env"] = [*(container.get("env") or ()), *_head_address(cluster)]
    _environment(cluster, env, start)
    if cluster.kuberay.probes:
        _probes(cluster, ray, options)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(cluster, group, meta, name),
        "spec": spec,
    }


# -- what stands above the containers


def _metadata(cluster: RayCluster, group: Raw, meta: Raw, name: str) -> dict[str, Any]:
    identifier = _cut(f"{cluster.name}-worker", _LABEL_LENGTH)
    labels = {
        names.KUBERAY_NODE_LABEL: "yes",
        names.KUBERAY_IDENTIFIER_LABEL: identifier,
        names.APPLICATION_LABEL: "kuberay",
        names.CREATED_BY_LABEL: "kuberay-operator",
        **(meta.get("labels") or {}),
        **(group.get("labels") or {}),
        names.KUBERAY_CLUSTER_LABEL: cluster.name,  # these three the user cannot choose
        names.KUBERAY_NODE_TYPE_LABEL: "worker",
        names.GROUP_LABEL: group["groupName"],
        names.KUBERAY_REPLICA_LABEL: "0",
    }
    if cluster.workers.serving:
        labels[names.KUBERAY_SERVING_LABEL] = "true"
    annotations = dict(meta.get("annotations") or {})
    if cluster.workers.own_command:
        annotations[names.OWN_COMMAND_ANNOTATION] = "true"
    made: dict[str, Any] = {
        "name": name,
        "namespace": cluster.namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": names.RAY_API,
                "kind": "RayCluster",
                "name": cluster.name,
                "uid": cluster.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if annotations:
        made["annotations"] = annotations
    if meta.get("finalizers"):
        made["finalizers"] = list(meta["finalizers"])
    return made


def _cut(value: str, length: int) -> str:
    """The end of a name that is too long, begun with what may begin one."""
    value = value[-length:]
    return value if value[0].isalnum() else f"r{value[1:]}"


def _host(cluster: RayCluster) -> str:
    service = cluster.workers.head_service or f"{cluster.name}-head-svc"
    return f"{service}.{cluster.namespace}.svc.{cluster.kuberay.domain}"


def _head(cluster: RayCluster) -> str:
    return f"{_host(cluster)}:{cluster.workers.head_port}"


# -- containers


def _command(cluster: RayCluster, ray: dict[str, Any], meta: Raw, start: str) -> None:
    """`ray start` behind the user's own command, unless that has it already or the user forbids it."""
    told = (meta.get("annotations") or {}).get(names.OWN_COMMAND_ANNOTATION, "")
    theirs = "".join(f" {part} " for part in (*(ray.get("command") or ()), *(ray.get("args") or ())))
    if cluster.workers.own_command or told.lower() == "true" or "ray start" in theirs:
        return
    start = f"{open_files(cluster.kuberay)}; {start}"
    ray |= {"command": list(cluster.kuberay.shell), "args": [f"{theirs} && {start}" if theirs else start]}


def _wait_for_gcs(cluster: RayCluster, ray: Raw) -> dict[str, Any]:
    """The init container that ends once the head's GCS answers.

    KubeRay's asks by `ray health-check`, which imports Ray on a fifth of a CPU for seconds. Ours first tries whether
    the port is open, and asks in KubeRay's way where it is not.
    """
    host, port = _host(cluster), cluster.workers.head_port
    script = (
        f"until (: < /dev/tcp/{host}/{port}) 2> /dev/null || ray health-check --address {host}:{port}; do\n"
        f'  echo "Waiting for the GCS at {host}:{port} for $SECONDS seconds."\n'
        "  sleep 1\n"
        "done"
    )
    amounts = {"cpu": "200m", "memory": "256Mi"}
    made: dict[str, Any] = {
        "name": "wait-gcs-ready",
        "command": list(cluster.kuberay.shell),
        "args": [script],
        "env": list(ray.get("env") or ()),
        "resources": {"limits": amounts, "requests": dict(amounts)},
    }
    _copy(ray, made, "image", "imagePullPolicy", "securityContext", "volumeMounts")
    return made


def _let_in(cluster: RayCluster, spec: dict[str, Any]) -> None:
    """What Ray's authentication needs, in the Ray container and in the init container."""
    auth = cluster.workers.auth
    if auth is None:
        return
    if auth.by_kubernetes:
        volumes = spec["volumes"] = list(spec.get("volumes") or ())
        if not any(volume["name"] == _TOKEN_VOLUME for volume in volumes):
            source = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
            volumes.append({"name": _TOKEN_VOLUME, **source})
    for container in (spec["containers"][0], *_waiting(spec)):
        env = container.setdefault("env", [])
        _set(env, names.AUTH_MODE_VARIABLE, "token")
        if auth.by_kubernetes:
            _set(env, names.KUBERNETES_TOKEN_VARIABLE, "true")
            mounts = container["volumeMounts"] = list(container.get("volumeMounts") or ())
            if not any(mount["name"] == _TOKEN_VOLUME for mount in mounts):
                mounts.append({"name": _TOKEN_VOLUME, "mountPath": _TOKEN_FOLDER, "readOnly": True})
        elif not _has(env, names.AUTH_TOKEN_VARIABLE):
            key = {"name": auth.secret or _cut_secret(cluster.name), "key": "auth_token"}
            env.append({"name": names.AUTH_TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": key}})


def _certify(cluster: RayCluster, spec: dict[str, Any]) -> None:
    """The certificate that KubeRay has made for workers, which is good once it names the pod's own address."""
    volumes = spec["volumes"] = list(spec.get("volumes") or ())
    if not any(volume["name"] == names.KUBERAY_TLS_VOLUME for volume in volumes):
        secret = {"secretName": f"ray-worker-secret-{cluster.name}"}
        volumes.append({"name": names.KUBERAY_TLS_VOLUME, "secret": secret})
    ray = spec["containers"][0]
    mount = {"name": names.KUBERAY_TLS_VOLUME, "mountPath": _TLS_FOLDER, "readOnly": True}
    for container in (ray, *_waiting(spec)):
        env = container.setdefault("env", [])
        for name, value in names.TLS_VARIABLES:
            _set(env, name, value)
        mounts = container["volumeMounts"] = list(container.get("volumeMounts") or ())
        if not any(each["name"] == mount["name"] or each["mountPath"] == _TLS_FOLDER for each in mounts):
            mounts.append(dict(mount))
    if any(container["name"] == "wait-for-tls-ip-san" for container in spec["initContainers"]):
        return
    script = (
        f"until openssl x509 -in {_TLS_FOLDER}/tls.crt -noout -text |"
        " tr ', ' '\\n\\n' | grep -qxF \"Address:$POD_IP\"; do\n"
        '  echo "Waiting for a certificate of $POD_IP."\n'
        "  sleep 1\n"
        "done"
    )
    amounts = {"cpu": "50m", "memory": "64Mi"}
    waiting: dict[str, Any] = {
        "name": "wait-for-tls-ip-san",
        "command": ["sh", "-c"],
        "args": [script],
        "env": [{"name": names.POD_ADDRESS_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "volumeMounts": [mount],
        "resources": {"limits": amounts, "requests": dict(amounts)},
    }
    _copy(ray, waiting, "image", "imagePullPolicy", "securityContext")
    spec["initContainers"].insert(0, waiting)


def _waiting(spec: Raw) -> list[dict[str, Any]]:
    return [container for container in spec["initContainers"] if container["name"] == "wait-gcs-ready"]


def _copy(ray: Raw, made: dict[str, Any], *fields: str) -> None:
    for field in fields:
        if ray.get(field):
            made[field] = copy.deepcopy(ray[field])


def _cut_secret(name: str) -> str:
    """The name of the Secret that KubeRay makes for a RayCluster's token."""
    name = _cut(name, _SECRET_NAME_LENGTH)
    return f"r{name[1:]}" if name[0].isdigit() else name


def _share_memory(spec: dict[str, Any], ray: dict[str, Any]) -> None:
    """/dev/shm for Ray's object store, as large as the container's memory, unless the user mounts one."""
    mounts = ray["volumeMounts"] = list(ray.get("volumeMounts") or ())
    if any(mount["mountPath"] == "/dev/shm" for mount in mounts):
        return
    volumes = spec["volumes"] = list(spec.get("volumes") or ())
    if not any(volume["name"] == _SHARED_MEMORY for volume in volumes):
        resources = ray.get("resources") or {}
        asked = [resources.get(kind) or {} for kind in ("limits", "requests")]
        size = next((each["memory"] for each in asked if "memory" in each), None)
        directory = {"medium": "Memory"} if size is None else {"medium": "Memory", "sizeLimit": size}
        volumes.append({"name": _SHARED_MEMORY, "emptyDir": directory})
    mounts.append({"name": _SHARED_MEMORY, "mountPath": "/dev/shm"})


def _head_address(cluster: RayCluster) -> list[dict[str, Any]]:
    values = (_host(cluster), _host(cluster).split(".")[0])
    return [{"name": name, "value": value} for name, value in zip(names.HEAD_HOST_VARIABLES, values, strict=True)]


def _environment(cluster: RayCluster, env: list[dict[str, Any]], start: str) -> None:
    """Of the Ray container. KubeRay adds some also where the user has set them; the last one of a name is in force."""
    for entry in settings_env(cluster.kuberay, cluster.workers.head_env):
        if not _has(env, entry["name"]):
            env.append(copy.deepcopy(dict(entry)))
    env += _head_address(cluster)
    for name, path in (
        (names.CLUSTER_NAME_VARIABLE, f"metadata.labels['{names.KUBERAY_CLUSTER_LABEL}']"),
        (names.CLUSTER_NAMESPACE_VARIABLE, "metadata.namespace"),
        (names.INSTANCE_VARIABLE, "metadata.name"),
        (names.NODE_TYPE_VARIABLE, f"metadata.labels['{names.GROUP_LABEL}']"),
    ):
        env.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
    env.append({"name": names.START_COMMAND_VARIABLE, "value": start})
    _set(env, names.HEAD_PORT_VARIABLE, cluster.workers.head_port)
    if cluster.workers.serving:
        for name, value in names.SERVE_VARIABLES:
            _set(env, name, value)
    _set(env, names.RAY_ADDRESS_VARIABLE, _head(cluster))
    _set(env, names.USAGE_VARIABLE, "1")
    _set(env, names.DISK_USAGE_VARIABLE, "1")


def _has(env: list[dict[str, Any]], name: str) -> bool:
    return any(entry["name"] == name for entry in env)


def _set(env: list[dict[str, Any]], name: str, value: str) -> None:
    """Unless the user has."""
    if not _has(env, name):
        env.append({"name": name, "value": value})


# -- probes


def _probes(cluster: RayCluster, ray: dict[str, Any], options: Mapping[str, str]) -> None:
    """Whether the raylet is healthy; where the RayCluster serves, also whether its proxy is."""
    port = _port(options["dashboard-agent-listen-port"], AGENT_PORT)
    commands = [_fetched(port, 2, "api/local_raylet_healthz")]
    asked = {"httpGet": {"path": "/api/healthz", "port": port}}
    if not _one_health_page(cluster.workers.ray_version):
        asked = {"exec": _shell_of(commands)}
    every = {"timeoutSeconds": 2, "periodSeconds": 5, "successThreshold": 1}
    if not ray.get("livenessProbe"):
        ray["livenessProbe"] = {**asked, **every, "initialDelaySeconds": 30, "failureThreshold": 120}
    if not ray.get("readinessProbe"):
        ready = ray["readinessProbe"] = {**asked, **every, "initialDelaySeconds": 10, "failureThreshold": 10}
        if cluster.workers.serving:
            proxy = next((p["containerPort"] for p in ray["ports"] if p.get("name") == "serve"), _SERVE_PORT)
            ready.pop("httpGet", None)
            ready |= {"exec": _shell_of([*commands, _fetched(proxy, 10, "-/healthz")]), "failureThreshold": 1}


def _shell_of(commands: list[str]) -> dict[str, Any]:
    return {"command": ["bash", "-c", " && ".join(commands)]}


def _fetched(port: int, seconds: int, page: str) -> str:
    return f"wget --tries 1 -T {seconds} -q -O- http://localhost:{port}/{page} | grep success"


def _port(told: str, otherwise: int) -> int:
    return int(told) if re.fullmatch(r"[+-]?[0-9]{1,9}", told) else otherwise


def _one_health_page(version: str) -> bool:
    """Not where the RayCluster does not name its Ray's version."""
    found = re.match(r"\s*v?(0|[1-9][0-9]*)\.([0-9]+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= _ONE_HEALTH_PAGE
