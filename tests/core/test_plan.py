"""How the planner chooses: golden plans for named machines, determinism, room left for others."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.cluster.clique_state import CLIQUE, LOOSE_NODE
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.clique import label_value
from ray_dra.core.model.device import Health
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.model.topology import Topology
from ray_dra.core.plan import plan
from ray_dra.core.planner.capacity import Capacities
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.scope import Scope
from ray_dra.errors import InvalidRequest
from ray_dra.translate.ray.bundles import bundle_from_resources

from .machines import DGX1, gang, node, one_clique, picture, rack


def positions(answer: Allocation | Unsatisfiable) -> list[tuple[str, list[int]]]:
    assert isinstance(answer, Allocation), answer
    return [(p.node, [g.position for g in p.grants]) for p in answer.bundles]


def test_golden_dgx1_best_quads_and_pairs() -> None:
    """The best quads are 0-3 and 4-7 (9 links each); a pair without a link is never taken when links are required."""
    linked = Locality(connect=Connect.REQUIRED)
    inventory = Inventory([node("dgx", 8, links=DGX1, numa=[0] * 4 + [1] * 4)])
    assert positions(plan(inventory, gang(4, 4, locality=linked))) == [("dgx", [0, 1, 2, 3]), ("dgx", [4, 5, 6, 7])]
    assert positions(plan(inventory, gang(4))) == [("dgx", [0, 1, 2, 3])]
    inventory.set_others("dgx", 0b01111110, {})  # free: 0 and 7, which have no link
    assert positions(plan(inventory, gang(2))) == [("dgx", [0, 7])]
    answer = plan(inventory, gang(2, locality=linked))
    assert isinstance(answer, Unsatisfiable)
    assert answer.shortfalls[0].kind is ShortfallKind.CONNECTED
    assert answer.shortfalls[0].available == 1


def test_golden_bridged_pairs() -> None:
    pairs = tuple(tuple(12 if i != j and i // 2 == j // 2 else 0 for j in range(8)) for i in range(8))
    inventory = Inventory([node("pcie", 8, links=pairs)])
    inventory.set_others("pcie", 0b00000001, {})
    assert positions(plan(inventory, gang(2, 1))) == [("pcie", [2, 3]), ("pcie", [1])]


def test_golden_numa_inside_a_tray() -> None:
    """Two GPUs of one tray come from one CPU, and the fuller CPU is used up first."""
    inventory = Inventory(rack("c", 1))
    inventory.set_others("c-t0", 0b0001, {})
    assert positions(plan(inventory, gang(2))) == [("c-t0", [2, 3])]
    assert positions(plan(inventory, gang(1))) == [("c-t0", [1])]


def test_golden_degraded_box() -> None:
    """Seven in the clique: 7 fit one clique, 8 only outside of it."""
    inventory = Inventory([node("b", 8, box=True, loose=[2])])
    assert positions(plan(inventory, gang(7, locality=one_clique()))) == [("b", [0, 1, 3, 4, 5, 6, 7])]
    assert isinstance(plan(inventory, gang(8, locality=one_clique())), Unsatisfiable)
    assert positions(plan(inventory, gang(8))) == [("b", list(range(8)))]


def test_golden_rack_in_topology_order() -> None:
    inventory = Inventory(reversed(rack("c", 12)))
    answer = plan(inventory, gang(*[4] * 12, locality=one_clique()))
    assert [n for n, _ in positions(answer)] == [f"c-t{i}" for i in range(12)], "tray 2 before tray 10"


def test_the_tightest_clique_is_taken_and_whole_ones_are_spared() -> None:
    inventory = Inventory([*rack("a", 4), *rack("b", 4), *rack("c", 4)])
    first = plan(inventory, gang(4, 4, name="first"))
    assert isinstance(first, Allocation)
    inventory.hold(first)
    second = plan(inventory, gang(4, name="second"))
    assert isinstance(second, Allocation)
    assert second.cliques[0] == first.cliques[0], "the clique in use, not a fresh one"
    small = plan(inventory, gang(2, 1, name="small", locality=one_clique(required=False)))
    assert isinstance(small, Allocation)
    assert set(small.cliques) == {first.cliques[0]}
    big = plan(inventory, gang(*[4] * 4, name="big", locality=one_clique()))
    assert isinstance(big, Allocation)
    assert big.cliques[0] != first.cliques[0]


@pytest.mark.parametrize("locality", [Locality(), Locality(cliques=2), Locality(segment=1)], ids=str)
def test_of_several_cliques_the_last_is_the_tightest_that_takes_the_rest(locality: Locality) -> None:
    """Cliques of 4, 3 and 1 trays, 5 bundles: four on the roomiest, and the fifth where nobody else would fit."""
    inventory = Inventory([*rack("a", 4), *rack("b", 3), *rack("c", 1)])
    answer = plan(inventory, gang(*[4] * 5, locality=locality))
    assert isinstance(answer, Allocation)
    assert answer.cliques == ("a", "a", "a", "a", "c")


def test_a_gang_without_wishes_stays_together_and_spills_only_when_it_must() -> None:
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    assert isinstance(answer := plan(inventory, gang(4, 4)), Allocation)
    assert len(set(answer.cliques)) == 1
    assert isinstance(answer := plan(inventory, gang(4, 4, 4)), Allocation)
    assert len(set(answer.cliques)) == 2


def test_a_lost_node_may_come_back_into_a_clique_that_was_given_away_whole() -> None:
    """Its gang has its device again, and both are held anew from their records after a restart."""
    machines = [node(f"a-t{at}", 4, clique="a", order=at) for at in range(3)]
    inventory = Inventory(machines)
    first = plan(inventory, gang(2, name="first"))
    assert isinstance(first, Allocation)
    inventory.hold(first)
    (lost,) = (machine for machine in machines if machine.name == first.nodes[0])
    inventory.drop_node(lost.name)
    alone = plan(inventory, gang(4, name="alone", locality=Locality(cliques=1, exclusive=True)))
    assert isinstance(alone, Allocation)
    inventory.hold(alone)
    inventory.put_node(lost)
    for order in ((first, alone), (alone, first)):
        fresh = Inventory(machines)
        for allocation in order:
            fresh.hold(allocation)
        assert picture(fresh) == picture(inventory)
    assert isinstance(plan(inventory, gang(1, name="third")), Unsatisfiable)


def test_exclusive_cliques_are_kept_free_of_others() -> None:
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    alone = plan(inventory, gang(4, name="alone", locality=Locality(cliques=1, exclusive=True)))
    assert isinstance(alone, Allocation)
    inventory.hold(alone)
    mine = alone.cliques[0]
    for name in ("x", "y"):
        other = plan(inventory, gang(4, name=name))
        assert isinstance(other, Allocation)
        assert other.cliques[0] != mine
        inventory.hold(other)
    refused = plan(inventory, gang(1, locality=Locality(cliques=1, exclusive=True)))
    assert isinstance(refused, Unsatisfiable)
    assert refused.shortfalls[-1].kind is ShortfallKind.EXCLUSIVE
    inventory.release("alone")
    assert isinstance(plan(inventory, gang(4)), Allocation)


def test_unknown_is_no_clique() -> None:
    inventory = Inventory([node("a", 4), node("b", 4)])
    answer = plan(inventory, gang(2, 2, locality=one_clique()))
    assert isinstance(answer, Unsatisfiable)
    assert answer.shortfalls[0].kind is ShortfallKind.CLIQUE_UNKNOWN
    assert isinstance(plan(inventory, gang(4, 4)), Allocation)


def test_products_are_matched_whole() -> None:
    inventory = Inventory([node("a", 4, product="NVIDIA GH200 480GB")])
    answer = plan(inventory, gang(1, products=("NVIDIA H200",)))
    assert isinstance(answer, Unsatisfiable)
    assert answer.shortfalls[0].kind is ShortfallKind.PRODUCT
    assert answer.shortfalls[0].available == ("NVIDIA GH200 480GB",)
    assert isinstance(plan(inventory, gang(1, products=("NVIDIA GH200 480GB",))), Allocation)


def test_unhealthy_devices_are_given_to_nobody() -> None:
    inventory = Inventory([node("a", 4, box=True, sick=[1])])
    assert positions(plan(inventory, gang(3))) == [("a", [0, 2, 3])]
    assert isinstance(plan(inventory, gang(4)), Unsatisfiable)


def test_spread_is_best_effort_and_strict_spread_is_not() -> None:
    inventory = Inventory(rack("a", 2))
    assert isinstance(answer := plan(inventory, gang(1, 1, strategy=Strategy.SPREAD)), Allocation)
    assert len(set(answer.nodes)) == 2
    assert isinstance(plan(inventory, gang(1, 1, 1, strategy=Strategy.SPREAD)), Allocation)
    refused = plan(inventory, gang(1, 1, 1, strategy=Strategy.STRICT_SPREAD))
    assert isinstance(refused, Unsatisfiable)
    assert refused.shortfalls[0].kind is ShortfallKind.NODES


@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    cliques=st.sampled_from([None, 1, 2]),
    required=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_the_same_answer_whatever_the_input_order(
    seed: int, sizes: list[int], cliques: int | None, required: bool
) -> None:
    """Same nodes in another order, built at once or joined one by one, the same holds: the same plan."""
    nodes: list[Node] = [*rack("a", 3), *rack("b", 2), node("box", 8, box=True), node("loose", 2)]
    shuffled = list(nodes)
    random.Random(seed).shuffle(shuffled)
    request = gang(*sizes, locality=Locality(cliques=cliques, required=required))
    before = gang(3, 2, name="before")
    answers = []
    for inventory in (Inventory(Topology.of(nodes)), Inventory(shuffled)):
        if seed % 2:
            plan(inventory, gang(2, 2, name="asked before"))
        held = plan(inventory, before)
        assert isinstance(held, Allocation)
        inventory.hold(held)
        answers.append(plan(inventory, request))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "bad", [{}, {"GPU": 0}, {"GPU": -2}, {"GPU": 0.5}, {"GPU": float("nan")}, {"GPU": "1"}, {"CPU": 0}]
)
def test_bad_bundles(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bundle_from_resources(bad, index=3)
    assert "bundles[3]" in caught.value.place


@given(st.text(min_size=1, max_size=200))
def test_label_values_are_labels(text: str) -> None:
    value = label_value(text)
    assert 1 <= len(value) <= 63
    assert all(c.isascii() and (c.isalnum() or c in "-._") for c in value)
    assert value[0].isalnum()
    assert value[-1].isalnum()
    assert label_value(value) == value


class Books(RuleBasedStateMachine):
    """Holds, releases, nodes that join, change and leave: the incremental index equals one built afresh."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {n.name: n for n in [*rack("a", 3), *rack("b", 2), node("box", 8, box=True, loose=[2])]}
        self.inventory = Inventory(self.nodes.values(), Limits(compute_domains=True, domain_nodes=2))
        self.held: dict[str, Allocation] = {}
        self.busy: dict[str, int] = {}
        self.away: dict[str, Node] = {}
        self.count = 0

    @rule(
        sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
        cliques=st.sampled_from([None, 1, 2]),
        exclusive=st.booleans(),
        share=st.sampled_from([None, None, 250, 400]),
        cpus=st.sampled_from([0, 0, 7]),
    )
    def hold(self, sizes: list[int], cliques: int | None, exclusive: bool, share: int | None, cpus: int) -> None:
        self.count += 1
        locality = Locality(cliques=cliques, exclusive=exclusive and cliques is not None)
        resources = {"CPU": cpus} if cpus else {}
        request = gang(*sizes, name=f"g{self.count}", locality=locality, resources=resources)
        if share is not None:
            parts = tuple(Bundle((DeviceRequest(1, share=share),), resources) for _ in sizes)
            request = replace(request, bundles=(*parts, *request.bundles[1:]))
        answer = plan(self.inventory, request)
        if isinstance(answer, Allocation):
            self.inventory.hold(answer)
            self.held[answer.gang] = answer
            with pytest.raises(ValueError, match="already"):
                self.inventory.hold(answer)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.inventory.release(name)
        self.inventory.release(name)
        del self.held[name]

    @rule(at=st.integers(0, 5), sick=st.integers(0, 3))
    def change(self, at: int, sick: int) -> None:
        name = sorted(self.nodes)[at % len(self.nodes)]
        before = self.nodes[name]
        gpus = len(before.devices)
        clique = before.clique
        box = clique is not None and clique.startswith("box.")
        loose = [i for i, d in enumerate(before.devices) if d.clique is None]
        changed = node(
            name, gpus, clique=None if box else clique, box=box, loose=loose, sick=[sick], order=before.order
        )
        self.nodes[name] = changed
        self.inventory.put_node(changed)

    @rule(at=st.integers(0, 5), mask=st.integers(0, 15))
    def others(self, at: int, mask: int) -> None:
        name = sorted(self.nodes)[at % len(self.nodes)]
        self.busy[name] = mask
        self.inventory.set_others(name, mask, {})

    @precondition(lambda self: len(self.nodes) > 2)
    @rule(at=st.integers(0, 5))
    def leave(self, at: int) -> None:
        name = sorted(self.nodes)[at % len(self.nodes)]
        self.away[name] = self.nodes.pop(name)
        self.busy.pop(name, None)
        self.inventory.drop_node(name)

    @precondition(lambda self: self.away)
    @rule(at=st.integers(0, 5))
    def join(self, at: int) -> None:
        """A node comes back; whoever had devices there has them again."""
        name = sorted(self.away)[at % len(self.away)]
        self.nodes[name] = self.away.pop(name)
        self.inventory.put_node(self.nodes[name])

    @invariant()
    def the_index_is_what_a_fresh_one_would_be(self) -> None:
        fresh = Inventory(self.nodes.values(), self.inventory.limits)
        for allocation in self.held.values():
            fresh.hold(allocation)
        for name, mask in self.busy.items():
            fresh.set_others(name, mask, {})
        assert picture(self.inventory) == picture(fresh)
        for wanted in range(1, 9):
            # The quick look-up of a single node is the head of the order in which nodes are taken.
            capacities = Capacities(self.inventory, FoldedRequest(gang(wanted)), Scope((CLIQUE, LOOSE_NODE)))
            found = capacities.one_by_count(capacities.orders, wanted)
            first = next(capacities.levels(capacities.orders, wanted), None)
            assert (found is None) is (first is None)
            if found is not None and first is not None:
                assert found[0] is first[0]
                assert found[1].free & found[1].members[found[0].id]
                assert (found[1].free & found[1].members[found[0].id]).bit_count() == first[1] >= wanted
        self._count_anew()
        devices = [g.device for a in self.held.values() for g in a.grants if g.amount is None]
        assert len(set(devices)) == len(devices)
        for device in devices[:1]:
            if device.pool in self.nodes:
                assert self.inventory.owner_of(device) in self.held
        for name, there in self.nodes.items():
            state = self.inventory.node_states[name]
            sick = sum(1 << at for at, device in enumerate(there.devices) if device.health is not Health.OK)
            assert not state.free & sick, "a device that is not well is free for nobody"

    def _count_anew(self) -> None:
        """What the index keeps up is what its nodes, the holds and others' work say, counted from nothing."""
        inventory = self.inventory
        states = inventory.node_states
        assert set(states) == set(self.nodes)
        held = dict.fromkeys(self.nodes, 0)
        shares: dict[tuple[str, int], int] = {}
        used: dict[str, float] = dict.fromkeys(self.nodes, 0.0)
        for allocation in self.held.values():
            for placed in allocation.bundles:
                if placed.node in self.nodes:
                    used[placed.node] += placed.resources.get("CPU", 0.0)
                for grant in placed.grants:
                    if placed.node in self.nodes and grant.amount is None:
                        held[placed.node] |= 1 << grant.position
                    elif placed.node in self.nodes and grant.amount is not None:
                        at = (placed.node, grant.position)
                        shares[at] = shares.get(at, 0) + grant.amount
        alone = {scope for a in self.held.values() for (scope, what), _ in a.counters if what == "exclusive"}
        free, open_to_shares = {}, {}
        for name, there in self.nodes.items():
            well = sum(1 << at for at, device in enumerate(there.devices) if device.health is Health.OK)
            busy = self.busy.get(name, 0)
            shared = sum(1 << at for node_name, at in shares if node_name == name)
            closed = sum(1 << at for at, device in enumerate(there.devices) if device.clique in alone)
            open_to_shares[name] = well & ~busy & ~held[name] & ~closed
            free[name] = open_to_shares[name] & ~shared
            state = states[name]
            assert (state.held, state.busy, state.free) == (held[name], busy, free[name])
            assert state.shares == {at: amount for (node_name, at), amount in shares.items() if node_name == name}
            assert state.used.get("CPU", 0.0) == used[name]
        assert inventory.devices == sum(len(there.devices) for there in self.nodes.values())
        assert inventory.free_devices == sum(mask.bit_count() for mask in free.values())
        assert inventory.held_devices == sum(mask.bit_count() for mask in held.values())
        assert inventory.busy_devices == sum(self.busy.get(name, 0).bit_count() for name in self.nodes)
        counts = [mask.bit_count() for mask in free.values()]
        assert {f: n for f, n in enumerate(inventory.by_free) if n} == {f: counts.count(f) for f in counts}
        assert inventory.shared == sorted(
            (1000 - amount, states[name].key, at, name)
            for (name, at), amount in shares.items()
            if amount < 1000 and open_to_shares[name] >> at & 1
        )
        for clique in inventory.clique_states.values():
            members = {
                name: sum(1 << at for at, d in enumerate(there.devices) if d.clique == clique.id)
                for name, there in self.nodes.items()
            }
            if clique.kind != CLIQUE:
                continue
            inside = [name for name in members if members[name]]
            assert sorted(state.name for state in clique.node_states) == sorted(inside)
            assert clique.free == sum((free[name] & members[name]).bit_count() for name in inside)
            assert clique.size == sum(members[name].bit_count() for name in inside)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
