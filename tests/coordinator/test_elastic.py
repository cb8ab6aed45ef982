"""How many workers an elastic run can have: what fits its clique, with what it has, and no more where others wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.gangs.elastic import ElasticRun
from ray_dra.core.gangs.events import QueuesDeclared
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.team_queues import TeamQueue, TeamQueues
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality, fitted
from ray_dra.core.model.request import MAX_BUNDLES
from ray_dra.errors import InvalidRequest
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator import kubernetes_world
from tests.core.machines import gang

from .test_ordinary import ACTOR, group, order
from .world import Phase, World, tray

RACK = Locality(cliques=1)
NEAR = Locality(cliques=1, required=False)


def run(locality: Locality, *, most: int, least: int = 2, gpus: int = 2, starts: bool = False) -> ElasticRun:
    return ElasticRun(gang(*[gpus] * most, name="run", locality=locality), least, "job", ACTOR, starts=starts)


def ask(world: World, asked: ElasticRun) -> int:
    """As Ray Train's controller does, which looks before."""
    world.coordinator.observe()
    return world.coordinator.workers_that_fit(asked)


def start(world: World, asked: ElasticRun, number: int, size: int) -> str:
    """It makes a placement group of so many workers; its id."""
    world.ray.actors.setdefault(ACTOR, "job")
    locality = fitted(asked.request.locality, size, one_node=False)
    request = gang(*[2] * size, name=group(number), locality=locality)
    world.submit(request, ordinary=OrdinaryGroup(group(number), ACTOR))
    return group(number)


def stranger(world: World, number: int, *sizes: int) -> str:
    """Another program's placement group; its id."""
    world.ray.jobs.add("other")
    request = gang(*sizes, name=group(number))
    world.coordinator.submit(Order(request, owner="other", ordinary=OrdinaryGroup(group(number))))
    return group(number)


def resize(world: World, asked: ElasticRun, number: int) -> tuple[int, str]:
    """What it does after a fault, and for another size: it asks, gives its group back, and makes another one."""
    size = ask(world, asked)
    world.coordinator.release(group(number - 1))
    return size, start(world, asked, number, size)


def allocation(world: World, name: str) -> Allocation | None:
    return world.coordinator.gangs[name].allocation


def nodes(world: World, name: str) -> set[str]:
    held = allocation(world, name)
    assert held is not None
    return set(held.nodes)


def lose(world: World, node: str) -> None:
    """Its raylet dies."""
    world.ray.kill_node(world.raylet(node))
    world.pass_time(1)


def back(world: World, node: str) -> None:
    world.incarnation[node] += 1
    world.ray.add_node(world.raylet(node), gpus=4, labels={"ray-dra.io/node": node})
    world.report(node)
    world.pass_time(1)


@pytest.mark.parametrize(
    ("locality", "most", "size"),
    [
        (RACK, 8, 4),
        (RACK, 3, 3),
        (NEAR, 8, 8),
        (Locality(), 6, 6),
        (Locality(segment=4), 8, 8),
        (Locality(segment=3), 6, 6),
        (Locality(cliques=2), 8, 8),
    ],
)
def test_as_many_as_lie_as_the_policy_says(locality: Locality, most: int, size: int) -> None:
    assert ask(World(), run(locality, most=most)) == size


def test_whole_segments_alone() -> None:
    world = World()
    order(world, 1, 4)  # of the four trays three are left
    assert ask(world, run(Locality(segment=4), most=8)) == 4
    assert ask(world, run(Locality(segment=2), most=8)) == 6
    assert ask(world, run(Locality(segment=2), most=8, least=7)) == 0
    assert ask(world, run(Locality(segment=4), most=8, least=5)) == 0
    order(world, 2, 4)
    order(world, 3, 4)
    assert ask(world, run(Locality(segment=4), most=8)) == 2, "fewer than a segment are one"
    assert not world.coordinator.records.kept.holding(), "it has nothing yet"


