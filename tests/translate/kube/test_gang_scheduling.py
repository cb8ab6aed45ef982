"""An attempt at a gang as a PodGroup of Kubernetes' own: golden objects, and which pods are in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import PodGroup
from ray_dra.translate.kube.attempts import Attempt, attempt_of
from ray_dra.translate.kube.gang_scheduling import (
    asks_for_gang_scheduling,
    grouped_probe,
    keeps_group,
    read_gang_pod_group,
    version_of,
)
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.names import GANG_SCHEDULING_ANNOTATION, POD_GROUP_APIS
from tests.translate.kube.objects import CLUSTER, RACKS, allocate, cluster, gang

GOLDEN = Path(__file__).parent.parent / "golden" / "gang-scheduling.yaml"
NEWEST, OLDER = POD_GROUP_APIS
PAIR = allocate(RACKS, gang([{"GPU": 4, "CPU": 8}] * 2, locality=Locality(cliques=1)))


def attempt(api: str = NEWEST, workers: int = 2, queue: str = "", **spec: Any) -> Attempt:
    made = cluster()
    made["spec"]["workerGroupSpecs"][0]["template"]["spec"] |= spec
    allocation = allocate(RACKS, gang([{"GPU": 4}] * workers))
    return attempt_of(allocation, read_raycluster(made), compute_domains=False, queue=queue, gang_scheduling=api)


def test_the_pod_group_and_its_pods_are_as_reviewed() -> None:
    made = attempt_of(PAIR, CLUSTER, compute_domains=True, gang_scheduling=NEWEST)
    content = [made.pod_group, *(made.pod(slot) for slot in made.slots.values())]
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        GOLDEN.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(GOLDEN.read_text()))


def test_but_for_the_field_a_pod_is_what_it_is_without() -> None:
    grouped, plain = (attempt_of(PAIR, CLUSTER, compute_domains=True, gang_scheduling=api) for api in (NEWEST, ""))
    assert plain.pod_group is None
    for one, other in zip(grouped.slots.values(), plain.slots.values(), strict=True):
        pod = grouped.pod(one)
        assert pod["spec"].pop("schedulingGroup") == {"podGroupName": grouped.name}
        assert pod == plain.pod(other)
        assert grouped.claims(one, "u") == plain.claims(other, "u")


@pytest.mark.parametrize("api", POD_GROUP_APIS)
@pytest.mark.parametrize("workers", [2, 3])
def test_the_minimum_is_all_workers_in_every_version(api: str, workers: int) -> None:
    made = attempt(api, workers).pod_group
    assert made is not None
    assert made["apiVersion"] == api
    assert made["spec"] == {"schedulingPolicy": {"gang": {"minCount": workers}}}


def test_one_worker_alone_is_in_no_group() -> None:
    made = attempt(workers=1)
    assert made.pod_group is None
    assert not any(keeps_group(made.pod(slot)) for slot in made.slots.values())


def test_a_gang_that_kai_places_is_in_kais_alone() -> None:
    made = attempt(queue="kai/team-a")
    assert made.pod_group is not None
    assert made.pod_group["apiVersion"] == "scheduling.run.ai/v2alpha2"
    assert not any(keeps_group(made.pod(slot)) for slot in made.slots.values())


def test_the_group_has_the_priority_class_of_its_pods() -> None:
    made = attempt(priorityClassName="high")
    assert made.pod_group is not None
    assert made.pod_group["spec"]["priorityClassName"] == "high"
    assert all(made.pod(slot)["spec"]["priorityClassName"] == "high" for slot in made.slots.values())


def test_a_pod_group_is_read_with_the_kind_by_which_it_is_deleted() -> None:
    made = attempt(OLDER)
    assert made.pod_group is not None
    group = read_gang_pod_group(made.pod_group)
    assert group == PodGroup(made.name, "team", made.name, "c", kind="scheduling.k8s.io/v1alpha2 PodGroup")
    assert version_of(group) == OLDER


@pytest.mark.parametrize(("said", "asked"), [("true", True), ("false", False), ("yes", False), (None, False)])
def test_it_is_for_rayclusters_that_ask_for_it(said: str | None, asked: bool) -> None:
    made = cluster()
    made["metadata"]["annotations"] = {} if said is None else {GANG_SCHEDULING_ANNOTATION: said}
    assert asks_for_gang_scheduling(read_raycluster(made)) is asked


def test_the_pod_that_is_asked_about_is_one_that_pulls_images_but_for_its_group() -> None:
    """So the admission policy takes it, which holds pods without claims to this name."""
    probe = grouped_probe(CLUSTER)
    assert keeps_group(probe)
    assert probe["metadata"]["name"] == "rd-warm-000000000000-000000000000"
    assert probe["spec"]["schedulingGroup"]["podGroupName"] == probe["metadata"]["labels"]["ray-dra.io/attempt"]
    assert "resourceClaims" not in probe["spec"]
    with pytest.raises(InvalidRequest):
        grouped_probe(read_raycluster(cluster(workerGroupSpecs=[])))
