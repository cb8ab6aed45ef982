"""What the head's pod says of the operator; heads of the real one are read in tests/cluster/test_kuberay_pod.py."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ray_dra.ports.kube_objects import KubeRay
from ray_dra.translate.kube.kuberay_operator import domain_of, problems_of, read_kuberay, settings_env

START = "ray start --head  --block "
FIELD = {"fieldRef": {"fieldPath": "metadata.name"}}


def head(version: str = "v1.6.2", ulimit: str = "ulimit -n 65536") -> dict[str, Any]:
    given = ("RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE", "RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME")
    env: list[dict[str, Any]] = [{"name": "MINE", "value": "1"}, {"name": "PROXY", "value": "p"}]
    env += [{"name": name, "valueFrom": FIELD} for name in given]
    env += [
        {"name": "KUBERAY_GEN_RAY_START_CMD", "value": START},
        {"name": "RAY_PORT", "value": "6379"},
        {"name": "RAY_USAGE_STATS_EXTRA_TAGS", "value": f"kuberay_version={version};kuberay_crd=RayCluster"},
        {"name": "INJECTED_BY_A_WEBHOOK", "value": "x"},
    ]
    container = {
        "name": "ray-head",
        "command": ["/bin/bash", "-c", "--"],
        "args": [f"{ulimit}; {START}"],
        "env": env,
        "readinessProbe": {},
        "livenessProbe": {"httpGet": {}},
    }
    labels = {
        "ray.io/is-ray-node": "yes",
        "ray.io/identifier": "c-head",
        "ray.io/group": "headgroup",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    return {"metadata": {"name": "h", "labels": labels}, "spec": {"containers": [container]}}


NEWER = head("v1.7.0", "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}")


@pytest.mark.parametrize("made", [head(), NEWER])
def test_a_head_as_it_is_known_is_no_problem(made: dict[str, Any]) -> None:
    read = read_kuberay(made)
    assert problems_of(read) == ()
    assert read.probes
    assert not read.tls
    assert [entry["name"] for entry in settings_env(read, frozenset({"MINE"}))] == ["PROXY"]


def test_what_only_a_head_is_given_is_no_setting() -> None:
    given = [{"name": "RAY_REDIS_ADDRESS", "value": "r"}, {"name": "RAY_AUTH_MODE", "value": "token"}]
    read = read_kuberay(changed(env=[*given, *ray(head())["env"]]))
    assert [entry["name"] for entry in settings_env(read, frozenset({"MINE"}))] == ["PROXY"]


def ray(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["spec"]["containers"][0]
    return found


def changed(**fields: Any) -> dict[str, Any]:
    made = head()
    ray(made).update(fields)
    return made


def without(variable: str) -> dict[str, Any]:
    return changed(env=[entry for entry in ray(head())["env"] if entry["name"] != variable])


def unlabelled() -> dict[str, Any]:
    made = head()
    del made["metadata"]["labels"]["ray.io/identifier"]
    return made


def collected() -> dict[str, Any]:
    made = head()
    made["spec"]["containers"].append({"name": "ray-history-collector"})
    return made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (head("v1.8.0"), "its version is 'v1.8.0', known are 1.6 and 1.7"),
        (head("v1.5.1"), "its version is 'v1.5.1'"),
        (without("RAY_USAGE_STATS_EXTRA_TAGS"), "its version is not said"),
        (without("RAY_NODE_TYPE_NAME"), "the head has no RAY_NODE_TYPE_NAME"),
        (without("RAY_CLUSTER_NAME"), "the head has no RAY_CLUSTER_NAME"),
        (changed(env=[*ray(head())["env"], {"name": "RAY_NEW", "value": "1"}]), "the head has RAY_NEW"),
        (unlabelled(), "the head has no label ray.io/identifier"),
        (changed(args=[f"ulimit -n 9; {START}"]), "the head starts Ray by 'ulimit -n 9; "),
        (head("v1.7.0"), "the head starts Ray by 'ulimit -n 65536; "),
        (changed(command=["/bin/sh", "-c"]), r"the head's command is \['/bin/sh', '-c'\]"),
        (collected(), "the head has the container ray-history-collector"),
    ],
)
def test_what_is_not_as_it_is_known_is_told(made: dict[str, Any], said: str) -> None:
    (problem,) = problems_of(read_kuberay(made))
    assert problem.startswith("KubeRay makes pods differently than this version of ray-dra knows: ")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(problem)


@pytest.mark.parametrize(
    "made",
    [
        changed(command=["mine"], args=["$KUBERAY_GEN_RAY_START_CMD"]),
        changed(command=["mine"], args=None),
        changed(args=[f" prepare  && ulimit -n 65536; {START}"]),
        {**head(), "metadata": {**head()["metadata"], "annotations": {"ray.io/kuberay-version": "v1.9.0"}}},
    ],
)
def test_what_the_user_chose_is_no_difference(made: dict[str, Any]) -> None:
    """And a newer operator writes its version onto pods that an older one made."""
    read = read_kuberay(made)
    assert problems_of(read) == ()
    assert read.shell == ("/bin/bash", "-c", "--")


def test_settings_of_the_operator_are_read() -> None:
    made = changed(command=["/bin/bash", "-cl", "--"], readinessProbe=None, livenessProbe=None)
    made["spec"]["volumes"] = [{"name": "ray-tls"}]
    read = read_kuberay(made)
    assert read == KubeRay("v1.6.2", ("/bin/bash", "-cl", "--"), False, read.env, True)
    assert copy.deepcopy(read) == read


@pytest.mark.parametrize(
    ("resolver", "domain"),
    [
        ("nameserver 10.96.0.10\nsearch team.svc.here.org svc.here.org here.org mine\noptions ndots:5\n", "here.org"),
        ("search svc.cluster.local. cluster.local", "cluster.local"),
        ("search\tteam.svc.a.b\tsvc.a.b\ta.b", "a.b"),
        ("# search svc.no\nnameserver 1.1.1.1\nsearch example.org\n", None),
        ("", None),
    ],
)
def test_the_domain_is_that_of_the_pods_own_dns(resolver: str, domain: str | None) -> None:
    assert domain_of(resolver) == domain