@settings(max_examples=60, deadline=None)
@given(
    others=st.lists(st.sampled_from([(1,), (2,), (3,), (4,), (2, 2), (1, 1, 1)]), max_size=4),
    locality=st.sampled_from([RACK, NEAR, Locality(), Locality(segment=2), Locality(segment=3), Locality(cliques=2)]),
    gpus=st.integers(1, 4),
    least=st.integers(0, 4),
    most=st.integers(4, 12),
)
def test_it_is_the_largest_size_that_is_planned(
    others: list[tuple[int, ...]], locality: Locality, gpus: int, least: int, most: int
) -> None:
    world = World()
    for number, sizes in enumerate(others):
        order(world, number, *sizes)
    segment = locality.segment or 1
    most -= most % segment
    found = ask(world, run(locality, most=most, least=least, gpus=gpus))
    fits = [
        size
        for size in range(max(1, least), most + 1)
        if (size <= segment or not size % segment)
        and isinstance(
            world.coordinator.plan(gang(*[gpus] * size, locality=fitted(locality, size, one_node=False))), Allocation
        )
    ]
    assert found == max(fits, default=0)
    world.check()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["lose", "back", "asks", "ends", "time"]), st.integers(0, 3)), max_size=8),
    locality=st.sampled_from([RACK, NEAR, Locality(segment=2)]),
    starts=st.booleans(),
)
def test_a_run_always_gets_at_once_what_it_was_told(
    steps: list[tuple[str, int]], locality: Locality, starts: bool
) -> None:
    """Trays come and go, and another program asks for what it can get, also while the run changes its size, or starts
    its workers once more."""
    world, asked = World(), run(locality, most=6, least=1, starts=starts)
    number, others = 0, 100
    for step, at in [("time", 0), *steps]:
        others += 1
        alive = world.ray.nodes[world.raylet(f"t{at}")].alive
        if step == "lose" and alive:
            lose(world, f"t{at}")
        elif step == "back" and not alive:
            back(world, f"t{at}")
        elif step == "asks":
            stranger(world, others, at + 1)
        elif step == "ends":
            theirs = [name for name, each in world.coordinator.gangs.items() if each.owner == "other"]
            for name in theirs[at : at + 1]:
                world.coordinator.release(name)
        world.pass_time(2)
        had = {each.id: len(each.request.bundles) for each in world.coordinator.gangs.values() if each.owner == "job"}
        size = ask(world, asked)
        if size and (starts or size not in had.values()):
            for name in had:
                world.coordinator.release(name)
            number += 1
            stranger(world, others + 1000, 4)
            name = start(world, asked, number, size)
            world.pass_time(2)
            assert allocation(world, name) is not None, (size, had)
        world.check()


def test_it_loses_a_tray_and_grows_back_in_its_clique_whoever_waits_meanwhile() -> None:
    world, asked = World(), run(RACK, most=4)
    other = order(world, 1, 4, 4)
    first = start(world, asked, 2, ask(world, asked))
    world.pass_time(2)
    assert ask(world, asked) == 4
    lost, left = sorted(nodes(world, first))
    lose(world, lost)
    waits = stranger(world, 9, 2)
    assert allocation(world, waits) is None
    size, second = resize(world, asked, 3)
    assert size == 2
    world.pass_time(3)
    assert nodes(world, second) == {left}
    world.check()

    assert ask(world, asked) == 2
    world.coordinator.release(waits)  # else it would have a part of the tray that comes back
    back(world, lost)
    size, third = resize(world, asked, 4)
    assert size == 4
    world.pass_time(3)
    assert nodes(world, third) == {lost, left}
    assert allocation(world, other) is not None
    assert not world.coordinator.records.kept.holding()
    world.check()


