"""Gangs on a fake Kubernetes beside each other, and beside another RayCluster's claims; one gang's workers:
test_provisioning.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.coordinator.backends.kubernetes.neighbours import Neighbours
from ray_dra.core.gangs.lifecycle import MOST_MOVES
from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import UnsatisfiableError
from ray_dra.translate.names import ATTEMPT_LABEL, CLUSTER_LABEL
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import Clock


def test_two_gangs_in_two_cliques_and_one_that_waits() -> None:
    world = World()
    first, second = (world.coordinator.submit(world.order()).gang for _ in range(2))
    assert world.drive(first) is Phase.READY
    assert world.drive(second) is Phase.READY
    third = world.coordinator.submit(world.order())
    assert third.phase is Phase.QUEUED
    with pytest.raises(UnsatisfiableError, match=r"does not fit now|ahead"):
        world.coordinator.submit(world.order(wait=False))
    world.coordinator.release(first)
    assert world.drive(third.gang) is Phase.READY
    for gang in (second, third.gang):
        world.coordinator.release(gang)
    world.settle()


def rival(world: World, gang: str, born: str) -> None:
    """A gang of another RayCluster, in a namespace where we may only read, wants the devices of ours."""
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    say(world, "rival", [grant.uuid or "" for grant in allocation.grants], count=4, creationTimestamp=born)


@pytest.mark.parametrize("born", ["0", "9"])
def test_of_two_rayclusters_that_want_a_device_the_younger_gives_way(born: str) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    before = world.coordinator.status(gang).allocation
    assert before is not None
    rival(world, gang, born)
    if born == "0":
        assert world.drive(gang) is Phase.READY
        after = world.coordinator.status(gang).allocation
        assert after is not None
        assert not {g.uuid for g in before.grants} & {g.uuid for g in after.grants}
    else:
        assert world.drive(gang) is Phase.READY
        assert world.coordinator.status(gang).moves == 0
    world.coordinator.release(gang)
    unsay(world, "rival")
    world.settle()


def say(world: World, name: str, uuids: list[str], namespace: str = "other", **more: Any) -> None:
    """Somebody's claim names devices, as if it were a gang's, and older than any of ours."""
    names = json.dumps(uuids, separators=(",", ":"))
    expression = f'device.attributes["gpu.nvidia.com"].uuid in {names}'
    count = more.pop("count", len(uuids))
    exactly = {"deviceClassName": "gpu.nvidia.com", "count": count, "selectors": [{"cel": {"expression": expression}}]}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": f"pod-{name}", "controller": True}
    meta = {
        "name": name,
        "namespace": namespace,
        "uid": name,
        "creationTimestamp": "0",
        "labels": {ATTEMPT_LABEL: f"rd-{name}-0", CLUSTER_LABEL: "theirs"},
        "ownerReferences": [owner],
        **more,
    }
    spec = {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}
    world.kube.put({"kind": "ResourceClaim", "metadata": meta, "spec": spec, "status": {}})


def unsay(world: World, uid: str) -> None:
    world.kube.drop("ResourceClaim", uid)


def all_uuids(world: World) -> list[str]:
    return [d.text("uuid") or "" for s in world.kube.view().slices for d in s.devices]


def drive_until(world: World, gang: str, seconds: float, each: Callable[[], None] = lambda: None) -> float:
    """Seconds until it is ready; then it is driven on, to the end of the time."""
    began, ready = world.clock.now, math.inf
    while world.clock.now - began < seconds:
        each()
        if world.drive(gang, turns=1) is Phase.READY:
            ready = min(ready, world.clock.now - began)
            if world.coordinator.status(gang).phase is Phase.READY and ready + 30 < world.clock.now - began:
                break
    return ready


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_older_claim_that_never_gets_anything_stops_a_gang_for_two_minutes_and_no_longer(when: str) -> None:
    """As a RayCluster leaves it whose coordinator died while its pods were gated."""
    world = World(nodes=2, cliques=1)
    if when == "before":
        say(world, "dead", all_uuids(world))
        world.turn()
    gang = world.coordinator.submit(world.order()).gang
    if when == "after":
        say(world, "dead", all_uuids(world))
    said = set()
    ready = drive_until(world, gang, 1200, lambda: said.add(world.coordinator.status(gang).said))
    assert 100 < ready < 140
    assert world.coordinator.status(gang).moves <= 1
    assert world.kube.writes < 30
    assert any("left to claims of the RayClusters other/theirs" in text for text in said)
    assert [message for reason, message in world.kube.told if reason == "NeighbourIgnored"] == [
        "claims of namespace other have named devices for 120 s and got none; gangs do not give way to them for 10"
        " minutes"
    ]
    assert any("namespace other" in text for text in world.coordinator.backend.problems())
    if when == "after":
        moved = [message for reason, message in world.kube.told if reason == "GangMoved"]
        assert "8 GPUs are left to claims of the RayClusters other/theirs" in moved[0]
    world.coordinator.release(gang)
    unsay(world, "dead")
    world.settle()


def test_a_namespace_that_gets_nothing_is_not_believed_for_ever_longer() -> None:
    """Ten minutes, then twice as long, at most sixteen times; and a claim that waited for so long never again."""
    world, clock = World(nodes=1, cliques=1), Clock()
    neighbours = Neighbours(clock)
    believed: list[float] = []
    for number in range(40_000):
        if number % 100 == 0:
            say(world, "fresh", ["GPU-1"], uid=f"fresh-{number}")
            say(world, "old", ["GPU-2"])
        claims = world.kube.view().claims if number % 100 == 0 else ()
        neighbours.look(number // 100, claims, lambda claim: False, lambda claim: False)
        assert neighbours.named <= ({"GPU-1"} if number > 240 else {"GPU-1", "GPU-2"})
        believed += [clock()] if neighbours.named else []
        clock.now += 1
    starts = [at for at in believed if at - 1 not in believed]
    assert len(believed) == pytest.approx(120 * len(starts), abs=5 * len(starts))
    pauses = [later - earlier - 120 for earlier, later in pairwise(starts)]
    assert pauses[:6] == pytest.approx([600, 1200, 2400, 4800, 9600, 9600], abs=15)


def test_a_namespaces_time_runs_on_over_short_pauses_and_for_gangs_that_gave_way() -> None:
    world, clock = World(nodes=1, cliques=1), Clock()
    neighbours = Neighbours(clock)
    believed = 0
    for second in range(700):  # claims of 50 s, a second between them
        if second % 51 == 50:
            unsay(world, "wave")
        else:
            say(world, "wave", ["GPU-1"], uid=f"wave-{second // 51}")
        neighbours.look(second, world.kube.view().claims, lambda claim: False, lambda claim: False)
        believed += bool(neighbours.named)
        clock.now += 1
    assert 115 < believed < 130
    gave, again = 0, Neighbours(clock)
    say(world, "rival", ["GPU-1"])
    for look in range(100):
        again.look(look, world.kube.view().claims, lambda claim: False, lambda claim: False)
        first = again.before(["GPU-1"], None)
        if first is not None:
            again.gave_way(first)
            gave += 1
    assert gave == 12
    assert len(again.newly_ignored()) == 1


def test_time_alone_ends_what_is_believed_though_nothing_changes_in_the_cluster() -> None:
    world = World(nodes=2, cliques=1)
    say(world, "dead", all_uuids(world))
    world.turn()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(130):
        world.clock.now += 1
        world.coordinator.observe()  # the view's version stays
    assert world.coordinator.status(gang).phase is Phase.PROVISIONING


def test_a_namespace_is_given_way_to_a_dozen_times_and_then_no_more() -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for number in range(20):
        allocation = world.coordinator.status(gang).allocation
        if allocation is not None:
            say(world, "rival", [g.uuid or "" for g in allocation.grants], uid=f"rival-{number}")
        for _ in range(6):
            if world.coordinator.status(gang).moves == number:
                world.drive(gang, turns=1)
        unsay(world, "rival")
        world.drive(gang, turns=1)
    assert 8 <= world.coordinator.status(gang).moves <= 12
    assert world.drive(gang) is Phase.READY


@pytest.mark.parametrize("restarted", [False, True])
def test_to_give_way_costs_no_try(restarted: bool) -> None:
    """Nor after a restart of the coordinator."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for number in range(MOST_MOVES + 1):
        allocation = world.coordinator.status(gang).allocation
        assert allocation is not None
        say(world, "rival", [g.uuid or "" for g in allocation.grants], f"other{number}", uid=f"rival-{number}")
        while world.coordinator.status(gang).moves == number:
            world.turn()
        unsay(world, "rival")
        world.turn()
    if restarted:
        world.restart()
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    world.kube.take(allocation.nodes[0], "gpu-0")  # this costs one
    assert world.drive(gang) is Phase.READY
    assert world.coordinator.status(gang).moves == MOST_MOVES + 2
    world.coordinator.release(gang)
    world.settle()


