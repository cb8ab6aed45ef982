"""The manifests and examples that ship, read as data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PROJECT = Path(__file__).parents[1]
FOLDERS = (PROJECT / "kube", PROJECT / "examples")

Object = dict[str, Any]


class PodSpec(NamedTuple):
    """A pod's spec, wherever in an object it lies; `path` tells."""

    file: str
    thing: Object
    path: str
    spec: Object


def files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in folder.rglob("*.yaml"))


def objects(*kinds: str) -> Iterator[tuple[str, Object]]:
    """(file, object) of everything but kustomizations; of these kinds alone where some are given."""
    for path in files():
        for thing in yaml.safe_load_all(path.read_text()) if path.name != "kustomization.yaml" else ():
            if not kinds or thing["kind"] in kinds:
                yield str(path.relative_to(PROJECT)), thing


def pods() -> list[PodSpec]:
    return [PodSpec(file, thing, *found) for file, thing in objects() for found in pods_in(thing)]


def pods_in(thing: Any, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every mapping with containers, by the way to it."""
    if isinstance(thing, dict):
        if "containers" in thing:
            yield path, thing
        for key, value in thing.items():
            yield from pods_in(value, f"{path}/{key}")
    elif isinstance(thing, list):
        for at, value in enumerate(thing):
            yield from pods_in(value, f"{path}/{at}")


def containers(spec: Object) -> list[Object]:
    return [*(spec.get("initContainers") or ()), *spec["containers"]]


class Rule(NamedTuple):
    """What an account may do to a resource, `where`: in its namespace, or in the cluster."""

    account: str
    where: str
    resource: str
    verbs: frozenset[str]


def granted() -> set[Rule]:
    """By every role and binding under kube/."""
    roles = {(t["kind"], t["metadata"]["name"]): t["rules"] for _, t in objects("Role", "ClusterRole")}
    found = set()
    for _, binding in objects("RoleBinding", "ClusterRoleBinding"):
        where = "namespace" if binding["kind"] == "RoleBinding" else "cluster"
        for rule in roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]:
            for subject in binding["subjects"]:
                for resource in rule["resources"]:
                    found.add(Rule(subject["name"], where, resource, frozenset(rule["verbs"])))
    return found
