"""Images pulled before a gang needs them: through kills at each write, changes of mind, and registries that fail."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ray_dra.coordinator.backends.kubernetes import warm
from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import Rejected
from ray_dra.translate.names import WARM_ANNOTATION, WARM_LABEL
from tests.coordinator.kubernetes_world import World
from tests.translate.kube.objects import cluster

ASKED = {WARM_ANNOTATION: "true"}
NODES = [f"gb200-r{rack}-t{tray:02d}" for rack in range(2) for tray in range(8)]


def world(*, asked: bool = True, nodes: int = 16) -> World:
    made = World(nodes=nodes, cliques=2)
    if asked:
        made.kube.annotate_raycluster(ASKED)
    return made


def image(name: str) -> dict[str, Any]:
    """The RayCluster's worker groups with another image."""
    groups = copy.deepcopy(cluster()["spec"]["workerGroupSpecs"])
    groups[0]["template"]["spec"]["containers"][0]["image"] = name
    return {"workerGroupSpecs": groups}


def pods(world: World) -> list[str]:
    return [pod.name for pod in world.kube.view().pods if pod.warm is not None]


def turns(world: World, count: int = 40) -> None:
    for _ in range(count):
        world.turn()
        assert len(pods(world)) <= warm.MOST_PODS


def problems(world: World) -> list[str]:
    return [said for said in world.coordinator.backend.problems() if "images" in said]


@pytest.mark.parametrize("listed", [True, False])
def test_each_node_pulls_once_and_nothing_is_left(listed: bool) -> None:
    """Also where nodes do not list what they have: they list fifty images."""
    there = world()
    if not listed:
        there.kube.list_images(None)
    assert there.coordinator.idle
    there.turn()
    assert not there.coordinator.idle, "a coordinator that retired would leave its pods to the kubelets"
    turns(there)
    assert sorted(there.kube.pulled) == sorted(there.kube.nodes)
    assert there.coordinator.idle
    assert there.left() == problems(there) == []


def test_nodes_that_have_the_image_and_clusters_that_do_not_ask_get_no_pod() -> None:
    there = world()
    has = sorted(there.kube.nodes)[:5]
    there.kube.list_images({node: ["docker.io/library/mine:1"] for node in has})
    turns(there)
    assert sorted(there.kube.pulled) == sorted(there.kube.nodes.keys() - set(has))
    silent = world(asked=False)
    turns(silent, 10)
    assert silent.kube.pulled == []
    assert silent.kube.writes == 0


def test_a_node_that_loses_the_image_and_one_that_comes_pull_it_again() -> None:
    there = world(nodes=4)
    turns(there)
    first, second, *_ = sorted(there.kube.nodes)
    there.kube.list_images({first: []})
    there.kube.delete_node(second)
    turns(there)
    there.kube.regain_node(second)
    there.kube.list_images({second: []})
    turns(there)
    assert sorted(there.kube.pulled) == sorted([*there.kube.nodes, first, second])


def test_another_image_is_pulled_also_where_nodes_list_none() -> None:
    there = world(nodes=4)
    there.kube.list_images(None)
    turns(there)
    there.kube.apply_raycluster(**image("mine:2"))
    turns(there)
    assert sorted(there.kube.pulled) == sorted([*there.kube.nodes] * 2)
    assert there.left() == []


def test_a_gang_that_comes_meanwhile_is_none_the_worse() -> None:
    there = world(nodes=4)
    gang = there.coordinator.submit(there.order()).gang
    assert there.drive(gang) is Phase.READY
    there.coordinator.release(gang)
    there.settle()


def writes() -> int:
    there = world(nodes=4)
    turns(there)
    return there.kube.writes


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(writes()))
def test_a_coordinator_killed_at_any_write_goes_on(number: int, after: bool) -> None:
    there = world(nodes=4)
    there.kube.die_at(number, after=after)
    turns(there)
    assert set(there.kube.pulled) == there.kube.nodes.keys()
    assert there.left() == []


@pytest.mark.parametrize("number", range(writes()))
@pytest.mark.parametrize("change", ["annotation", "image", "group", "killed"])
def test_whoever_changes_his_mind_at_any_moment_is_left_nothing(number: int, change: str) -> None:
    there = world(nodes=4)
    while there.kube.writes < number:
        there.turn()
    before = len(there.kube.pulled)
    if change == "annotation":
        there.kube.annotate_raycluster({})
    elif change == "image":
        there.kube.apply_raycluster(**image("mine:2"))
    elif change == "group":
        there.kube.apply_raycluster(workerGroupSpecs=[])
    else:
        there.restart()
    turns(there)
    assert there.left() == []
    more = there.kube.pulled[before:]
    if change in ("annotation", "group"):
        assert len(more) <= len(there.kube.nodes)
    elif change == "image":
        assert all("docker.io/library/mine:2" in node.images for node in there.kube.nodes.values())
    else:
        assert set(there.kube.pulled) == there.kube.nodes.keys()


def test_a_node_without_a_registry_is_given_up_for_a_while_and_said() -> None:
    there = world(nodes=4)
    broken = sorted(there.kube.nodes)[1]
    there.kube.break_registry(broken)
    turns(there)
    assert there.left() == []
    assert set(there.kube.pulled) == there.kube.nodes.keys() - {broken}
    assert problems(there) == [f"images are not pulled on {broken}: ErrImagePull no such host"]
    before = there.kube.writes
    turns(there)
    assert there.kube.writes == before, "it is not tried again at once"
    there.kube.break_registry()
    there.later(int(warm.AGAIN_SECONDS))
    turns(there)
    assert set(there.kube.pulled) == there.kube.nodes.keys()
    assert problems(there) == []


def test_a_pod_that_no_node_takes_makes_room_for_others() -> None:
    there = world(nodes=4)
    there.kube.stop_scheduling()
    turns(there, 4)
    assert len(pods(there)) == 4
    there.later(int(warm.BIND_SECONDS) + 2)
    turns(there, 4)
    assert there.left() == []
    (said,) = problems(there)
    assert said == f"images are not pulled on {', '.join(sorted(there.kube.nodes))}: its pod to be scheduled"


def test_pods_that_are_refused_are_said_and_hold_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an admission policy of an older installation, say."""
    there = world(nodes=4)
    create = there.kube.create

    def refuse(thing: Any, **more: Any) -> Any:
        if WARM_LABEL in thing["metadata"].get("labels", {}):
            raise Rejected("Kubernetes refuses it.", available="not allowed")
        return create(thing, **more)

    monkeypatch.setattr(there.kube, "create", refuse)
    turns(there, 4)
    (said,) = problems(there)
    assert "refuses" in said
    gang = there.coordinator.submit(there.order()).gang
    assert there.drive(gang) is Phase.READY
    assert isinstance(there.coordinator.backend, KubernetesBackend)


def test_pods_on_a_lost_node_are_not_waited_for() -> None:
    there = world(nodes=4)
    there.turn()
    there.turn()
    lost = sorted(there.kube.nodes)[0]
    there.kube.lose_node(lost)
    turns(there)
    assert there.coordinator.idle
    there.kube.regain_node(lost)
    turns(there)
    assert there.left() == []
    assert set(there.kube.pulled) == there.kube.nodes.keys()