@pytest.mark.parametrize(
    ("why", "more"),
    [
        ("nobody owns it", {"ownerReferences": []}),
        (
            "no Pod owns it",
            {"ownerReferences": [{"apiVersion": "ray.io/v1", "kind": "RayCluster", "controller": True}]},
        ),
        ("no controller", {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p"}]}),
        ("no RayCluster", {"labels": {"ray-dra.io/attempt": "rd-1-0"}}),
    ],
)
def test_a_claim_that_is_no_pods_is_not_given_way_to(why: str, more: dict[str, Any]) -> None:
    world = World(nodes=2, cliques=1)
    say(world, "copied", all_uuids(world), **more)
    gang = world.coordinator.submit(world.order()).gang
    assert drive_until(world, gang, 10) < 10, why
    assert world.coordinator.status(gang).moves == 0


def test_a_claim_that_names_more_than_it_counts_is_believed_while_the_others_come() -> None:
    """A gang's pods have a claim each, and each names the devices of all of them."""
    world = World(nodes=2, cliques=1)
    uuids = all_uuids(world)
    say(world, "one", uuids, count=4)
    gang = world.coordinator.submit(world.order()).gang
    assert 9 < drive_until(world, gang, 60) < 20
    world.coordinator.release(gang)
    world.settle()
    second = world.coordinator.submit(world.order()).gang
    say(world, "two", uuids, count=4, labels={ATTEMPT_LABEL: "rd-one-0", CLUSTER_LABEL: "theirs"})
    for _ in range(60):
        assert world.drive(second, turns=1) is not Phase.READY
    for uid in ("one", "two"):
        unsay(world, uid)
    assert drive_until(world, second, 10) < 10


@settings(deadline=None, max_examples=12)
@given(
    st.lists(
        st.tuples(st.integers(1, 240), st.integers(0, 60), st.integers(1, 4), st.booleans()), min_size=1, max_size=2
    )
)
def test_a_wave_of_copied_labels_does_not_stop_a_cluster(waves: list[tuple[int, int, int, bool]]) -> None:
    """Of each namespace claims that live for some seconds, after a pause the next, with new names and uids."""
    world = World(nodes=2, cliques=1)
    uuids, now = all_uuids(world), 0

    def each() -> None:
        nonlocal now
        now += 1
        for number, (lives, pause, claims, own_names) in enumerate(waves):
            at, within = divmod(now / 2, lives + pause)
            for claim in range(claims):
                uid = f"{number}-{int(at)}-{claim}" if own_names else f"{number}-{claim}"
                if within == 0 or now == 1:
                    say(world, uid, uuids, f"other{number}", uid=f"{uid}-{at}")
                elif within >= lives:
                    unsay(world, uid)

    for _ in range(2):
        gang = world.coordinator.submit(world.order()).gang
        bound = 2 * 120 * len(waves) + 60  # half the time, where a wave pauses as long as it lasts
        assert drive_until(world, gang, bound, each) < bound
        world.coordinator.release(gang)
        for _ in range(20):
            each()
            world.turn()
    assert world.kube.writes < 300


def test_devices_that_anothers_gang_waits_for_are_taken_but_not_for_ever() -> None:
    world = World(nodes=2, cliques=1)
    gang = world.coordinator.submit(world.order()).gang
    rival(world, gang, "0")
    world.coordinator.release(gang)
    world.turn()
    waiting = world.coordinator.submit(world.order())
    assert waiting.phase is Phase.QUEUED
    for _ in range(121):
        world.later(1)
        if world.coordinator.status(waiting.gang).phase is Phase.PROVISIONING:
            return
    raise AssertionError("it waits for ever")