@pytest.mark.parametrize("locality", [RACK, NEAR, Locality(segment=2)])
def test_what_it_is_to_get_is_kept_for_it(locality: Locality) -> None:
    """Somebody else asks in between, twice: for what it gives back, and for what it is to get besides."""
    world, asked = World(), run(locality, most=4)
    order(world, 1, 4, 4)
    blocks = order(world, 2, 4)
    order(world, 3, 2, actor=ACTOR)  # something else of the same program
    world.coordinator.release(group(3))
    world.pass_time(2)
    first = start(world, asked, 3, ask(world, asked))
    world.pass_time(2)
    assert len(world.coordinator.gangs[first].request.bundles) == 2
    world.coordinator.release(blocks)
    world.pass_time(2)
    assert ask(world, asked) == 4
    world.coordinator.release(first)
    strangers = [stranger(world, 8, 2), stranger(world, 9, 4)]
    world.pass_time(3)
    assert [allocation(world, name) for name in strangers] == [None, None]
    second = start(world, asked, 4, 4)
    world.pass_time(3)
    assert allocation(world, second) is not None
    assert not world.coordinator.records.kept.holding()
    world.check()


def test_a_run_that_is_left_with_too_few_goes_on_where_there_is_room_and_has_what_it_had() -> None:
    """It keeps its group meanwhile, of which Ray keeps what is well."""
    world, asked = World(), run(NEAR, most=4, least=4, starts=True)
    order(world, 1, 4)
    blocks = order(world, 2, 4)
    first = start(world, asked, 3, ask(world, asked))
    world.pass_time(2)
    (freed,) = nodes(world, blocks)
    lost, left = sorted(nodes(world, first))
    lose(world, lost)
    for _ in range(3):
        assert ask(world, asked) == 0
        world.pass_time(1)
    world.coordinator.release(blocks)
    world.pass_time(1)
    assert ask(world, asked) == 4
    size, second = resize(world, asked, 4)
    assert size == 4
    world.pass_time(1)
    assert nodes(world, second) == {left, freed}
    world.check()


def test_a_run_that_asks_after_it_gave_its_group_back_has_what_is_kept_for_it() -> None:
    world, asked = World(), run(RACK, most=4)
    order(world, 1, 4, 4)
    first = start(world, asked, 2, ask(world, asked))
    world.pass_time(2)
    lose(world, min(nodes(world, first)))
    waits = stranger(world, 9, 2)
    world.coordinator.release(first)
    world.pass_time(2)
    assert ask(world, asked) == 2
    second = start(world, asked, 3, 2)
    assert allocation(world, second) is not None
    assert allocation(world, waits) is None
    world.check()


def test_what_is_kept_for_one_that_does_not_come_is_let_go() -> None:
    world, asked = World(), run(RACK, most=4)
    order(world, 1, 4, 4)
    blocks = order(world, 2, 4)
    start(world, asked, 3, ask(world, asked))
    world.coordinator.release(blocks)
    world.pass_time(2)
    assert ask(world, asked) == 4
    waits = stranger(world, 9, 4)
    world.pass_time(KEPT_SECONDS - 5)
    assert allocation(world, waits) is None
    world.check()
    world.pass_time(6)
    assert allocation(world, waits) is not None
    world.check()


@pytest.mark.parametrize("other", ["job", "another"])
@pytest.mark.parametrize(("limit", "most"), [(None, 5), (14, 4)])
def test_what_one_run_was_promised_another_is_not(other: str, limit: int | None, most: int) -> None:
    """Trials of one program look at about the same time. Both gave back what they had, and one of them then waited."""
    world = World()
    teams = [TeamQueue("a", limit=None if limit is None else limit * 1000)]
    world.coordinator._decide(QueuesDeclared(TeamQueues.of(teams)))
    blocks = order(world, 50, 4)
    jobs = {ACTOR: "job", "c" * 32: other}
    runs = {actor: replace(run(NEAR, most=8), owner=job, actor=actor, team="a") for actor, job in jobs.items()}

    def start_anew(number: int, actor: str, size: int) -> str:
        request = gang(*[2] * size, name=group(number), locality=NEAR)
        minted = OrdinaryGroup(group(number), actor)
        world.coordinator.submit(Order(request, owner=jobs[actor], ordinary=minted, team="a"))
        return group(number)

    for number, actor in enumerate(jobs):
        world.ray.jobs.add(jobs[actor])
        world.ray.actors[actor] = jobs[actor]
        start_anew(number, actor, 3)
    world.pass_time(2)
    world.coordinator.release(blocks)
    world.pass_time(2)
    assert [ask(world, asked) for asked in runs.values()] == [most, 3]
    world.coordinator.release(group(0))
    world.pass_time(1)
    assert ask(world, runs["c" * 32]) == 3, "it is on its way"
    bigger = start_anew(2, ACTOR, most)
    world.pass_time(1)
    assert allocation(world, bigger) is not None
    assert not world.coordinator.records.kept.holding()
    assert [ask(world, asked) for asked in runs.values()] == [most, 3]
    world.check()


