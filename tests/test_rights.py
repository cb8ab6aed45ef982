"""The roles that ship are the rights that the code names, no more and no fewer; the docs are held to them beside."""

from __future__ import annotations

from pathlib import Path

import yaml

from ray_dra.operate.check import GANG_SCHEDULING_RIGHTS, KAI_RIGHTS, QUEUE_RIGHTS, RIGHTS, SHAPE_RIGHTS, Right

PROJECT = Path(__file__).parents[1]


def rules(file: str, kind: str) -> set[tuple[str, str, frozenset[str]]]:
    things = yaml.safe_load_all((PROJECT / "kube" / file).read_text())
    role = next(thing for thing in things if thing["kind"] == kind)
    return {
        (group, resource, frozenset(rule["verbs"]))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_roles_are_the_rights() -> None:
    def named(rights: tuple[Right, ...], everywhere: bool) -> set[tuple[str, str, frozenset[str]]]:
        return {(r.group, r.resource, frozenset(r.verbs)) for r in rights if r.everywhere is everywhere}

    assert rules("base/namespaced.yaml", "Role") == named(RIGHTS, False)
    assert rules("base/topology.yaml", "ClusterRole") == named(RIGHTS, True)
    assert rules("kueue/roles.yaml", "Role") == named(QUEUE_RIGHTS, False)
    assert rules("kueue/roles.yaml", "ClusterRole") == named(QUEUE_RIGHTS, True)
    assert rules("kai/roles.yaml", "Role") == named(KAI_RIGHTS, False)
    assert rules("gang-scheduling/roles.yaml", "Role") == named(GANG_SCHEDULING_RIGHTS, False)
    assert rules("shapes/roles.yaml", "ClusterRole") == named(SHAPE_RIGHTS, True)
    outside = named(RIGHTS + QUEUE_RIGHTS, True)
    assert all(verbs <= {"get", "list", "watch"} for _, _, verbs in outside), "no write goes outside the namespace"
