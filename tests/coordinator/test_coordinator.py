"""The coordinator over fake ports: its promises, and faults. Its queue: test_queue.py; kills: test_life.py."""

from __future__ import annotations

import pytest

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.runtime_notes import RuntimeNotes
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import GangGone, InvalidRequest, NameTaken, UnsatisfiableError
from ray_dra.translate.text import explain_gang
from tests.coordinator.world import Phase, World
from tests.core.machines import gang


@pytest.fixture
def world() -> World:
    return World()


def test_a_gang_from_request_to_release(world: World) -> None:
    status = world.submit(gang(4, 4, name="g", locality=Locality(cliques=1)))
    assert status.phase is Phase.HELD
    assert status.selectors == ({"ray-dra.io/node": "t0"}, {"ray-dra.io/node": "t1"})
    status = world.place("g")
    assert status.phase is Phase.READY
    world.check()
    assert status.group is not None
    world.ray.groups[status.group].workers.add(1)
    assert world.coordinator.release("g") is False, "its workers still run"
    assert world.coordinator.status("g").phase is Phase.RELEASING
    world.pass_time()
    world.check_empty()
    assert world.coordinator.release("g") is True


def test_a_status_says_who_asked_for_what(world: World) -> None:
    request = gang(4, 2, name="g", locality=Locality(cliques=1), priority=3)
    status = world.submit(request, name="train", namespace="team")
    assert (status.name, status.namespace, status.owner) == ("train", "team", "job")
    assert (status.bundles, status.gpus, status.priority, status.locality) == (2, 6, 3, "one clique")


def test_a_gang_without_workers_is_gone_at_once(world: World) -> None:
    """No look at Ray is needed: the raylets say so."""
    world.submit(gang(4, 4, name="g", locality=Locality(cliques=1)))
    world.place("g")
    assert world.coordinator.release("g") is True
    world.check_empty()


@pytest.mark.parametrize("error", [KeyError("a fault"), InvalidRequest("a fault")], ids=["ours", "cannot be recorded"])
def test_a_fault_with_one_gang_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("a", "b"):
        world.submit(gang(4, name=name))
        world.ray.groups[world.place(name).group or ""].workers.add(0)
    for name in ("a", "b"):
        world.coordinator.release(name)
    observed = world.coordinator.observer.observed

    def faulty(gang: Gang, notes: RuntimeNotes) -> Observed:
        if gang.id == "a":
            raise error
        return observed(gang, notes)

    monkeypatch.setattr(world.coordinator.observer, "observed", faulty)
    with pytest.raises(type(error), match="a fault"):
        world.pass_time()
    assert list(world.coordinator.gangs) == ["a"]
    monkeypatch.undo()
    world.pass_time()
    world.check_empty()


def test_devices_stay_taken_until_the_workers_have_ended(world: World) -> None:
    world.submit(gang(4, name="g"))
    world.place("g")
    group = world.coordinator.gangs["g"].group
    assert group is not None
    world.ray.groups[group].workers.add(0)
    world.coordinator.release("g")
    world.coordinator.observe()
    assert world.coordinator.gangs["g"].releasing
    assert world.coordinator.inventory.free_devices == 12
    world.pass_time()
    assert world.coordinator.inventory.free_devices == 16


def test_what_can_never_fit_is_refused_and_leaves_nothing(world: World) -> None:
    for request in (gang(5), gang(*[4] * 5), gang(*[4] * 3, locality=Locality(cliques=1)), gang(1, products=("X",))):
        with pytest.raises(UnsatisfiableError) as caught:
            world.submit(request)
        assert caught.value.shortfalls
        assert caught.value.wanted
        assert caught.value.available
        world.check_empty()


def test_a_name_is_taken_once(world: World) -> None:
    world.submit(gang(1, name="a"), name="train", namespace="x")
    with pytest.raises(NameTaken):
        world.submit(gang(1, name="b"), name="train", namespace="x")
    world.submit(gang(1, name="c"), name="train", namespace="y")
    world.check()


