"""What a gang prefers: where it is met, what is waited for, and linked GPUs for bundles of one each."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.events import NextTurn, ReleaseAsked, Submitted
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.patience import WORTH, Patience, Worth, as_preferred, in_turn, patience_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS, Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.core.planner.work import STEPS, Work
from ray_dra.errors import InvalidRequest
from tests.core.checks import check
from tests.core.gangs.world import World
from tests.core.machines import DGX1, gang, node, one_clique, rack

NEAR = Locality(cliques=1, required=False)


@given(
    busy=st.lists(st.integers(0, 15), min_size=7, max_size=7),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    locality=st.sampled_from([Locality(cliques=1), Locality(cliques=2), Locality(segment=1), Locality(segment=2)]),
    limits=st.sampled_from([NO_LIMITS, IMEX_LIMITS]),
    uneven=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_strict_is_required_where_it_fits_and_the_preferred_answer_then(
    busy: list[int], sizes: list[int], locality: Locality, limits: Limits, uneven: bool
) -> None:
    if locality.segment is not None and len(sizes) % locality.segment:
        locality = Locality(segment=1)
    machines = [*rack("a", 3), *rack("b", 2), node("box", 8, box=True), node("loose", 4)]
    if uneven:
        machines.append(node("dgx", 8, links=DGX1))
    inventory = Inventory(machines, limits)
    for name, mask in zip(("a-t0", "a-t1", "a-t2", "b-t0", "b-t1", "box", "loose"), busy, strict=True):
        inventory.set_others(name, mask, {})
    required = gang(*sizes, locality=locality)
    preferred = replace(required, locality=replace(locality, required=False))
    strict, must = plan(inventory, preferred, strict=True), plan(inventory, required)
    if isinstance(must, Allocation):
        assert isinstance(strict, Allocation), "what would be met if it were required is met"
    if isinstance(strict, Allocation):
        check(strict, inventory, preferred)
        assert strict == plan(inventory, preferred), "who can wait gets nothing else where there is no need to"
    if len(sizes) > 1 and not uneven:
        assert isinstance(strict, Allocation) == isinstance(must, Allocation)
    if isinstance(strict, Unsatisfiable):
        assert strict.shortfalls


@pytest.mark.parametrize("bundles", [2, 3, 4])
def test_bundles_of_one_gpu_lie_on_linked_gpus_of_a_dgx1_wherever_there_are_so_many(bundles: int) -> None:
    """All sets of free GPUs, against trying every subset."""
    request = gang(*[1] * bundles, locality=one_clique(required=False))
    for free in range(1 << 8):
        positions = [i for i in range(8) if free >> i & 1]
        if len(positions) < bundles:
            continue
        inventory = Inventory([node("dgx", 8, links=DGX1)])
        inventory.set_others("dgx", ~free & 0xFF, {})
        possible = any(
            all(DGX1[i][j] for i, j in combinations(chosen, 2)) for chosen in combinations(positions, bundles)
        )
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation), "preferred, not required"
        check(answer, inventory, request)
        given = [grant.position for grant in answer.grants]
        assert all(DGX1[i][j] for i, j in combinations(given, 2)) == possible, (positions, given)
        assert isinstance(plan(inventory, request, strict=True), Allocation) == possible


def test_the_bundles_other_resources_count_together() -> None:
    machine = node("dgx", 8, links=DGX1, resources={"CPU": 10.0})
    fits = plan(Inventory([machine]), gang(1, 1, resources={"CPU": 5.0}, locality=one_clique(required=False)))
    assert isinstance(fits, Allocation)
    assert [placed.resources for placed in fits.bundles] == [{"CPU": 5.0}] * 2
    short = gang(1, 1, resources={"CPU": 6.0}, locality=one_clique(required=False))
    assert isinstance(plan(Inventory([machine]), short), Unsatisfiable)


def test_products_of_linked_bundles() -> None:
    inventory = Inventory([node("x", 8, links=DGX1, product="X"), node("y", 8, links=DGX1, product="Y")])
    request = GangRequest("g", (Bundle((DeviceRequest(1, products=("Y",)),)),) * 2, one_clique(required=False))
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation)
    assert set(answer.nodes) == {"y"}


# -- patience


class Turns:
    """One gang of whole trays at the head of a queue; two racks of two."""

    def __init__(self, patience: float, *taken: str, trays: int = 2) -> None:
        self.inventory = Inventory([*rack("a", 2), *rack("b", 2)])
        for name in taken:
            self.inventory.set_others(name, 0b1111, {})
        self.request = gang(*[4] * trays, locality=Locality(cliques=1, required=False, patience=patience))
        self.since: float | None = None

    def ask(self, now: float) -> Allocation | Unsatisfiable:
        def place(strict: bool) -> Allocation | Unsatisfiable:
            return plan(self.inventory, self.request, strict=strict)

        answer, self.since = in_turn(self.inventory, self.request, self.since, now, place)
        return answer


def test_in_turn_it_waits_so_long_and_no_longer() -> None:
    turns = Turns(10.0, "a-t0", "b-t0")
    for now in (5.0, 14.9):
        answer = turns.ask(now)
        assert isinstance(answer, Unsatisfiable)
        assert [s.kind for s in answer.shortfalls] == [ShortfallKind.CLIQUE, ShortfallKind.PATIENCE]
    assert isinstance(turns.ask(15.0), Allocation)


def test_in_turn_it_takes_what_it_prefers_at_once() -> None:
    assert isinstance(Turns(10.0).ask(0.0), Allocation)
    turns = Turns(10.0, "a-t0", "b-t0")
    turns.ask(0.0)
    turns.inventory.set_others("b-t0", 0, {})
    answer = turns.ask(1.0)
    assert isinstance(answer, Allocation)
    assert set(answer.cliques) == {"b"}


def test_in_turn_without_patience_or_hope_it_does_not_wait() -> None:
    assert isinstance(Turns(0.0, "a-t0", "b-t0").ask(0.0), Allocation)
    assert isinstance(Turns(10.0, "a-t0", trays=3).ask(0.0), Allocation), "no rack has three trays"


def test_in_turn_the_clock_starts_with_the_first_chance() -> None:
    turns = Turns(10.0, "a-t0", "b-t0", "b-t1")
    assert isinstance(answer := turns.ask(0.0), Unsatisfiable)
    assert ShortfallKind.PATIENCE not in {s.kind for s in answer.shortfalls}
    assert turns.since is None
    turns.inventory.set_others("b-t1", 0, {})
    assert isinstance(turns.ask(20.0), Unsatisfiable)
    assert isinstance(turns.ask(30.0), Allocation)


def test_patience_is_for_what_is_preferred() -> None:
    assert str(Locality(cliques=1, required=False, patience=30)) == "one clique (preferred, waited for 30 s)"
    linked = Locality(connect=Connect.REQUIRED)
    assert (linked & Locality(cliques=1, required=False, patience=30)).patience == 30
    for bad in (
        Locality(cliques=1, patience=1.0),
        Locality(required=False, patience=1.0),
    ):
        with pytest.raises(InvalidRequest, match="atience"):
            gang(1, locality=bad)
    for seconds in (-1.0, float("inf"), True):
        with pytest.raises(InvalidRequest, match="patience"):
            Locality(cliques=1, required=False, patience=seconds)
    with pytest.raises(InvalidRequest, match="contradict"):
        _ = Locality(cliques=1, required=False, patience=1) & Locality(segment=2, required=False, patience=2)


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("connect", list(Connect))
@pytest.mark.parametrize(
    "sizes", [(2,), (1, 1), (1, 0, 0, 1), (2, 0), (1, 0), (1, 1, 1), (2, 1, 1), (3, 2), (3, 0, 1), (1, 3, 1)]
)
def test_one_node_whose_gpus_are_linked_is_as_near_as_a_clique(
    sizes: tuple[int, ...], connect: Connect, strategy: Strategy
) -> None:
    """Bridged pairs and meshes of four are in no clique; bundles that differ, and CPUs elsewhere, change nothing."""
    pair, box = [[0, 4], [4, 0]], [[0 if i == j else 4 for j in range(4)] for i in range(4)]
    bundles = tuple(Bundle((DeviceRequest(size),)) if size else Bundle(resources={"CPU": 40.0}) for size in sizes)
    request = GangRequest("g", bundles, one_clique(required=False, connect=connect), strategy)
    machines = {
        "bridged": [node(f"pair{i}", 2, links=tuple(map(tuple, pair))) for i in range(3)],
        "mesh": [node(f"mesh{i}", 4, links=tuple(map(tuple, box))) for i in range(3)],
        "dgx": [node("dgx", 8, links=DGX1), node("cpu0", 0), node("cpu1", 0)],
        "apart": [node(f"apart{i}", 4) for i in range(3)],
    }
    most = {"bridged": 2, "mesh": 4, "dgx": 4, "apart": 1}
    apart = strategy is Strategy.STRICT_SPREAD
    bare = len([size for size in sizes if not size])
    one_node = strategy is not Strategy.STRICT_PACK or bare < 2
    for name, nodes in machines.items():
        possible = sum(sizes) <= most[name] and one_node and not (apart and len(sizes) - bare > 1)
        if possible and apart:
            possible = len(sizes) <= len(nodes)
        inventory = Inventory(nodes)
        answer = plan(inventory, request, strict=True)
        assert isinstance(answer, Allocation) == possible, (name, answer)
        if isinstance(answer, Allocation):
            check(answer, inventory, request)
            assert len({grant.node for grant in answer.grants}) == 1
            links = inventory.node_states[answer.grants[0].node].node.links
            assert all(links[a.position][b.position] for a, b in combinations(answer.grants, 2))


def test_looking_for_linked_gpus_leaves_steps_to_look_anywhere() -> None:
    """As with 12,500 nodes and all steps."""
    inventory = Inventory([node(f"d{i}", 8, links=DGX1) for i in range(500)])
    for at in range(500):
        inventory.set_others(f"d{at}", 0b01111110 if at % 2 else 0b10111101, {})
    request = gang(2, 1, 0, resources={"CPU": 1}, locality=one_clique(required=False))
    for _ in range(2):
        answer = plan(inventory, request, work=Work(STEPS // 25))
        assert isinstance(answer, Allocation)
        check(answer, inventory, request)
        inventory.set_others("d7", 0, {"CPU": 64.0})  # then enough GPUs on one node, but not with the CPUs


# -- patience by what a clique is worth


def test_a_wait_is_over_when_it_is_not_worth_it_any_more() -> None:
    """1,000 s at half the speed outside: a clique is worth 1,000 s, and a tenth of that where nobody can tell."""
    patience = patience_of(NEAR, 1000.0, Worth(speed=0.5))
    assert patience == Patience(1000.0, 100.0)
    assert patience.until(50.0, 700.0) == 700.0, "it waits for the clique"
    assert patience.until(50.0, 1051.0) == 50.0, "and not for one that comes too late"
    assert patience.until(50.0, None) == 150.0
    assert patience_of(replace(NEAR, outside_speed=0.8), 1000.0, Worth(speed=0.5)) == Patience(250.0, 100.0)
    assert patience_of(replace(NEAR, outside_speed=1.0), 1000.0, WORTH).most == 0.0
    for none in (None, WORTH):
        assert patience_of(replace(NEAR, patience=7.0), 1000.0, none) == Patience(7.0)
        assert patience_of(replace(NEAR, patience=0.0), 1000.0, none) == Patience()
        assert patience_of(Locality(cliques=1), 1000.0, none) == patience_of(Locality(), 1000.0, none) == Patience()
    assert patience_of(NEAR, 1000.0, None) == patience_of(NEAR, None, WORTH) == Patience()


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((100.0, 2000.0), 100.0),  # the first rack is free at 100, and that is worth it
        ((1200.0, 2000.0), 0.0),  # 1,200 s are more than it would lose
        ((None, None), 50.0),  # nobody can tell: a tenth
        ((100.0, None), 100.0),
    ],
)
def test_a_gang_waits_while_it_would_end_sooner_in_a_clique(
    others: tuple[float | None, float | None], expected: float
) -> None:
    """Two racks of two trays, one tray taken in each; the gang runs 500 s, and 1,200 s outside of a rack."""
    world = World(machines=[*rack("a", 2), *rack("b", 2)])
    for (name, tray), runs_for in zip((("one", "a-t0"), ("two", "b-t0")), others, strict=True):
        elsewhere = frozenset({"a-t0", "a-t1", "b-t0", "b-t1"} - {tray})
        world.act(Submitted(Order(replace(gang(4, name=name), exclude=elsewhere), runs_for=runs_for)))
    world.submit(4, 4, name="g", locality=NEAR, runs_for=500.0)
    held = world.gangs["g"].allocation
    for now in (0.0, 49.0, 50.0, 99.0, 100.0):
        world.now = now
        if now == 100.0 and others[0] == now:
            world.act(ReleaseAsked("one"))
        while world.act(NextTurn()):
            pass
        held = world.gangs["g"].allocation
        assert (held is not None) == (now >= expected), now
        if held is not None:
            break
    assert held is not None
    assert (len(set(held.cliques)) == 1) is (expected == 100.0)
    slower = 1.0 if expected == 100.0 else 2.4
    assert world.gangs["g"].ends == pytest.approx(world.now + 500.0 * slower)


def test_it_does_not_wait_longer_than_a_clique_is_worth_whoever_overruns() -> None:
    """Each time somebody overruns another rack seems to be near: it would wait for ever."""
    world = World(machines=[*rack("a", 2), *rack("b", 2), *rack("c", 2)], worth=Worth(speed=0.5, share=0.0))
    trays = {f"{r}-t{t}" for r in "abc" for t in range(2)}
    for tray, runs_for in (("a-t0", 90.0), ("b-t0", 95.0), ("c-t0", 300.0)):
        world.act(Submitted(Order(replace(gang(4, name=tray), exclude=frozenset(trays - {tray})), runs_for=runs_for)))
    world.submit(4, 4, name="g", locality=NEAR, runs_for=100.0)
    began = None
    for now in range(300):
        world.now = float(now)
        while world.act(NextTurn()):
            pass
        if world.gangs["g"].allocation is not None:
            began = now
            break
    assert began == 99, "from then on those who overrun are expected after 100"


def test_worth_can_be_off() -> None:
    world = World(machines=[*rack("a", 2), *rack("b", 2)], worth=None)
    for name, rest in (("one", {"a-t1", "b-t0", "b-t1"}), ("two", {"a-t0", "a-t1", "b-t1"})):
        world.act(Submitted(Order(replace(gang(4, name=name), exclude=frozenset(rest)), runs_for=10.0)))
    world.submit(4, 4, name="g", locality=NEAR, runs_for=500.0)
    assert world.gangs["g"].allocation is not None
    assert world.gangs["g"].ends == 500.0


@pytest.mark.parametrize("cliques", [1, 2])
def test_what_was_got_is_what_is_preferred_where_a_strict_plan_says_so(cliques: int) -> None:
    dice = random.Random(cliques)
    yes = no = 0
    for _ in range(300):
        inventory = Inventory([*rack("a", 2), *rack("b", 2), *rack("c", 2)])
        for tray in inventory.node_states:
            inventory.set_others(tray, dice.choice((0, 0, 1, 15)), {})
        segment = dice.choice((None, 1, 2))
        near = Locality(cliques=cliques if segment is None else None, segment=segment, required=False)
        request = gang(*[dice.randint(1, 4)] * dice.choice((2, 4)), locality=near)
        answer = plan(inventory, request)
        if isinstance(answer, Allocation):
            preferred = isinstance(plan(inventory, request, strict=True), Allocation)
            assert as_preferred(answer, near) is preferred
            yes, no = yes + preferred, no + (not preferred)
    assert min(yes, no) > 10


def test_a_no_to_what_is_preferred_says_what_it_lacks_also_of_a_gang_with_a_speed_of_its_own() -> None:
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    for tray in ("a-t0", "b-t0"):
        inventory.set_others(tray, 15, {})
    request = gang(4, 4, locality=replace(NEAR, outside_speed=0.5))
    answer, brief = plan(inventory, request, strict=True), plan(inventory, request, strict=True, explain=False)
    assert isinstance(answer, Unsatisfiable)
    assert ShortfallKind.CLIQUE in {shortfall.kind for shortfall in answer.shortfalls}
    assert brief == Unsatisfiable(request.gang, ())