def test_a_run_that_has_something_takes_nothing_for_which_a_gang_waits() -> None:
    world, asked = World(), run(RACK, most=4)
    order(world, 1, 4, 4)
    blocks = order(world, 2, 4)
    first = start(world, asked, 3, ask(world, asked))
    world.coordinator.release(blocks)
    world.submit(gang(4, 4, name="waits", locality=RACK))
    world.pass_time(2)
    assert ask(world, asked) == 2
    (lost,) = nodes(world, first)
    lose(world, lost)
    assert ask(world, asked) == 2, "but it may take another place, in its turn"
    assert world.coordinator.status("waits").phase is Phase.QUEUED
    world.check()


def silent(world: World, node: str) -> None:
    world.coordinator.report(world.raylet(node), NodeReading(error="NVML did not answer in 3 s"))


def unlinked(world: World, node: str) -> None:
    """All NVLinks of a GPU are down: it is to be drained."""
    reading = tray(node, rack=world.racks[node])
    links = tuple(replace(link, active=False) for link in reading.gpus[0].links if link)
    gpus = (replace(reading.gpus[0], links=links), *reading.gpus[1:])
    world.coordinator.report(world.raylet(node), replace(reading, gpus=gpus))


@pytest.mark.parametrize(("sign", "left"), [(silent, 2), (unlinked, 3)])
def test_a_run_that_is_well_leaves_nothing_for_what_may_pass(sign: Callable[[World, str], None], left: int) -> None:
    world, asked = World(), run(RACK, most=4)
    order(world, 1, 4, 4)
    first = start(world, asked, 2, ask(world, asked))
    world.pass_time(2)
    node = min(nodes(world, first))
    for _ in range(2):  # it comes and goes
        sign(world, node)
        assert ask(world, asked) == 4
        world.pass_time(5)
        assert ask(world, asked) == 4
        world.report(node)
        assert ask(world, asked) == 4
    sign(world, node)
    assert ask(world, asked) == 4
    world.pass_time(12)
    assert ask(world, asked) == left
    world.check()


def test_a_run_that_starts_again_asks_the_raylets_of_its_nodes_of_which_ray_has_not_heard_yet() -> None:
    world, asked = World(), run(NEAR, most=8)
    first = start(world, asked, 1, ask(world, asked))
    world.pass_time(2)
    node = min(nodes(world, first))
    raylet = world.raylet(node)
    world.ray.unreachable.add(raylet)
    assert ask(world, asked) == 8, "its workers run"
    size, second = resize(world, replace(asked, starts=True), 2)
    assert size == 6
    world.ray.kill_node(raylet)
    world.coordinator.observe()
    assert node not in nodes(world, second)
    assert len(nodes(world, second)) == 3
    world.check()


def test_a_raylet_that_does_answer_again_is_planned_on_again() -> None:
    world, asked = World(), run(NEAR, most=8, starts=True)
    start(world, asked, 1, ask(world, asked))
    world.pass_time(2)
    raylet = world.raylet("t0")
    world.ray.unreachable.add(raylet)
    assert ask(world, asked) == 6
    world.ray.unreachable.remove(raylet)
    world.pass_time(1)
    assert ask(world, asked) == 8


def test_a_run_leaves_at_once_what_does_not_pass() -> None:
    world, asked = World(), run(RACK, most=4)
    order(world, 1, 4, 4)
    first = start(world, asked, 2, ask(world, asked))
    world.pass_time(2)
    node = min(nodes(world, first))
    world.report(node, xids=(79,))
    assert ask(world, asked) == 3
    world.check()


