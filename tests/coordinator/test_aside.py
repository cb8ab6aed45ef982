"""Records that cannot be read: none of them keeps the coordinator from starting, or gives a device out twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.gangs.events import WorkersProgressed
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.lifecycle import MOST_MOVES
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.model.locality import Locality
from ray_dra.errors import GangGone, InvalidRequest, RayDraError, UnsatisfiableError
from ray_dra.translate.files.records import GANG_VERSION
from ray_dra.translate.names import FAILED_KEY, MAP_KEY
from tests.core.machines import gang
from tests.translate.files.test_records import WRONG, WRONG_REQUESTS, unchecked

from . import kubernetes_world
from .world import Phase, World, positions

SCRAPS = [b"", b"null", b"5", b"[]", b"{}", b"\xff\xfe", b"\n", b'{"version":99}', b"[" * 5_000, b'["n",{}]']


def full_world() -> World:
    """Two trays' gangs placed, one of them with a worker; one held; one that waits; a task of others."""
    world = World()
    for name in ("a", "b", "c"):
        world.submit(gang(4, name=name))
    for name in ("a", "b"):
        world.place(name)
    group = world.coordinator.gangs["a"].group or ""
    world.ray.groups[group].workers.add(0)
    world.coordinator.devices_for("t0-0", group, 0, (0, 1), 7)
    pid, gpu_ids = world.ray.start_task("t3-0", 1) or (0, ())
    world.coordinator.devices_for("t3-0", "", -1, gpu_ids, pid)
    world.submit(gang(4, 4, name="d"))
    return world


KEYS = sorted(full_world().store.data)