def test_a_gang_ends_with_its_driver_unless_detached(world: World) -> None:
    world.submit(gang(4, name="mine"))
    world.place("mine")
    world.submit(gang(4, name="kept"), detached=True)
    world.submit(gang(4, name="unplaced"))
    group = world.place("kept").group
    world.ray.jobs.clear()
    world.ray.groups[group or ""].job = ""
    world.pass_time()
    world.pass_time()
    assert set(world.coordinator.gangs) == {"kept"}
    world.check()


def test_a_hold_that_nobody_commits_is_given_back(world: World) -> None:
    world.submit(gang(4, name="g"))
    world.pass_time(20)
    assert "g" in world.coordinator.gangs
    world.pass_time(20)
    world.check_empty()


def test_a_gang_that_ray_does_not_place_moves(world: World) -> None:
    world.submit(gang(4, name="g"))
    node = (world.coordinator.status("g").allocation or pytest.fail("no allocation")).nodes[0]
    world.ray.start_task(world.raylet(node), 2)  # by a program without our hook
    status = world.place("g")
    assert status.phase is Phase.PLACING
    world.pass_time(1)
    world.pass_time(4)
    status = world.coordinator.status("g")
    assert status.moves == 1
    assert status.group is None
    assert status.allocation is not None
    assert status.allocation.nodes[0] != node
    assert world.place("g").phase is Phase.READY


def test_work_of_others_that_stands_in_a_gangs_way_is_named(world: World) -> None:
    world.ray.jobs.add("other")
    world.submit(gang(4, name="g"))
    node = (world.coordinator.status("g").allocation or pytest.fail("no allocation")).nodes[0]
    world.ray.start_task(world.raylet(node), 2)  # by a program without our hook
    group = world.ray.create_group([{"GPU": 4.0}] * 3, [{}] * 3, "other")
    world.ray.groups[group].name = "blocker"
    assert world.place("g").phase is Phase.PLACING
    world.pass_time(6)
    status = world.coordinator.status("g")
    assert status.phase is Phase.QUEUED, "it gives up what Ray does not give"
    assert world.coordinator.inventory.held_devices == 0
    named = {f"4 GPUs on {name}: placement group blocker of job other" for name in world.names if name != node}
    assert set(status.other_work) == named | {f"2 GPUs on {node}: tasks or actors of job unknown"}
    told = explain_gang(status, gang(4, name="g"))
    assert "placement group blocker of job other" in told
    world.ray.remove_group(group)
    world.pass_time(3)
    assert world.place("g").phase is Phase.READY
    assert world.coordinator.status("g").other_work == (), "it is where it should be"


def test_other_work_is_named_in_short_however_long_its_name_is() -> None:
    world = World(nodes=2)
    group = world.ray.create_group([{"GPU": 4.0}], [{}], "job")
    world.ray.groups[group].name = "x" * 1_000_000
    world.pass_time(1)
    world.submit(gang(4, 4, name="g"))
    (named,) = world.coordinator.status("g").other_work
    assert len(named) < 400


def test_of_much_other_work_some_is_named() -> None:
    world = World(nodes=8)
    for at in range(8):
        world.ray.start_task(world.raylet(f"t{at}"), 1)
    world.pass_time(2)  # at the first look it may still be somebody's who has just begun or ended
    world.submit(gang(4, name="g"))
    named = world.coordinator.status("g").other_work
    assert len(named) == 6
    assert named[-1] == "and 3 more"


def test_placement_groups_that_wait_without_a_plan_are_known(world: World) -> None:
    world.submit(gang(4, 4, name="g"))
    world.place("g")
    unplanned = world.ray.create_group([{"GPU": 4.0}] * 3, [{}] * 3, "job")
    world.ray.create_group([{"CPU": 1000.0}], [{}], "job")
    world.pass_time(2)
    assert [group.id for group in world.coordinator.foreign_work.waiting] == [unplanned]
    world.coordinator.release("g")
    world.pass_time(2)
    assert world.coordinator.foreign_work.waiting == ()


