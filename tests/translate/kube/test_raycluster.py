"""The RayCluster: which ones cannot take a group, and what the patches of its list of groups do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.errors import Conflict, InvalidRequest
from ray_dra.ports.kube_objects import Toleration
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.translate.kube.raycluster import (
    groups_added,
    groups_removed,
    groups_stopped,
    read_raycluster,
    refuse_unfit,
    worker_template,
)
from ray_dra.translate.names import ATTEMPT_LABEL, TEMPLATE_ANNOTATION
from tests.translate.kube.objects import cluster


def test_clusters_that_cannot_take_a_group_are_refused_with_the_reason() -> None:
    with pytest.raises(InvalidRequest, match="Recreate deletes every pod"):
        refuse_unfit(read_raycluster(cluster(upgradeStrategy={"type": "Recreate"})))
    owned = cluster()
    owned["metadata"]["ownerReferences"] = [{"kind": "RayService", "name": "s"}]
    with pytest.raises(InvalidRequest, match="RayService overwrites"):
        refuse_unfit(read_raycluster(owned))
    with pytest.raises(InvalidRequest, match="no worker group to copy"):
        worker_template(read_raycluster(cluster(workerGroupSpecs=[])))
    named = cluster()
    named["metadata"]["annotations"] = {TEMPLATE_ANNOTATION: "other"}
    with pytest.raises(InvalidRequest, match="other"):
        worker_template(read_raycluster(named))
    empty = cluster()
    empty["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"] = []
    with pytest.raises(InvalidRequest, match="no container"):
        worker_template(read_raycluster(empty))
    asking = cluster()
    container = asking["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    container["resources"]["limits"]["nvidia.com/gpu"] = 1
    with pytest.raises(InvalidRequest, match="asks for GPUs itself"):
        worker_template(read_raycluster(asking))


def applied(raw: dict[str, Any], change: list[Any]) -> list[dict[str, Any]]:
    """The worker groups after a JSON patch, as the API server makes it: by the fake, which does as the server does
    (tests/cluster/test_kube_contract.py)."""
    kube = FakeKube(raw, [])
    kube.patch("RayCluster", raw["metadata"]["name"], change)
    return kube.worker_groups()


NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


@given(names=NAMES, chosen=st.sets(st.sampled_from("abcdef")), autoscaled=st.booleans())
def test_patches_change_the_groups_that_were_meant_and_no_others(
    names: list[str], chosen: set[str], autoscaled: bool
) -> None:
    groups = [{"groupName": name, "replicas": 1, "template": {}} for name in names]
    raw = cluster(workerGroupSpecs=groups, enableInTreeAutoscaling=autoscaled)
    read = read_raycluster(raw)
    new = [{"groupName": "new", "template": {}}]
    assert applied(raw, [*groups_added(read, new)]) == groups + new
    left = applied(raw, [*groups_removed(read, chosen)])
    assert [group["groupName"] for group in left] == [name for name in names if name not in chosen]
    stopped = applied(raw, [*groups_stopped(read, {name: [f"{name}-pod"] for name in chosen})])
    for group, now in zip(groups, stopped, strict=True):
        if group["groupName"] not in chosen:
            assert now == group
        elif autoscaled:
            wanted = {"replicas": 0, "minReplicas": 0, "maxReplicas": 0}
            deleted = {"scaleStrategy": {"workersToDelete": [f"{group['groupName']}-pod"]}}
            assert now == {**group, **wanted, **deleted}
        else:
            assert now == {**group, "suspend": True}


def test_a_patch_of_a_list_that_has_changed_changes_nothing() -> None:
    groups = [{"groupName": name, "template": {}} for name in "ab"]
    read = read_raycluster(cluster(workerGroupSpecs=groups))
    moved = cluster(workerGroupSpecs=groups[::-1])
    for change in (groups_removed(read, "a"), groups_stopped(read, {"b": []})):
        with pytest.raises(Conflict):
            applied(moved, [*change])
    newer = cluster()
    newer["metadata"]["resourceVersion"] = "2"
    with pytest.raises(Conflict):
        applied(newer, [*groups_added(read, [])])


def test_a_gangs_own_group_is_no_template() -> None:
    raw = cluster()
    raw["spec"]["workerGroupSpecs"][0]["template"]["metadata"] = {"labels": {ATTEMPT_LABEL: "rd-0-0"}}
    with pytest.raises(InvalidRequest, match="a gang's own"):
        worker_template(read_raycluster(raw))


def test_of_the_template_the_tolerations_are_read() -> None:
    raw = cluster()
    raw["spec"]["workerGroupSpecs"][0]["template"]["spec"]["tolerations"] = [
        {"operator": "Exists"},
        {"key": "gpu", "value": "a", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Equal"},
    ]
    assert read_raycluster(raw).tolerations == (
        Toleration(exists=True),
        Toleration("gpu", value="a", effect="NoSchedule"),
        Toleration("gpu"),
    )