@settings(max_examples=80, deadline=None)
@given(
    bad=st.dictionaries(st.sampled_from(KEYS), st.one_of(st.sampled_from(SCRAPS), st.binary(max_size=40)), min_size=1),
    cut=st.lists(st.sampled_from(KEYS), max_size=3),
    strange=st.lists(st.sampled_from(["gang/x", "gang/", "node/x", "node/", "gpu_ids/x", "map/x", "map/"]), max_size=3),
)
def test_the_coordinator_starts_whatever_the_store_holds(
    bad: dict[str, bytes], cut: list[str], strange: list[str]
) -> None:
    world = full_world()
    data = world.store.data
    before = {name: found.allocation for name, found in world.coordinator.gangs.items()}
    mapped = {key: data[key] for key in data if key.startswith(MAP_KEY)}
    for key in cut:
        data[key] = data[key][: len(data[key]) // 2]
    data |= bad
    data |= dict.fromkeys(strange, b"what is this")
    touched = {*bad, *cut, *strange}
    for _ in range(2):  # and again, with what now lies aside
        world.restart()
        coordinator = world.coordinator
        world.check()
        for name, allocation in before.items():
            if f"gang/{name}" not in touched and allocation is not None:
                assert coordinator.gangs[name].allocation == allocation
        for key, unread in coordinator.aside.records.items():
            assert key in touched, "what can be read is left alone"
            assert unread.reason.isascii()
            assert data[f"aside/{key}"].endswith(unread.data)
        for group in ("a", "b"):
            found = coordinator.gangs.get(group)
            if found is not None and found.group is not None:
                assert data[MAP_KEY + found.group] == mapped[MAP_KEY + found.group], "a worker finds its GPUs"
    for name in world.names:
        world.report(name)
    world.pass_time(5)
    for number in range(16):  # all that is free is given out
        world.submit(gang(1, name=f"n{number}"))
    world.check()
    unknown = {g for g in ("a", "b") if g not in world.coordinator.gangs and mapped.keys().isdisjoint(touched)}
    theirs = {g.device for name in unknown for g in before[name].grants}  # type: ignore[union-attr]
    given_out = {
        g.device
        for name, found in world.coordinator.gangs.items()
        if name.startswith("n") and found.allocation is not None
        for g in found.allocation.grants
    }
    assert not theirs & given_out, "an unreadable gang's workers run on"


def test_a_gang_whose_record_is_lost_keeps_its_devices_until_it_ends() -> None:
    world = full_world()
    group = world.coordinator.gangs["a"].group or ""
    world.store.data |= {"gang/a": b"?", "node/x": b"?"}
    world.restart()
    assert list(world.coordinator.aside.records) == ["node/x", "gang/a"]
    assert world.coordinator.release("node/x")
    assert list(world.coordinator.aside.records) == ["gang/a"]
    with pytest.raises(GangGone, match="set aside"):
        world.coordinator.status("a")
    world.pass_time(2)
    assert world.coordinator.inventory.node_states["t0"].busy == 0b1111
    assert not world.coordinator.idle
    first = positions(world.coordinator.devices_for("t0-0", group, 0, (0, 1), 7))
    rest = positions(world.coordinator.devices_for("t0-0", group, 0, (2, 3), 8))
    assert sorted(first + rest) == [0, 1, 2, 3]
    assert first == [0, 1], "a worker that is started again sees what it saw"
    world.ray.remove_group(group)
    world.pass_time(2)
    assert world.coordinator.inventory.node_states["t0"].free == 0b1111
    assert MAP_KEY + group not in world.store.data
    assert world.coordinator.release("a")
    assert not world.coordinator.aside.records
    assert not world.store.keys("aside/")


def test_two_records_that_claim_one_device_are_not_both_believed() -> None:
    world = World()
    world.submit(gang(4, name="a"))
    world.store.data["gang/b"] = world.store.data["gang/a"].replace(b'"a"', b'"b"')
    world.restart()
    world.check()
    assert list(world.coordinator.gangs) == ["a"]
    assert "another gang has" in next(iter(world.coordinator.aside.records.values())).reason


@pytest.mark.parametrize("change", WRONG, ids=ascii)
def test_an_order_that_could_not_be_read_back_holds_nothing(change: dict[str, object]) -> None:
    nothing_held(unchecked(Order(gang(4), owner="job"), **change))


@pytest.mark.parametrize("change", WRONG_REQUESTS, ids=ascii)
def test_nor_does_such_a_request(change: dict[str, object]) -> None:
    request = unchecked(gang(4), **change)
    nothing_held(unchecked(Order(gang(4), owner="job"), request=request))
    with pytest.raises(InvalidRequest):
        World().coordinator.plan(request)


def nothing_held(order: Order) -> None:
    world = World()
    before = dict(world.store.data)
    with pytest.raises(InvalidRequest):
        world.coordinator.submit(order)
    assert world.store.data == before
    world.check_empty()


def test_what_reads_back_as_another_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a field ever be stored in a form that loses something."""
    world = World()
    monkeypatch.setattr("ray_dra.translate.files.records.gang_from_bytes", lambda data: Gang(gang(1), 1))
    with pytest.raises(InvalidRequest, match="cannot be recorded"):
        world.submit(gang(4, name="g"))
    world.check_empty()


def test_what_was_given_up_is_told_for_a_while_and_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_dra.coordinator.gang_store.MOST_FAILURES", 3)
    world = World()
    for number in range(10):
        status = world.submit(gang(1, name=f"g{number}"))
        world.coordinator._decide(WorkersProgressed(status.gang, Progress(failed="a test", final=True)))
    for restarted in (False, True):
        if restarted:
            world.restart()
        assert world.store.keys(FAILED_KEY) == ["failed/g7", "failed/g8", "failed/g9"]
        with pytest.raises(UnsatisfiableError, match="given up: a test"):
            world.coordinator.status("g9")
        with pytest.raises(GangGone):
            world.coordinator.status("g6")
        world.check_empty()


def test_the_last_that_were_given_up_are_the_last_ones_after_a_start_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store tells its keys in their order, which is none of time: it was the newest that was forgotten next."""
    monkeypatch.setattr("ray_dra.coordinator.gang_store.MOST_FAILURES", 2)
    world = World()
    for name in ("z", "b", "a", "c"):
        status = world.submit(gang(1, name=name))
        world.coordinator._decide(WorkersProgressed(status.gang, Progress(failed="a test", final=True)))
        world.restart()
    assert world.store.keys(FAILED_KEY) == ["failed/a", "failed/c"]


def test_the_reason_for_giving_up_is_written_whatever_a_container_said_last() -> None:
    world = World()
    status = world.submit(gang(1, name="g"))
    world.coordinator._decide(WorkersProgressed(status.gang, Progress(failed="\udcff" + "x" * 10**6, final=True)))
    world.restart()
    with pytest.raises(UnsatisfiableError, match=r"given up: \\udcffxxx"):
        world.coordinator.status("g")
    assert len(world.store.data["failed/g"]) < 3000
    world.check_empty()


@pytest.mark.parametrize("whole", [True, False])
def test_on_kubernetes_the_workers_of_an_unreadable_gang_run_on_until_its_record_goes(whole: bool) -> None:
    """Also where not even its moves can be read, of which those to give way are beyond the tries."""
    world = kubernetes_world.World()
    name = world.coordinator.submit(world.order()).gang
    for _ in range(MOST_MOVES + 3):
        world.coordinator._decide(WorkersProgressed(name, Progress(failed="another came first", gave_way=True)))
    assert world.drive(name) is Phase.READY
    assert world.coordinator.status(name).moves > MOST_MOVES
    claimed = world.kube.claimed()
    record = world.store.data[f"gang/{name}"]
    newer = record.replace(b'"version":%d' % GANG_VERSION, b'"version":99')
    world.store.data[f"gang/{name}"] = newer if whole else b"garbage"
    world.restart()
    for _ in range(10):
        world.turn()
    assert world.kube.claimed() == claimed
    assert not world.coordinator.idle
    assert world.coordinator.release(name)
    world.settle()
    assert not world.kube.claimed()


def lost_beside_another() -> tuple[World, set[str | None]]:
    """A gang on some devices of a node, under other GPU ids; its record is lost. Returns its devices."""
    world = World()
    world.submit(gang(1, name="before"))
    world.submit(gang(2, name="lost"))
    world.place("lost")
    world.coordinator.release("before")
    group = world.ray.groups[world.coordinator.gangs["lost"].group or ""]
    group.workers.add(0)
    allocation = world.coordinator.gangs["lost"].allocation
    assert allocation is not None
    assert {g.position for g in allocation.grants} not in ({*group.gpu_ids[0]}, {2, 3}), "no guess would find them"
    world.store.data["gang/lost"] = b"?"
    world.restart()
    return world, {g.uuid for g in allocation.grants}


def fill(world: World) -> set[str | None]:
    """The devices that are given out when everybody asks for one."""
    for number in range(16):
        world.submit(gang(1, name=f"n{number}"))
    found = [held.allocation for held in world.coordinator.gangs.values() if held.allocation is not None]
    return {g.uuid for allocation in found for g in allocation.grants}


@pytest.mark.parametrize("restarted", [False, True])
def test_the_very_devices_of_a_lost_record_are_nobody_elses(restarted: bool) -> None:
    world, theirs = lost_beside_another()
    if restarted:  # the raylet of the node, whose report comes before the next look
        world.ray.kill_node("t0-0")
        world.coordinator.observe()
        world.incarnation["t0"] += 1
        world.ray.add_node("t0-1", gpus=4, labels={"ray-dra.io/node": "t0"})
        world.coordinator.observe()
        world.report("t0")
    else:
        group = next(iter(world.coordinator.foreign_work.unclaimed))
        seen = [
            world.coordinator.devices_for("t0-0", group, 0, (gpu_id,), 7)[0]
            for gpu_id in world.ray.groups[group].gpu_ids[0]
        ]
        assert {device.uuid for device in seen} == theirs, "a worker that gets a GPU id sees its device"
    given_out = fill(world)
    assert len(given_out) == 14
    assert theirs.isdisjoint(given_out)


IMPOSSIBLE: dict[str, tuple[str, Callable[[Any], object]]] = {
    "a row of links too few": ("node/t0-0", lambda record: record["node"]["links"].pop()),
    "a device twice": ("node/t0-0", lambda record: record["best"]["devices"].append(record["best"]["devices"][0])),
    "no amount": ("node/t0-0", lambda record: record["node"]["resources"].update(CPU=-1)),
    "a GPU id of no position": ("gpu_ids/t3-0", lambda record: record["foreign"].update({"0": [10**12, 1]})),
    "a GPU id of a position before the first": (
        "gpu_ids/t0-0",
        lambda record: _first(record["bundles"]).update({"0": -1}),
    ),
    "a GPU too few": ("gang/a", lambda record: _grants(record).pop()),
    "a GPU twice": ("gang/a", lambda record: _grants(record).__setitem__(0, _grants(record)[1])),
    "a position that no node has": ("gang/c", lambda record: _grants(record)[0].__setitem__(1, 2**63)),
    "a GPU of another node": ("gang/a", lambda record: _grants(record)[0].__setitem__(0, "t3")),
    "a share that nobody asked for": ("gang/a", lambda record: _grants(record)[0].__setitem__(6, 500)),
    "a share beyond numbers": ("gang/d", lambda record: _device(record).update(share=10**400)),
    "a number that cannot go on": ("gang/d", lambda record: record.update(sequence=10**4000)),
    "a placement group and no devices": ("gang/b", lambda record: record.update(allocation=None)),
    "another gang's placement group": ("gang/b", lambda record: record.update(group=f"{1:036x}")),
    "one that another gang has left": ("gang/b", lambda record: record.update(old_groups=[f"{1:036x}"], moves=1)),
}


def _first(table: dict[str, Any]) -> Any:
    return next(iter(table.values()))


def _device(record: dict[str, Any]) -> dict[str, Any]:
    device: dict[str, Any] = record["request"]["bundles"][0]["devices"][0]
    return device


def _grants(record: dict[str, Any]) -> list[list[Any]]:
    grants: list[list[Any]] = record["allocation"][1][0][1]
    return grants


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_record_that_reads_well_and_cannot_be_true_is_set_aside(what: str) -> None:
    key, change = IMPOSSIBLE[what]
    world = full_world()
    world.report("t0", lost=0)  # so that its best form is kept, too
    record = json.loads(world.store.data[key])
    change(record)
    world.store.data[key] = json.dumps(record).encode()
    world.restart()
    assert list(world.coordinator.aside.records) == [key]
    for name in world.names:
        world.report(name)
    world.pass_time(2)
    for node in world.names:
        with suppress(RayDraError):  # a task where all GPUs are taken
            world.coordinator.devices_for(world.raylet(node), "", -1, (1,), 9)
    world.check()


def test_to_let_go_of_a_record_that_claims_a_running_gangs_group_leaves_that_alone() -> None:
    world = full_world()
    record = json.loads(world.store.data["gang/b"])
    record["group"] = world.coordinator.gangs["a"].group
    world.store.data["gang/b"] = json.dumps(record).encode()
    world.restart()
    world.coordinator.release("b")
    assert not world.coordinator.aside.records
    assert world.coordinator.status("a").phase is Phase.READY
    assert world.ray.groups[record["group"]].state == "CREATED"


def test_two_gangs_that_both_claim_a_clique_for_themselves_are_not_both_believed() -> None:
    world = World()
    for name in ("a", "b"):
        world.submit(gang(4, name=name, locality=Locality(cliques=1, exclusive=True)))
    mine, theirs = (json.loads(world.store.data[f"gang/{name}"]) for name in ("a", "b"))
    theirs["allocation"][4] = mine["allocation"][4]
    world.store.data["gang/b"] = json.dumps(theirs).encode()
    world.restart()
    assert list(world.coordinator.gangs) == ["a"]
    assert "gang/b" in world.coordinator.aside.records
    world.check()


def test_a_record_that_claims_what_a_running_gang_has_does_not_end_that_gang() -> None:
    """Not when its workers ask for their devices either, which its map names."""
    world = World()
    for name in ("a", "b"):
        world.submit(gang(2, name=name))
        world.place(name)
    (of_a, a), (of_b, b) = ((g.group or "", world.store.data[f"gang/{g.id}"]) for g in world.coordinator.gangs.values())
    claims = a.replace(b'"gang":"a"', b'"gang":"b"').replace(b'["a",', b'["b",').replace(of_a.encode(), of_b.encode())
    assert claims not in (a, b)
    world.store.data["gang/b"], world.store.data[MAP_KEY + of_b] = claims, world.store.data[MAP_KEY + of_a]
    world.restart()
    assert list(world.coordinator.aside.records) == ["gang/b"]
    assert positions(world.coordinator.devices_for("t0-0", of_b, 0, (2,), 7)) == [0]
    assert world.coordinator.status("a").phase is Phase.READY
    assert world.ray.groups[of_a].state == "CREATED"
    world.coordinator.engine.validate()