def test_an_exclusive_gang_that_cannot_move_keeps_its_clique() -> None:
    """Found by the state machine below: work of others came into the clique while Ray had not placed the gang."""
    world = World()
    for name in ("t0", "t2"):
        world.ray.start_task(world.raylet(name), 1)
    world.submit(gang(4, name="g", locality=Locality(cliques=1, exclusive=True)), wait=False)
    before = world.place("g")
    assert before.allocation is not None
    (clique,) = set(before.allocation.cliques)
    assert clique is not None
    for _ in range(3):
        world.pass_time(4)
        world.check()
        status = world.coordinator.status("g")
        assert status.phase is Phase.PLACING, "it was planned again, and there is nowhere else"
        assert status.moves == 0
        assert status.allocation == before.allocation
        assert world.coordinator.inventory.clique_states[clique].owner == "g"
        assert world.submit(gang(1, name="other", locality=Locality(cliques=1)), wait=False).allocation is not None
        assert clique not in (world.coordinator.status("other").allocation or before.allocation).cliques
        world.coordinator.release("other")


def test_a_restarted_coordinator_keeps_a_clique_for_the_gang_that_has_it_alone(world: World) -> None:
    world.submit(gang(4, name="alone", locality=Locality(cliques=1, exclusive=True)))
    world.place("alone")
    world.restart()
    world.check()
    for name in ("a", "b"):
        world.submit(gang(4, name=name))
    allocations = [world.coordinator.gangs[name].allocation for name in ("a", "b")]
    assert {node for found in allocations if found is not None for node in found.nodes} == {"t2", "t3"}
    assert world.submit(gang(1, name="more")).phase is Phase.QUEUED
    world.coordinator.release("alone")
    world.pass_time()
    assert world.coordinator.status("more").phase is Phase.HELD
    world.check()


def test_commit_of_an_old_plan_is_not_taken(world: World) -> None:
    world.submit(gang(4, name="g"))
    old = world.ray.create_group([{"GPU": 4}], [{}], "job")
    assert world.coordinator.commit("g", old, 7).group is None
    world.coordinator.release("g")
    with pytest.raises(GangGone):
        world.coordinator.commit("g", old, 0)


@pytest.mark.parametrize(
    "group", ["", "x", "zz" * 18, "00" * 17, "A" * 36, "0" * 36 + "\n", "\ud800", None, 5, b"x", []]
)
def test_what_is_no_placement_group_is_not_committed(world: World, group: object) -> None:
    """Ray could not remove it, and the gang never be given back."""
    world.submit(gang(4, name="g"))
    with pytest.raises(InvalidRequest):
        world.coordinator.commit("g", group, 0)  # type: ignore[arg-type]
    assert not world.store.keys("map/")
    world.pass_time(1)
    assert world.place("g").phase is Phase.READY
    world.check()


def test_a_placement_group_is_of_one_gang(world: World) -> None:
    world.submit(gang(4, name="a"))
    world.submit(gang(2, name="b"))
    group = world.place("a").group
    assert group is not None
    mapped = world.store.get(f"map/{group}")
    with pytest.raises(InvalidRequest, match="another gang's"):
        world.coordinator.commit("b", group, 0)
    assert world.store.get(f"map/{group}") == mapped
    world.coordinator.release("b")
    assert world.coordinator.status("a").phase is Phase.READY
    assert world.ray.groups[group].state == "CREATED"
    world.check()


def test_plan_holds_nothing(world: World) -> None:
    answer = world.coordinator.plan(gang(4, 4, locality=Locality(cliques=1)))
    assert not isinstance(answer, Unsatisfiable)
    world.check_empty()


@pytest.mark.parametrize(("name", "called"), [("", "g"), ("train", "train")])
def test_the_log_tells_the_end_of_a_gang_by_its_name_else_by_its_id(
    world: World, caplog: pytest.LogCaptureFixture, name: str, called: str
) -> None:
    caplog.set_level("INFO")
    world.submit(gang(4, name="g"), name=name)
    world.coordinator.release("g")
    assert f"gang {called}: gone: released" in caplog.text


def test_a_fault_in_the_first_look_does_not_keep_the_coordinator_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is one gang's, say, and it would end each start until somebody empties the store."""
    world = World()
    world.submit(gang(4, name="g"))
    monkeypatch.setattr(Coordinator, "observe", lambda self: 1 // 0)
    world.restart()
    assert "the first look failed" in caplog.text
    monkeypatch.undo()
    world.pass_time(1)
    assert world.coordinator.status("g").phase is Phase.HELD
    world.check()
