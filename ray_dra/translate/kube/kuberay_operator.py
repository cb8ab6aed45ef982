"""KubeRay's operator as the head's pod shows it: its version, its settings, and whether it makes pods as we know. Pure.

Gangs' pods are ours (`kuberay_pod`), and KubeRay's own change from version to version and by settings of the operator
that nobody but it can read. But the operator has made one pod in every RayCluster, the head's, and gives it much of
what it gives a worker's. Neighbour: `kuberay_pod` takes from here what a worker's pod gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray_dra.errors import shown
from ray_dra.ports.kube_objects import KubeRay
from ray_dra.translate import names
from ray_dra.translate.kube.shapes import Raw, labels_of, mapping, text, texts

KNOWN = ((1, 6), (1, 7))  # versions whose pods ours were held to
SHELLS = (("/bin/bash", "-c", "--"), ("/bin/bash", "-cl", "--"))  # the second is a setting of the operator
# What the operator gives a Ray container after the user's own environment: always, and unless the user has it.
_ALWAYS = (
    names.CLUSTER_NAME_VARIABLE,
    names.CLUSTER_NAMESPACE_VARIABLE,
    names.INSTANCE_VARIABLE,
    names.NODE_TYPE_VARIABLE,
    names.START_COMMAND_VARIABLE,
)
_ELSE = {
    names.HEAD_PORT_VARIABLE,
    names.RAY_ADDRESS_VARIABLE,
    names.USAGE_VARIABLE,
    names.USAGE_TAGS_VARIABLE,
    names.DISK_USAGE_VARIABLE,
    *dict(names.SERVE_VARIABLES),
}
_LABELS = (
    names.KUBERAY_NODE_LABEL,
    names.KUBERAY_IDENTIFIER_LABEL,
    names.GROUP_LABEL,
    names.APPLICATION_LABEL,
    names.CREATED_BY_LABEL,
)
_THEIR_NAMES = re.compile(names.RAY_VARIABLES)
_COLLECTOR = "ray-history-collector"


def read_kuberay(head: Raw) -> KubeRay:
    """What the head's pod says of the operator that made it."""
    ray = mapping(head["spec"]["containers"][0])
    env = [mapping(entry) for entry in ray.get("env") or ()]
    called = [text(entry["name"]) for entry in env]
    at = called.index(_ALWAYS[0]) if _ALWAYS[0] in called else len(env)
    shell = tuple(ray.get("command") or ())
    return KubeRay(
        version=_version(head, env),
        shell=shell if shell in SHELLS else SHELLS[0],
        probes=bool(ray.get("readinessProbe") or ray.get("livenessProbe")),
        env=tuple(env[:at]),
        tls=any(volume["name"] == names.KUBERAY_TLS_VOLUME for volume in head["spec"].get("volumes") or ()),
        differences=tuple(_differences(head, ray, env, called[at:])),
    )


def problems_of(kuberay: KubeRay) -> tuple[str, ...]:
    if not kuberay.differences:
        return ()
    told = "; ".join(kuberay.differences)
    return (
        f"KubeRay makes pods differently than this version of ray-dra knows: {told}. Gangs' workers are made without"
        " it; see whether a newer ray-dra knows it.",
    )


def domain_of(resolver: str) -> str | None:
    """The domain of the cluster's DNS, from a pod's resolv.conf: the operator has it as a setting, which the head's pod
    does not show. None: this is no pod's."""
    found = re.search(r"^search\s(?:.*\s)?svc\.(\S+)", resolver, re.MULTILINE)
    return found[1].rstrip(".") if found else None


def _version(head: Raw, env: Sequence[Raw]) -> str:
    """Of the operator that made the pod; "" where it does not say."""
    tags = next((entry.get("value") or "" for entry in env if entry["name"] == names.USAGE_TAGS_VARIABLE), "")
    found = re.search(r"kuberay_version=([^;]+)", text(tags))
    annotations = texts(head["metadata"].get("annotations") or {})
    return found[1] if found else annotations.get(names.KUBERAY_VERSION_ANNOTATION, "")


def series(version: str) -> tuple[int, int] | None:
    """(1, 6) of v1.6.2."""
    found = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})", version)
    return (int(found[1]), int(found[2])) if found else None


def _differences(head: Raw, ray: Raw, env: Sequence[Raw], given: Sequence[str]) -> Iterator[str]:
    """`given`: names of the environment from the operator's first on."""
    version = _version(head, env)
    if series(version) not in KNOWN:
        known = " and ".join(f"{major}.{minor}" for major, minor in KNOWN)
        yield f"its version is {shown(version) if version else 'not said'}, known are {known}"
    lacks = [name for name in _ALWAYS if name not in given]
    if lacks:
        yield f"the head has no {', '.join(lacks)}"
    new = [name for name in given if _THEIR_NAMES.match(name) and name not in _ELSE and name not in _ALWAYS]
    if new:
        yield f"the head has {', '.join(new)}"
    labels = labels_of(head)
    unlabelled = [label for label in _LABELS if label not in labels]
    if unlabelled:
        yield f"the head has no label {', '.join(unlabelled)}"
    start = next((entry.get("value") for entry in env if entry["name"] == names.START_COMMAND_VARIABLE), None)
    yield from _of_command(ray, start, version)
    if any(container["name"] == _COLLECTOR for container in head["spec"]["containers"]):
        yield f"the head has the container {_COLLECTOR}"


def _of_command(ray: Raw, start: Any, version: str) -> Iterator[str]:
    args = [text(each) for each in ray.get("args") or ()]
    if not isinstance(start, str) or len(args) != 1 or not args[0].endswith(start):
        return  # the user's own command
    if not args[0].endswith(f"{open_files(KubeRay(version))}; {start}"):
        yield f"the head starts Ray by {shown(args[0])}"
    if tuple(ray.get("command") or ()) not in SHELLS:
        yield f"the head's command is {shown(ray.get('command'))}"


def is_newer(kuberay: KubeRay) -> bool:
    """Whether it is 1.7 or later."""
    return (series(kuberay.version) or KNOWN[0]) >= (1, 7)


def open_files(kuberay: KubeRay) -> str:
    """How many files a raylet may have open, as the shell is told."""
    return f"ulimit -n ${{{names.OPEN_FILES_VARIABLE}:-65536}}" if is_newer(kuberay) else "ulimit -n 65536"


def settings_env(kuberay: KubeRay, users: frozenset[str]) -> list[Mapping[str, Any]]:
    """What the operator is set to give every Ray container. `users`: names that the user gives the head's."""
    return [entry for entry in kuberay.env if entry["name"] not in users | names.HEADS_VARIABLES]
