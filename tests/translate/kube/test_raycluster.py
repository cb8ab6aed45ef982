"""The RayCluster: what gangs' workers are copies of."""

from __future__ import annotations

import pytest

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import Toleration, WriteLimits
from ray_dra.translate.kube.raycluster import default_locality, read_raycluster, worker_template, write_limits
from ray_dra.translate.names import (
    LOCALITY_LABEL,
    TEMPLATE_ANNOTATION,
    WRITES_AT_ONCE_ANNOTATION,
    WRITES_PER_SECOND_ANNOTATION,
)
from tests.translate.kube.objects import cluster


def test_clusters_without_a_group_that_can_be_copied_are_refused_with_the_reason() -> None:
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


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({}, WriteLimits(16, 0.0)),
        ({WRITES_AT_ONCE_ANNOTATION: "4"}, WriteLimits(4, 0.0)),
        ({WRITES_AT_ONCE_ANNOTATION: "64", WRITES_PER_SECOND_ANNOTATION: "12.5"}, WriteLimits(64, 12.5)),
    ],
)
def test_the_limits_of_writes_are_settings(told: dict[str, str], wanted: WriteLimits) -> None:
    raw = cluster()
    raw["metadata"]["annotations"] = told
    assert write_limits(read_raycluster(raw)) == wanted


@pytest.mark.parametrize("setting", [WRITES_AT_ONCE_ANNOTATION, WRITES_PER_SECOND_ANNOTATION])
@pytest.mark.parametrize("told", ["", "0", "-1", "many", "nan", "inf", "1e9", "9" * 400])
def test_a_limit_that_cannot_be_is_refused(setting: str, told: str) -> None:
    raw = cluster()
    raw["metadata"]["annotations"] = {setting: told}
    with pytest.raises(InvalidRequest, match=setting):
        write_limits(read_raycluster(raw))


@pytest.mark.parametrize("said", ["", "same_clique", "prefer:same_clique & linked_devices", "*verl*=same_clique; none"])
def test_the_policy_of_ordinary_groups_is_an_annotation(said: str) -> None:
    raw = cluster()
    assert default_locality(read_raycluster(raw)) == ""
    raw["metadata"]["annotations"] = {LOCALITY_LABEL: said}
    assert default_locality(read_raycluster(raw)) == said


@pytest.mark.parametrize("said", ["same-clique", "none & same_clique", "x" * 4000, "\u00e4"])
def test_an_annotation_that_is_no_policy_is_refused(said: str) -> None:
    raw = cluster()
    raw["metadata"]["annotations"] = {LOCALITY_LABEL: said}
    with pytest.raises(InvalidRequest, match=f"team/c, annotation {LOCALITY_LABEL}"):
        default_locality(read_raycluster(raw))


@pytest.mark.parametrize("value", [None, "1", "true", "True", "0", "false", ""])
@pytest.mark.parametrize("version", [None, "v1", "v2"])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_autoscaler_that_would_end_gangs_is_refused(value: str | None, version: str | None, scaled: bool) -> None:
    """KubeRay's heads run version 2 but where the user's environment says otherwise and `version` does not."""
    raw = cluster(enableInTreeAutoscaling=scaled, autoscalerOptions={"version": version} if version else {})
    env = [{"name": "RAY_enable_autoscaler_v2", "value": value}] if value is not None else []
    raw["spec"]["headGroupSpec"] = {"template": {"spec": {"containers": [{"name": "ray-head", "env": env}]}}}
    read = read_raycluster(raw)
    if scaled and version != "v2" and value in ("0", "false", ""):
        with pytest.raises(InvalidRequest, match="Version 1 of Ray's autoscaler"):
            worker_template(read)
    else:
        assert worker_template(read)["groupName"] == "ray-dra"


def test_of_the_template_the_tolerations_are_read() -> None:
    raw = cluster()
    raw["spec"]["workerGroupSpecs"][0]["template"]["spec"]["tolerations"] = [
        {"operator": "Exists"},
        {"key": "gpu", "value": "a", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Equal"},
    ]
    assert read_raycluster(raw).placing.tolerations == (
        Toleration(exists=True),
        Toleration("gpu", value="a", effect="NoSchedule"),
        Toleration("gpu"),
    )
