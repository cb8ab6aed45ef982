"""A gang that a queue outside pays for: when it is asked, admitted, taken back, refused, and where it may then go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.actions import AskQuota, DeleteMap, MakeWorkers, RemoveGroup, Tell
from ray_dra.core.gangs.events import Committed, NextTurn, QuotaAnswered, Submitted, WorkersDue
from ray_dra.core.gangs.lifecycle import Observed, phase
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.quota import GRACE_SECONDS, Answer, Labels, Quota, Said, kinds, paid
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import Bundle
from ray_dra.core.model.selector import labels_match
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest, UnsatisfiableError
from tests.core.gangs.world import World
from tests.core.machines import gang, group_id, rack

ADMITTED = Answer(Said.ADMITTED, granted=((),))
EVICTED = Answer(Said.EVICTED, "Preempted: for somebody else")
PENDING, CREATED = Observed(group_state="PENDING"), Observed(group_state="CREATED", placed_once=True)


def say(world: World, answer: Answer, name: str = "g", seen: Observed = Observed()) -> list[object]:  # noqa: B008
    return list(world.act(QuotaAnswered(name, answer, seen)))


def test_nothing_is_held_before_the_queue_has_admitted_it_and_it_holds_up_nobody() -> None:
    world = World(own_workers=True)
    waiting = world.submit(4, name="g", queue="outside/q")
    assert phase(waiting, Observed()) is Phase.QUOTA
    assert AskQuota("g") in world.done
    assert world.inventory.free_devices == 8
    assert not world.act(NextTurn())
    assert world.submit(4, 4, name="other").allocation is not None
    assert MakeWorkers("g") not in world.act(WorkersDue("g", Observed()))
    say(world, ADMITTED)
    assert phase(world.gangs["g"], Observed()) is Phase.QUEUED  # now it waits for room
    world.engine.records.drop("other")
    world.act(NextTurn())
    assert world.gangs["g"].allocation is not None
    assert not say(world, ADMITTED)


def test_what_the_queue_says_is_told_once_and_the_request_is_made_until_it_is_there() -> None:
    world = World()
    world.submit(4, name="g", queue="outside/q")
    assert say(world, Answer(Said.NOTHING)) == [AskQuota("g")]
    short = Answer(Said.WAITS, "insufficient unused quota, 4 more needed")
    assert say(world, short) == [Tell("g")]
    assert not say(world, short)
    (why,) = world.engine.records.notes["g"].refused
    assert str(why) == (
        "quota in the queue outside/q: wanted 4 GPUs and what goes with them, "
        "available insufficient unused quota, 4 more needed"
    )


@pytest.mark.parametrize("answer", [EVICTED, Answer(Said.NOTHING), Answer(Said.WAITS, "requeued")])
@pytest.mark.parametrize("grouped", [False, True])
def test_what_is_taken_back_is_given_back_whole_and_asked_for_again(answer: Answer, grouped: bool) -> None:
    """Also where the request is gone, or waits again. It costs no try, and no node is left out."""
    world = World(own_workers=True)
    world.submit(4, name="g", queue="outside/q")
    for times in range(10):
        say(world, ADMITTED)
        world.act(NextTurn())
        if grouped:
            world.act(Committed("g", group_id(f"{times}"), world.gangs["g"].moves))
        done = say(world, answer, seen=PENDING if grouped else Observed())
        now = world.gangs["g"]
        assert now.quota == Quota("outside/q", times + 1)
        assert (now.allocation, now.group) == (None, None)
        assert now.moves == now.gave_way == times + 1
        if grouped:
            assert {RemoveGroup(group_id(f"{times}")), DeleteMap(group_id(f"{times}"))} <= {*done}
        assert world.inventory.free_devices == 8
        assert phase(now, Observed()) is Phase.QUOTA
    assert say(world, Answer(Said.NOTHING)) == [AskQuota("g")]


def test_a_gang_that_runs_ends_with_its_quota_and_says_why() -> None:
    """Its program has a placement group in its hands, which another cannot take the place of."""
    world = World(own_workers=True)
    world.submit(4, name="g", queue="outside/q")
    say(world, ADMITTED)
    world.act(NextTurn())
    world.act(Committed("g", group_id("g"), 0))
    world.busy.add("g")
    for _ in range(int(GRACE_SECONDS)):
        say(world, EVICTED, seen=CREATED)
        assert not world.gangs["g"].releasing
        world.now += 1.0
    say(world, EVICTED, seen=CREATED)
    assert world.gangs["g"].failed == "outside/q: Preempted: for somebody else"
    assert world.gangs["g"].releasing
    assert not say(world, ADMITTED)


def test_what_the_queue_refuses_for_good_is_given_up() -> None:
    world = World()
    world.submit(4, name="g", queue="outside/q")
    say(world, Answer(Said.REFUSED, "Deactivated by the administrator"))
    assert "g" not in world.gangs


def test_nobody_is_asked_for_what_can_never_be_or_must_be_said_at_once() -> None:
    world = World()
    with pytest.raises(UnsatisfiableError):
        world.act(Submitted(Order(gang(4, 4, 4, name="g")), queue="outside/q"))
    with pytest.raises(InvalidRequest, match="leave out wait=False"):
        world.act(Submitted(Order(gang(4, name="g"), wait=False), queue="outside/q"))
    assert not world.asked


def test_a_gang_goes_only_where_its_quota_is() -> None:
    nodes = [replace(node, labels={"zone": zone}) for node, zone in zip(rack("a", 2), "ab", strict=True)]
    inventory = Inventory(nodes)
    request = gang(4, name="g")
    for zone in "ab":
        answer = plan(inventory, paid(request, Quota("outside/q", 0, ((("zone", zone),),))))
        assert isinstance(answer, Allocation)
        assert [inventory.node_states[node].node.labels["zone"] for node in answer.nodes] == [zone]
    elsewhere = plan(inventory, paid(request, Quota("outside/q", 0, ((("zone", "c"),),))))
    assert not isinstance(elsewhere, Allocation)


TERMS = st.sampled_from(["a", "!a", "in(a,b)", "!in(a)", "b"])
VALUES = st.dictionaries(st.sampled_from(["zone", "pool"]), st.sampled_from(["a", "b"]))


@given(wanted=st.dictionaries(st.sampled_from(["zone", "pool"]), TERMS), granted=VALUES, node=VALUES)
def test_a_bundle_takes_a_node_that_it_selects_and_that_is_paid_for(
    wanted: dict[str, str], granted: dict[str, str], node: dict[str, str]
) -> None:
    request = replace(gang(1, name="g"), bundles=(Bundle(labels=wanted),))
    labels: Labels = tuple(sorted(granted.items()))
    (limited,) = paid(request, Quota("q", 0, (labels,))).bundles
    both = labels_match(wanted, node) and all(node.get(name) == value for name, value in granted.items())
    assert labels_match(limited.labels, node) is both


def test_each_kind_of_bundle_has_its_own_nodes() -> None:
    request = gang(1, 2, 1, name="g")
    assert list(kinds(request).values()) == [2, 1]
    limited = paid(request, Quota("q", 0, ((("zone", "a"),), ()))).bundles
    assert [dict(bundle.labels) for bundle in limited] == [{"zone": "a"}, {}, {"zone": "a"}]
    assert paid(request, Quota("q")) is request


LATER = Answer(Said.LATER, "OverLimit: 8 of 8")


def test_what_gets_nothing_for_now_gives_all_back_and_asks_again_in_the_queues_words() -> None:
    """It costs no try; nothing was taken back, and nothing says so."""
    world = World(own_workers=True)
    world.submit(4, name="g", queue="outside/q")
    for times in range(10):
        say(world, ADMITTED)
        world.act(NextTurn())
        assert world.gangs["g"].allocation is not None
        say(world, LATER)
        now = world.gangs["g"]
        assert (now.quota, now.allocation) == (Quota("outside/q", times + 1), None)
        assert now.moves == now.gave_way == times + 1
        assert now.history[-1].why.startswith("no quota yet from outside/q: OverLimit")


@pytest.mark.parametrize("seen", [PENDING, CREATED])
def test_whose_workers_were_there_keeps_them_while_others_in_lost_ones_places_get_nothing(seen: Observed) -> None:
    world = World(own_workers=True)
    world.submit(4, name="g", queue="outside/q")
    say(world, ADMITTED)
    world.act(NextTurn())
    world.act(Committed("g", group_id("1"), world.gangs["g"].moves))
    before = world.gangs["g"]
    assert not say(world, LATER, seen=seen)
    assert world.gangs["g"] == before


@pytest.mark.parametrize("ended", [False, True])
def test_there_is_no_grace_for_a_gang_whose_workers_were_ended_with_its_quota(ended: bool) -> None:
    world = World(own_workers=True)
    world.submit(4, name="g", queue="outside/q")
    say(world, ADMITTED)
    world.act(NextTurn())
    world.act(Committed("g", group_id("1"), world.gangs["g"].moves))
    say(world, replace(EVICTED, ended=ended), seen=CREATED)
    gone = "g" not in world.gangs or world.gangs["g"].releasing
    assert gone is ended
