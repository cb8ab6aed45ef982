"""RayClusters that differ in what KubeRay makes a worker's pod of: compared with what the operator makes of them
(tests/cluster/test_kuberay_pod.py), and written down as they are (test_kuberay_pod.py here)."""

from __future__ import annotations

import copy
from typing import Any

Raw = dict[str, Any]

NAMESPACE = "pods"
_REDIS = {"redisAddress": "redis:6379", "redisPassword": {"value": "secret"}, "externalStorageNamespace": "here"}
_HTTP = {"httpGet": {"path": "/mine", "port": 1}, "timeoutSeconds": 9}


def _case(
    *,
    name: str = "",
    ray: Raw | None = None,
    pod: Raw | None = None,
    group: Raw | None = None,
    head: Raw | None = None,
    spec: Raw | None = None,
    annotations: Raw | None = None,
    labels: Raw | None = None,
    template: Raw | None = None,
) -> Raw:
    """A RayCluster of one group with one worker; each part is laid over a plain one. `ray`: the Ray container."""
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}}
    container = {"name": "ray-worker", "image": "none", "resources": resources, **(ray or {})}
    more = (pod or {}).get("containers", [])
    worker = {
        "groupName": "workers",
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "rayStartParams": {},
        "template": {
            **({"metadata": template} if template else {}),
            "spec": {**(pod or {}), "containers": [container, *more]},
        },
        **(group or {}),
    }
    head_pod = {"spec": {"containers": [{"name": "ray-head", "image": "none"}], "nodeSelector": {"no": "where"}}}
    return copy.deepcopy(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": name, "annotations": annotations or {}, "labels": labels or {}},
            "spec": {
                "rayVersion": "2.60.0",
                "headGroupSpec": {"rayStartParams": {}, "template": head_pod, **(head or {})},
                "workerGroupSpecs": [worker],
                **(spec or {}),
            },
        }
    )


def _params(**values: str) -> Raw:
    return {"rayStartParams": {name.replace("_", "-"): value for name, value in values.items()}}