def test_what_is_no_run_is_refused() -> None:
    world, asked = World(), run(RACK, most=4)
    wrong: list[object] = [None, "run", replace(asked, least=-1), replace(asked, owner="")]
    wrong += [replace(asked, actor=3), replace(asked, starts=3)]  # type: ignore[arg-type]
    for each in wrong:
        with pytest.raises(InvalidRequest):
            world.coordinator.workers_that_fit(each)  # type: ignore[arg-type]


def test_on_kubernetes_it_counts_the_nodes_on_which_workers_can_be_made() -> None:
    """From an empty cluster; a cordoned node is left once the cordon has stood, and had again after it."""
    world = kubernetes_world.World()
    world.ray.actors[ACTOR] = "job"
    request = request_from_bundles([{"GPU": 2.0}] * 4, locality=RACK)
    asked = ElasticRun(replace(request, gang="run"), 2, "job", ACTOR)

    def sized(number: int, size: int) -> set[str]:
        name = group(number)
        made = replace(request, gang=name, bundles=request.bundles[:size])
        world.coordinator.submit(Order(made, owner="job", ordinary=OrdinaryGroup(name, ACTOR)))
        for _ in range(80):
            world.turn()
        assert world.coordinator.status(name).phase is Phase.READY, world.coordinator.status(name).lost
        held = world.coordinator.gangs[name].allocation
        assert held is not None
        return set(held.nodes)

    def resized(number: int, size: int) -> set[str]:
        assert world.coordinator.workers_that_fit(asked) == size
        world.coordinator.release(group(number - 1))
        return sized(number, size)

    other = world.order()
    world.coordinator.submit(other)
    assert world.drive(other.request.gang) is Phase.READY
    assert world.coordinator.workers_that_fit(asked) == 4
    rack = sized(101, 4)  # other numbers than Ray gives
    cordoned = min(rack)
    world.kube.cordon(cordoned)
    world.turn()
    assert world.coordinator.workers_that_fit(asked) == 4
    for _ in range(30):
        world.turn()
    assert resized(102, 2) == rack - {cordoned}
    world.kube.cordon(cordoned, closed=False)
    world.turn()
    assert resized(103, 4) == rack


def test_a_run_has_no_more_workers_than_its_teams_limit_leaves() -> None:
    """A group of more would wait for ever, and the run with it."""
    world = World()
    world.coordinator._decide(QueuesDeclared(TeamQueues.of([TeamQueue("a", limit=10_000), TeamQueue("b")])))
    asked = replace(run(NEAR, most=8, least=1), team="a")
    assert ask(world, asked) == 5
    assert ask(world, replace(asked, team="b")) == 8
    assert ask(world, replace(asked, team="not declared")) == 0
    world.submit(gang(4, name="other"), team="a")
    assert ask(world, asked) == 3
    world.ray.actors[ACTOR] = "job"
    world.submit(gang(2, 2, name=group(1)), ordinary=OrdinaryGroup(group(1), ACTOR), team="a")
    assert ask(world, asked) == 3, "what it has counts as free for it"
    world.submit(gang(1, name="more"), team="a")
    assert ask(world, asked) == 2


def test_a_run_of_as_many_workers_as_a_group_can_have_keeps_the_coordinator_for_no_time() -> None:
    """Each size was tried: minutes, with 10,000 workers and a limit, or with a gang that waits."""
    world = World()
    world.coordinator._decide(QueuesDeclared(TeamQueues.of([TeamQueue("a", limit=10_000)])))
    one = gang(1)
    asked = replace(run(NEAR, most=1), request=replace(one, bundles=one.bundles * MAX_BUNDLES))
    start(world, run(RACK, most=2), 1, 2)
    world.submit(gang(4, 4, 4, 4, name="waits"))
    world.pass_time(2)
    before = time.process_time()
    assert ask(world, replace(asked, least=1, team="a")) == 4
    assert ask(world, replace(asked, least=1)) == 4
    assert time.process_time() - before < 20
