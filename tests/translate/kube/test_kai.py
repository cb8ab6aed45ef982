"""An attempt at a gang as KAI Scheduler's PodGroup, and what KAI says of one. Nothing of KAI's runs here: its CRD's
shape is written down, and its words are those that were seen."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from ray_dra.core.gangs.quota import Answer, Said
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import PodGroup
from ray_dra.translate.kube.attempts import Attempt, attempt_of
from ray_dra.translate.kube.kai import answer_of, check_priorities, pod_group_name, read_pod_group, waits_in_turn
from ray_dra.translate.kube.raycluster import read_raycluster, worker_template
from ray_dra.translate.kube.warm import WarmImages
from ray_dra.translate.names import KAI_PRIORITIES_ANNOTATION, QUEUE_ANNOTATION, WARM_ANNOTATION
from tests.translate.kube.objects import RACKS, allocate, cluster, gang

REQUEST = gang([{"GPU": 4}] * 3)
CONSTRAINT = {"topology": str, "preferredTopologyLevel": str, "requiredTopologyLevel": str}
# Of the CRD scheduling.run.ai/v2alpha2 PodGroup, as of KAI 0.17: fields of its spec and their types.
SPEC: Mapping[str, Any] = {
    "markUnschedulable": bool,
    "minMember": int,
    "minSubGroup": int,
    "preemptibility": str,
    "priorityClassName": str,
    "queue": str,
    "schedulingBackoff": int,
    "stalenessGracePeriod": str,
    "subGroups": list,
    "topologyConstraint": CONSTRAINT,
}


def kai_cluster(queue: str = "kai/team-a", **spec: Any) -> dict[str, Any]:
    made = cluster()
    made["metadata"]["annotations"] = {QUEUE_ANNOTATION: queue}
    made["spec"]["workerGroupSpecs"][0]["template"]["spec"] |= spec
    return made


def attempt(queue: str = "kai/team-a", **spec: Any) -> Attempt:
    raycluster = read_raycluster(kai_cluster(queue, **spec))
    allocation = allocate(RACKS, REQUEST)
    return attempt_of(allocation, raycluster, compute_domains=True, asked=REQUEST.bundles, queue=queue)


def test_the_pod_group_of_an_attempt_has_all_its_workers_and_a_name_that_no_other_cluster_has() -> None:
    made = attempt()
    assert made.pod_group == {
        "apiVersion": "scheduling.run.ai/v2alpha2",
        "kind": "PodGroup",
        "metadata": {
            "name": f"{made.name}-u-1",
            "namespace": "team",
            "labels": {"ray-dra.io/gang": "g", "ray-dra.io/attempt": made.name, "ray-dra.io/raycluster": "c"},
            "ownerReferences": [
                {
                    "apiVersion": "ray.io/v1",
                    "kind": "RayCluster",
                    "name": "c",
                    "uid": "u-1",
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {"queue": "team-a", "minMember": 3, "stalenessGracePeriod": "-1s"},
    }
    other = kai_cluster()
    other["metadata"] |= {"uid": "u-2", "namespace": "elsewhere"}
    assert pod_group_name(made.name, read_raycluster(other)) != made.pod_group["metadata"]["name"]


@pytest.mark.parametrize(
    ("priority", "said", "named"),
    [
        (0, "0=train,100=inference", "train"),
        (99, "100=inference, 0=train", "train"),
        (100, "0=train,100=inference", "inference"),
        (7, " -5 = low.example.com ", "low.example.com"),
        (-1, "0=train,100=inference", None),
        (5, "", None),
        (5, None, None),
        (5, "build", None),
    ],
)
def test_a_gangs_priority_is_its_pod_groups_class(priority: int, said: str | None, named: str | None) -> None:
    """The one with the greatest number that is not above it. Without one KAI's own: also where the annotation has
    become wrong since the gang was asked for."""
    made = kai_cluster(priorityClassName="of-pods")
    if said is not None:
        made["metadata"]["annotations"][KAI_PRIORITIES_ANNOTATION] = said
    allocation = allocate(RACKS, REQUEST)._replace(priority=priority)
    found = attempt_of(allocation, read_raycluster(made), compute_domains=True, queue="kai/team-a")
    assert found.pod_group is not None
    ranked = {} if named is None else {"priorityClassName": named}
    assert found.pod_group["spec"] == {"queue": "team-a", "minMember": 3, "stalenessGracePeriod": "-1s", **ranked}
    assert {found.pod(slot)["spec"]["priorityClassName"] for slot in found.slots.values()} == {"of-pods"}


@pytest.mark.parametrize("said", ["train", "0", "=train", "0=", "0=Train", "0=a,0=b", "0=train,", "1e3=a", "0=a b"])
def test_priority_classes_that_are_none_are_refused_with_the_cure(said: str) -> None:
    made = kai_cluster()
    made["metadata"]["annotations"][KAI_PRIORITIES_ANNOTATION] = said
    with pytest.raises(InvalidRequest, match="0=train,100=inference") as refused:
        check_priorities(read_raycluster(made))
    assert refused.value.place == "RayCluster team/c, annotation ray-dra.io/kai-priority-classes"
    made["metadata"]["annotations"][KAI_PRIORITIES_ANNOTATION] = "0=train"
    check_priorities(read_raycluster(made))
    check_priorities(read_raycluster(kai_cluster()))


def test_what_is_written_into_a_pod_group_is_in_its_crd() -> None:
    ranked = kai_cluster()
    ranked["metadata"]["annotations"][KAI_PRIORITIES_ANNOTATION] = "0=train"
    allocation = allocate(RACKS, REQUEST)
    made = attempt_of(allocation, read_raycluster(ranked), compute_domains=True, queue="kai/team-a").pod_group
    assert made is not None
    for field, value in made["spec"].items():
        assert isinstance(value, SPEC[field]), field
    assert made["spec"]["minMember"] >= 1


@pytest.mark.parametrize("spec", [{}, {"schedulerName": "kai-scheduler"}, {"schedulerName": "default-scheduler"}])
def test_pods_and_claims_say_that_kai_places_them_in_their_own_group(spec: dict[str, Any]) -> None:
    made = attempt(**spec)
    for slot in made.slots.values():
        pod = made.pod(slot)
        assert pod["spec"]["schedulerName"] == "kai-scheduler"
        assert pod["metadata"]["annotations"] == {
            "kai.scheduler/skip-podgrouper": "true",
            "pod-group-name": f"{made.name}-u-1",
        }
        assert pod["metadata"]["labels"]["kai.scheduler/queue"] == "team-a"
        assert "schedulingGates" in pod["spec"]
        for claim in made.claims(slot, "p").values():
            assert claim["metadata"]["labels"]["kai.scheduler/queue"] == "team-a"


def test_a_gang_of_another_queue_or_none_knows_nothing_of_kai() -> None:
    for queue in ("", "kueue/team-a"):
        raycluster = read_raycluster(cluster())
        made = attempt_of(allocate(RACKS, REQUEST), raycluster, compute_domains=True, queue=queue)
        assert made.pod_group is None
        told = [made.pod(slot) for slot in made.slots.values()]
        told += [claim for slot in made.slots.values() for claim in made.claims(slot, "p").values()]
        assert "kai" not in str(told)


def test_a_gang_on_raylets_that_are_there_has_no_pod_group() -> None:
    raycluster, allocation = read_raycluster(kai_cluster()), allocate(RACKS, REQUEST)
    made = attempt_of(allocation, raycluster, compute_domains=True, own=lambda node: False, queue="kai/team-a")
    assert made.pod_group is None


@pytest.mark.parametrize(
    ("queue", "name", "words"),
    [
        ("kueue/team", "kai-scheduler", "ray-dra.io/queue: kai/NAME"),
        ("kai/team", "volcano", "leave schedulerName out of it"),
    ],
)
def test_a_group_that_another_scheduler_places_than_the_queue_needs_is_refused(
    queue: str, name: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        worker_template(read_raycluster(kai_cluster(queue, schedulerName=name)))


def test_pods_that_pull_images_early_are_not_kais() -> None:
    made = kai_cluster(schedulerName="kai-scheduler")
    made["metadata"]["annotations"][WARM_ANNOTATION] = "true"
    assert "kai" not in str(WarmImages(read_raycluster(made)).pod("n"))


# -- what KAI says

OVER_LIMIT = {
    "reason": "OverLimit",
    "message": "team-a quota has reached the allowable limit of GPUs. Limit is 16 GPUs, currently 0 GPUs allocated and"
    " workload requested 20 GPUs",
    "details": {
        "queueDetails": {
            "name": "team-a",
            "podGroupRequestedResources": {"cpu": "5", "memory": "10Gi", "nvidia.com/gpu": "20"},
            "queueAllocatedResources": {"cpu": "0", "memory": "0", "nvidia.com/gpu": "0"},
            "queueResourceLimits": {"cpu": "-1m", "memory": "-1", "nvidia.com/gpu": "16"},
        }
    },
}


def said(*reasons: dict[str, Any], annotations: dict[str, str] | None = None, **more: Any) -> PodGroup:
    condition = {"type": "UnschedulableOnNodePool", "status": "True", "reason": "Unschedulable", **more}
    return read_pod_group(
        {
            "metadata": {"name": "rd-1-0-u-1", "namespace": "team", "annotations": annotations or {}},
            "spec": {"queue": "team-a", "minMember": 5},
            "status": {"schedulingConditions": [{**condition, "reasons": list(reasons)}] if reasons else []},
        }
    )


WORDS = (
    "OverLimit: team-a quota has reached the allowable limit of GPUs. Limit is 16 GPUs, currently 0 GPUs allocated and"
    " workload requested 20 GPUs (queue team-a: nvidia.com/gpu 20 and 0 of 16)"
)


def test_over_the_limit_it_waits_in_kais_words_with_the_queues_numbers() -> None:
    found = said(OVER_LIMIT)
    assert (found.reason, found.said) == ("OverLimit", WORDS)
    assert answer_of([found], REQUEST) == Answer(Said.LATER, WORDS)


@pytest.mark.parametrize("reason", ["NonPreemptibleOverQuota", "QueueDoesNotExist"])
def test_other_reasons_of_the_queue_are_its_too_and_come_before_those_of_nodes(reason: str) -> None:
    nodes = {"reason": "PodSchedulingErrors", "message": "no node fits"}
    told = {"reason": reason, "message": "m", "details": None}
    assert answer_of([said(nodes, told)], REQUEST) == Answer(Said.LATER, f"{reason}: m")


def test_what_is_about_nodes_is_left_to_the_plan_and_what_comes_in_turn_is_waited_for() -> None:
    nodes, turn = said({"reason": "PodSchedulingErrors", "message": "m"}), said({"reason": "PreemptionDelayNotElapsed"})
    for group in (nodes, turn, said()):
        assert answer_of([group], REQUEST) == Answer(Said.ADMITTED, granted=((),))
    assert (waits_in_turn([nodes]), waits_in_turn([turn])) == (False, True)
    assert turn.said == "PreemptionDelayNotElapsed: no more is said"


@pytest.mark.parametrize("more", [{"type": "Other"}, {"status": "False"}])
def test_other_conditions_say_nothing(more: dict[str, Any]) -> None:
    assert answer_of([said(OVER_LIMIT, **more)], REQUEST).said is Said.ADMITTED


def test_what_kai_has_ended_is_evicted_without_grace_whatever_else_it_says() -> None:
    when = {"kai.scheduler/last-eviction-timestamp": "2026-11-28T12:00:00Z"}
    answer = answer_of([said(OVER_LIMIT, annotations=when)], REQUEST)
    assert (answer.said, answer.ended) == (Said.EVICTED, True)
    assert answer.why == (
        "KAI Scheduler ended its workers at 2026-11-28T12:00:00Z (kubectl describe podgroup rd-1-0-u-1)"
    )


def test_of_a_pod_group_that_is_being_deleted_nothing_counts() -> None:
    thing: dict[str, Any] = {"metadata": {"name": "x", "deletionTimestamp": "now"}, "spec": {}, "status": {}}
    evicted = copy.deepcopy(thing)
    evicted["metadata"]["annotations"] = {"kai.scheduler/last-eviction-timestamp": "t"}
    assert answer_of([read_pod_group(evicted)], REQUEST).said is Said.ADMITTED
    assert answer_of([], REQUEST).said is Said.ADMITTED