CASES: dict[str, Raw] = {
    "plain": _case(),
    "no-version": _case(spec={"rayVersion": ""}),
    "old-ray": _case(spec={"rayVersion": "2.52.1"}),
    "strange-version": _case(spec={"rayVersion": "nightly"}),
    "no-resources": _case(ray={"resources": {}}),
    "limits": _case(
        ray={"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1500m", "memory": "3Gi"}}}
    ),
    "numbers": _case(ray={"resources": {"limits": {"cpu": 2, "memory": 1500000000}}}),
    "devices": _case(
        ray={"resources": {"limits": {"nvidia.com/gpu": "4", "google.com/tpu": "2", "aws.amazon.com/neuroncore": "8"}}}
    ),
    "partitions": _case(ray={"resources": {"limits": {"nvidia.com/mig-1g.10gb": "3", "cpu": "1"}}}),
    "devices-told": _case(
        ray={"resources": {"limits": {"nvidia.com/gpu": "4", "google.com/tpu": "2"}}},
        group=_params(num_gpus="1", resources='\'{"TPU": 1.5, "x": 2}\''),
    ),
    "unreadable-resources": _case(
        ray={"resources": {"limits": {"nvidia.com/gpu": "4"}}}, group=_params(resources='"{\\"a\\": 1}"')
    ),
    "params": _case(
        group=_params(
            num_cpus="3",
            num_gpus="0",
            memory="123",
            block="false",
            log_color="false",
            include_dashboard="True",
            disable_usage_stats="TRUE",
            no_redirect_output="false",
            node_name='it\'s "so" $HOME',
            address="other:1",
            object_store_memory="100000000",
            dashboard_agent_listen_port="1234",
            metrics_export_port="4321",
        ),
        spec={"rayVersion": "2.40.0"},
    ),
    "strange-port": _case(group=_params(dashboard_agent_listen_port="$PORT")),
    "plasma": _case(group=_params(plasma_directory="/mnt/plasma")),
    "group-fields": _case(
        group={
            "labels": {"ray.io/gpu-domain": "d.1", "team": "a", "ray.io/market-type": "spot"},
            "resources": {"CPU": "1500m", "memory": "1Gi", "GPU": "2", "special": "2500m", "a<b": "1", "odd": "?"},
        },
    ),
    "small-resources": _case(group={"resources": {"tiny": "1n", "huge": "1000E", "half": "0.5", "none": "0"}}),
    "env": _case(
        ray={
            "env": [
                {"name": "MINE", "value": "1"},
                {"name": "RAY_IP", "value": "mine"},
                {"name": "RAY_PORT", "value": "1"},
                {"name": "RAY_ADDRESS", "value": "there"},
                {"name": "RAY_USAGE_STATS_KUBERAY_IN_USE", "value": "0"},
                {"name": "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "value": "0"},
                {"name": "RAY_CLUSTER_NAME", "value": "mine"},
                {"name": "AT", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "some", "optional": True}}],
        },
    ),
    "volumes": _case(
        ray={"volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}]},
        pod={"volumes": [{"name": "data", "emptyDir": {}}]},
    ),
    "volumes-of-all-kinds": _case(
        ray={
            "volumeMounts": [
                {"name": "config", "mountPath": "/a", "readOnly": False},
                {"name": "key", "mountPath": "/b", "subPath": "b"},
                {"name": "mixed", "mountPath": "/c"},
                {"name": "claim", "mountPath": "/d", "readOnly": True, "mountPropagation": "HostToContainer"},
                {"name": "host", "mountPath": "/e"},
                {"name": "scratch", "mountPath": "/f"},
            ]
        },
        pod={
            "volumes": [
                {"name": "config", "configMap": {"name": "c"}},
                {"name": "key", "secret": {"secretName": "s", "items": [{"key": "a", "path": "b", "mode": 256}]}},
                {
                    "name": "mixed",
                    "projected": {
                        "sources": [
                            {"secret": {"name": "s"}},
                            {"configMap": {"name": "c", "items": [{"key": "a", "path": "b"}]}},
                            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                            {"serviceAccountToken": {"path": "t", "audience": "vault"}},
                        ]
                    },
                },
                {"name": "self", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "p"}},
                {"name": "read", "persistentVolumeClaim": {"claimName": "q", "readOnly": True}},
                {"name": "host", "hostPath": {"path": "/data", "type": "DirectoryOrCreate"}},
                {"name": "any-host", "hostPath": {"path": "/x"}},
                {
                    "name": "scratch",
                    "ephemeral": {
                        "volumeClaimTemplate": {
                            "spec": {
                                "accessModes": ["ReadWriteOnce"],
                                "storageClassName": "fast",
                                "resources": {"requests": {"storage": "1024Mi"}},
                            }
                        }
                    },
                },
                {"name": "driver", "csi": {"driver": "d", "readOnly": True, "nodePublishSecretRef": {"name": "s"}}},
                {"name": "share", "nfs": {"server": "s", "path": "/p"}},
            ]
        },
    ),
    "own-shared-memory": _case(
        ray={"volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]},
        pod={"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "5Gi"}}]},
    ),
    "own-volume-of-that-name": _case(
        pod={"volumes": [{"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": "7Gi"}}]}
    ),
    "containers": _case(
        pod={
            "initContainers": [
                {"name": "first", "image": "one", "env": [{"name": "FQ_RAY_IP", "value": "mine"}]},
                {"name": "beside", "image": "two", "restartPolicy": "Always"},
            ],
            "containers": [{"name": "sidecar", "image": "three", "env": [{"name": "A", "value": "b"}]}],
        },
    ),
    "command": _case(ray={"command": ["/bin/sh", "-c"], "args": ["echo", "a && b"]}),
    "args": _case(ray={"args": ["sleep 1"]}),
    "starts-itself": _case(ray={"command": ["bash", "-c"], "args": ["ray start --address=x --block"]}),
    "overwrite": _case(
        annotations={"ray.io/overwrite-container-cmd": "true"},
        ray={"command": ["bash", "-c"], "args": ["$KUBERAY_GEN_RAY_START_CMD"]},
    ),
    "overwrite-in-template": _case(template={"annotations": {"ray.io/overwrite-container-cmd": "TRUE", "a": "b"}}),
    "token": _case(spec={"authOptions": {"mode": "token"}}),
    "token-of-mine": _case(
        spec={"authOptions": {"mode": "token", "secretName": "mine"}},
        ray={"env": [{"name": "RAY_AUTH_MODE", "value": "token"}]},
        pod={"initContainers": [{"name": "first", "image": "one"}]},
    ),
    "token-of-kubernetes": _case(
        spec={"authOptions": {"mode": "token", "enableK8sTokenAuth": True}},
        ray={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        pod={"volumes": [{"name": "data", "emptyDir": {}}]},
    ),
    "no-auth": _case(spec={"authOptions": {"mode": "disabled"}}),
    "redis": _case(spec={"gcsFaultToleranceOptions": _REDIS}),
    "redis-and-token": _case(
        spec={"gcsFaultToleranceOptions": _REDIS, "authOptions": {"mode": "token"}},
        ray={"env": [{"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "5"}]},
    ),
    "redis-by-annotation": _case(annotations={"ray.io/ft-enabled": "True"}),
    "autoscaler": _case(spec={"enableInTreeAutoscaling": True}),
    "autoscaler-v2": _case(spec={"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}),
    "autoscaler-v2-off": _case(spec={"autoscalerOptions": {"version": "v2"}}, pod={"restartPolicy": "OnFailure"}),
    "security": _case(
        ray={
            "imagePullPolicy": "Always",
            "securityContext": {
                "runAsUser": 1000,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        },
        pod={"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 7}},
    ),
    "host-network": _case(
        pod={"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet", "terminationGracePeriodSeconds": 3}
    ),
    "probes": _case(
        ray={"livenessProbe": _HTTP, "readinessProbe": {"tcpSocket": {"port": 2}}, "startupProbe": _HTTP},
    ),
    "one-probe": _case(ray={"livenessProbe": _HTTP}),
    "ports": _case(ray={"ports": [{"containerPort": 1}, {"name": "metrics", "containerPort": 99}]}),
    "nodes": _case(
        ray={
            "ports": [{"containerPort": 77, "hostPort": 77}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"rdma/hca": "1", "memory": "2Gi"}},
            "livenessProbe": {"httpGet": {"host": "127.0.0.1", "path": "/", "port": 1}},
        },
        pod={
            "terminationGracePeriodSeconds": 3600,
            "tolerations": [
                {"operator": "Exists", "effect": "NoSchedule"},
                {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5},
            ],
        },
    ),
    "secrets": _case(
        ray={
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
                {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "all"},
            ],
            "envFrom": [{"prefix": "P_", "secretRef": {"name": "s", "optional": True}}],
        },
    ),
    "account-by-its-old-name": _case(pod={"serviceAccount": "mine"}),
    "account": _case(pod={"serviceAccountName": "mine", "imagePullSecrets": [{"name": "s"}], "priorityClassName": ""}),
    "head": _case(
        head={
            "rayStartParams": {"port": "6380", "dashboard-port": "1"},
            "headService": {"metadata": {"name": "my-head"}, "spec": {}},
        }
    ),
    "template-metadata": _case(
        template={
            "labels": {"ray.io/cluster": "no", "ray.io/group": "no", "ray.io/identifier": "yes", "a": "b"},
            "annotations": {"c": "d"},
            "finalizers": ["mine.org/keep"],
        },
        group={"labels": {"a": "e", "app.kubernetes.io/name": "mine"}},
    ),
    "service": _case(labels={"ray.io/originated-from-crd": "RayService"}),
    "service-of-old": _case(
        labels={"ray.io/originated-from-crd": "RayService"},
        spec={"rayVersion": "2.40.0"},
        ray={"ports": [{"name": "serve", "containerPort": 8765}]},
    ),
    "service-with-probe": _case(
        labels={"ray.io/originated-from-crd": "RayService"},
        ray={"readinessProbe": _HTTP, "env": [{"name": "RAY_SERVE_KV_TIMEOUT_S", "value": "9"}]},
    ),
    "job": _case(labels={"ray.io/originated-from-crd": "RayJob"}),
    "one-host": _case(group={"numOfHosts": 1}),
    "topology": _case(
        pod={
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
            ],
            "affinity": {"podAntiAffinity": {}},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "nodeSelector": {"rack": "1"},
        },
        template={"labels": {"topology.kubernetes.io/zone": "z"}},
    ),
    "gang": _case(  # what a gang's pod has besides
        pod={
            "restartPolicy": "Never",
            "schedulingGates": [{"name": "ray-dra.io/gang"}],
            "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "gpus"}],
        },
        ray={"resources": {"requests": {"cpu": "1250m", "memory": "3Gi"}, "claims": [{"name": "gpus"}]}},
        group=_params(num_gpus="4", num_cpus="1", resources='"{\\"a\\": 1.0}"'),
    ),
    "a-name-of-fifty-three-letters-for-which-secrets-are-cut": _case(spec={"authOptions": {"mode": "token"}}),
}
for _name, _made in CASES.items():
    _made["metadata"]["name"] = _name if len(_name) <= 53 else _name[:53]
