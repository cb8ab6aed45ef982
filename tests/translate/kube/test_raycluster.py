"""The RayCluster: what gangs' workers are copies of."""

from __future__ import annotations

import pytest

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import Toleration
from ray_dra.translate.kube.raycluster import read_raycluster, worker_template
from ray_dra.translate.names import TEMPLATE_ANNOTATION
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
