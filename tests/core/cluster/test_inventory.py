"""Who holds what: holds and releases one by one; test_inventory_life.py has them in any order."""

from __future__ import annotations

from copy import copy
from itertools import combinations_with_replacement

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import DGX1, gang, held, node, one_clique, picture, rack, shares


def test_what_plan_found_is_looked_up_again_once_anything_has_changed() -> None:
    """A node leaves, or another gang is quicker, between the plan and the hold."""
    inventory = Inventory(rack("r", 4))
    request = gang(4, 4, locality=one_clique())
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation)
    inventory.drop_node(answer.nodes[0])
    inventory.hold(answer)
    fresh = Inventory([n for n in rack("r", 4) if n.name != answer.nodes[0]])
    fresh.hold(answer)
    assert picture(inventory) == picture(fresh)
    inventory.put_node(rack("r", 4)[0])
    assert inventory.free_devices == 8, "the gang has its devices on the node that came back"
    late = plan(inventory, gang(4, 4, name="late", locality=one_clique()))
    assert isinstance(late, Allocation)
    held(inventory, gang(4, name="quicker"))
    with pytest.raises(ValueError, match="held by another gang"):
        inventory.hold(late)


@pytest.mark.parametrize("request_", [gang(1, resources={"CPU": 8.0}), shares(250)])
def test_what_a_gang_has_on_a_node_that_was_away_is_given_back_once_it_returned(request_: GangRequest) -> None:
    home = [node("a", 1, box=True)]
    answer = plan(Inventory(home), request_)
    assert isinstance(answer, Allocation)
    inventory = Inventory()
    inventory.hold(answer)
    inventory.put_node(home[0])
    state = inventory.node_states["a"]
    assert state.left("CPU") < 64 or state.shares
    inventory.release(answer.gang)
    assert picture(inventory) == picture(Inventory(home))


def test_a_share_that_is_not_there_is_refused_by_hold() -> None:
    inventory = Inventory([node("a", 1, box=True)])
    answer = held(inventory, shares(700))
    with pytest.raises(ValueError, match="not so much left"):
        inventory.hold(answer._replace(gang="again"))
    refused = plan(inventory, shares(400, name="t"))
    assert isinstance(refused, Unsatisfiable)
    assert refused.shortfalls[0].kind is ShortfallKind.NODE_SIZE
    assert refused.shortfalls[0].available == 300


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


def test_as_many_free_devices_that_are_others_count_anew_where_links_differ() -> None:
    """GPU 3 of a DGX-1 fails as GPU 4 recovers: five are free as before, and hold other linked sets."""
    before, after = (node("d", 8, links=DGX1, sick=sick) for sick in ((4, 5, 6), (3, 5, 6)))
    inventory = Inventory([before])
    picture(inventory)  # the capacities are asked for, and so kept up from now on
    inventory.put_node(after)
    assert picture(inventory) == picture(Inventory([after]))


def test_what_was_just_planned_is_held_without_looking_it_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a placement costs one look; anything else is looked up."""
    looked: list[str] = []
    look_up = Inventory._look_up

    def noted(self: Inventory, allocation: Allocation) -> object:
        looked.append(allocation.gang)
        return look_up(self, allocation)

    monkeypatch.setattr(Inventory, "_look_up", noted)
    inventory = Inventory(rack("r", 3))
    for request in (gang(4, name="one"), gang(2, 1, name="two"), gang(1, name="three", resources={"CPU": 1.0})):
        held(inventory, request)
        assert looked == (["two"] if request.gang != "one" else []), "bundles of several classes are"
    first = plan(inventory, gang(1, name="first"))
    assert isinstance(first, Allocation)
    inventory.release("one")
    inventory.hold(first)
    assert looked == ["two", "first"], "something changed since"
    copy = Inventory(rack("r", 3), inventory.limits)
    for name in inventory.gangs:
        allocation = inventory.allocation(name)
        assert allocation is not None
        copy.hold(allocation)
    assert picture(copy) == picture(inventory)


@pytest.mark.parametrize("in_another", [(), (0,), (1,), (0, 1), (2,)])
def test_a_gang_joins_no_node_that_is_in_the_imex_domain_of_another(in_another: tuple[int, ...]) -> None:
    inventory = Inventory(rack("r", 3), Limits(compute_domains=True))
    states = [inventory.node_states[f"r-t{at}"] for at in range(3)]
    if in_another:
        theirs = [states[at] for at in in_another]
        placed = tuple(Placed(state.name, state.granted(1)) for state in theirs)
        inventory.hold(Allocation("theirs", placed, counters=tuple(state.imex_counter for state in theirs)))
    before = picture(inventory)
    for counted in (states[:2], states[1::-1]):
        placed = tuple(Placed(state.name, state.granted(2)) for state in states[:2])
        mine = Allocation("mine", placed, counters=tuple(state.imex_counter for state in counted))
        if set(in_another) & {0, 1}:
            with pytest.raises(ValueError, match="in the IMEX domain of another gang"):
                inventory.hold(mine)
        else:
            inventory.hold(mine)
            assert [state.imex_gang == "mine" for state in states] == [True, True, False]
            inventory.release("mine")
        assert picture(inventory) == before


def test_the_node_with_most_of_a_resource() -> None:
    nodes = [node("a", 1, resources={"CPU": 0.5}), node("b", 1, resources={}), node("c", 1, resources={"CPU": 0.25})]
    inventory = Inventory(nodes)
    largest = inventory.largest("CPU")
    assert largest is not None
    assert largest.name == "a"
    inventory.put_node(node("d", 1, resources={"CPU": 0.75}))
    largest = inventory.largest("CPU")
    assert largest is not None
    assert largest.name == "d"
    inventory.drop_node("d")
    largest = inventory.largest("CPU")
    assert largest is not None
    assert largest.name == "a"
    assert Inventory().largest("CPU") is None


KINDS_OF_BUNDLES = (
    Bundle((DeviceRequest(2),)),
    Bundle((), {"CPU": 1.0}),
    Bundle((DeviceRequest(1),), {"CPU": 2.0}),
    Bundle((DeviceRequest(1, share=400),), {"CPU": 0.5}),
    Bundle((DeviceRequest(1, share=600),)),
)


@pytest.mark.parametrize("kinds", [k for n in (1, 2, 3) for k in combinations_with_replacement(range(5), n)])
def test_whatever_is_held_is_counted_and_given_back(kinds: tuple[int, ...]) -> None:
    """Straight from the plan, and looked up anew, as after a restart; on a node that is there, and on one that comes
    later."""
    nodes = [node("a", 4, box=True), node("b", 4, box=True)]
    inventory = Inventory(nodes)
    held(inventory, gang(1, name="before"))
    empty = picture(inventory)
    answer = held(inventory, GangRequest("g", tuple(KINDS_OF_BUNDLES[kind] for kind in kinds)))
    assert sum(state.used.get("CPU", 0.0) for state in inventory.node_states.values()) == sum(
        KINDS_OF_BUNDLES[kind].resources.get("CPU", 0.0) for kind in kinds
    )
    assert inventory.held_devices == 1 + sum(grant.amount is None for grant in answer.grants)
    looked_up, late = Inventory(nodes), Inventory()
    for name in inventory.gangs:
        allocation = inventory.allocation(name)
        assert allocation is not None
        looked_up.hold(allocation)
        late.hold(allocation)
    assert late.has_gangs(answer.nodes[0])
    for there in nodes:
        late.put_node(there)
    assert picture(inventory) == picture(looked_up) == picture(late)
    for each in (inventory, looked_up, late):
        each.release("g")
        each.release("g")
        assert picture(each) == empty
        assert each.allocation("g") is None


def test_no_device_is_held_twice_by_one_gang_either() -> None:
    """A record that says so is refused whole, whichever of its bundles on the node come first."""
    inventory = Inventory([node("a", 4, box=True)])
    state = inventory.node_states["a"]
    empty = picture(inventory)
    for masks in ((1, 1), (1, 2, 1), (3, 2), (1, 6, 8, 4), (15, 8)):
        twice = Allocation("g", tuple(Placed("a", state.granted(mask)) for mask in masks))
        with pytest.raises(ValueError, match="held by another gang"):
            inventory.hold(twice)
        read_back = Allocation("g", tuple(Placed("a", tuple(map(copy, state.granted(mask)))) for mask in masks))
        with pytest.raises(ValueError, match="held by another gang"):
            inventory.hold(read_back)
        assert picture(inventory) == empty
    once = Allocation("g", tuple(Placed("a", tuple(map(copy, state.granted(mask)))) for mask in (1, 6, 8)))
    inventory.hold(once)
    assert inventory.free_devices == 0


def test_a_part_of_the_nodes_has_what_is_free_on_them_and_nothing_else() -> None:
    inventory = Inventory([node("a", 4, box=True, sick=[3]), node("b", 2, box=True), *rack("r", 2)], Limits(True, 2))
    held(inventory, gang(2, name="held", resources={"CPU": 5.0}))
    inventory.set_others("a", 0b0001, {"CPU": 3.0})
    before = picture(inventory)
    for names in (("a",), ("b", "a"), ("r-t1", "b"), ()):
        part = inventory.part(names)
        assert set(part.node_states) == set(names)
        assert part.limits is inventory.limits
        for name in names:
            mine, theirs = part.node_states[name], inventory.node_states[name]
            assert mine.free == theirs.free
            assert mine.left("CPU") == theirs.left("CPU")
            assert mine.busy == (1 << theirs.size) - 1 & ~theirs.free
        assert part.busy_devices == part.devices - part.free_devices
        assert part.free_devices == sum(inventory.node_states[name].free.bit_count() for name in names)
    assert picture(inventory) == before
    assert inventory.emptied().free_devices == 13
    assert inventory.emptied() is inventory.emptied()
    assert picture(inventory) == before


def test_whoever_follows_the_nodes_hears_of_others_domains_too() -> None:
    inventory = Inventory(rack("r", 2), Limits(compute_domains=True))
    inventory.touched = {}
    state = inventory.node_states["r-t0"]
    for names in (frozenset({"r-t0"}), frozenset[str]()):
        before = picture(inventory)
        inventory.set_others_domains(names)
        assert list(inventory.touched) == [state]
        assert picture(inventory) != before
        inventory.touched.clear()
        inventory.set_others_domains(names)
        assert not inventory.touched, "nothing has changed"


def test_others_domains_on_a_gangs_own_nodes_are_a_change_too() -> None:
    """Nothing of the nodes changes as long as the gang has them; whether its workers can be made anew there does."""
    inventory = Inventory(rack("r", 2), Limits(compute_domains=True))
    held = plan(inventory, gang(4, 4, name="g"))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    assert inventory.node_states["r-t0"].imex_gang == "g"
    for names in (frozenset({"r-t0"}), frozenset[str]()):
        before = inventory.changes
        inventory.set_others_domains(names)
        assert (inventory.changes, inventory.node_states["r-t0"].imex_gang) == (before + 1, "g")
        inventory.set_others_domains(names)
        inventory.set_others_domains(names | {"nobody-knows-it"})
        inventory.set_others_domains(names)
        assert inventory.changes == before + 1
