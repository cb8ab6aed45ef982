"""Where a gang goes, besides what the planner says: workers that are there first, and what can never be."""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.planning import Planning, too_few
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from tests.core.machines import gang, node, one_clique, picture, rack, shares


def planning(inventory: Inventory, *ready_made: str) -> Planning:
    known = KnownNodes(inventory)
    known.look(0.0)
    return Planning(inventory, known, ready_made)


def nodes_of(answer: Allocation | Unsatisfiable) -> tuple[str, ...]:
    assert isinstance(answer, Allocation), answer
    return answer.nodes


def test_workers_that_are_there_come_first_but_no_whole_clique_is_made_of_them() -> None:
    inventory = Inventory([node("a", 4, box=True), node("b", 4, box=True), node("c", 8, box=True)])
    assert nodes_of(planning(inventory).plan(gang(2))) == ("a",)
    there = planning(inventory, "c", "b", "gone")
    assert nodes_of(there.plan(gang(2))) == ("b",)
    assert nodes_of(there.plan(gang(2), 7)) == ("b",)
    answer = there.plan(gang(2), 7)
    assert isinstance(answer, Allocation)
    assert answer.epoch == 7
    assert nodes_of(there.plan(gang(8))) == ("c",)
    assert nodes_of(there.explained(gang(2))) == ("b",)
    alone = Locality(cliques=1, exclusive=True)
    assert nodes_of(there.plan(gang(2, locality=alone))) == ("a",)
    assert nodes_of(there.plan(gang(4, 4, 4, 4))) == ("a", "b", "c", "c"), "with new ones, where they do not hold it"
    inventory.set_others("b", 15, {})
    assert nodes_of(planning(inventory, "b").plan(gang(2))) == ("a",)


def test_what_is_preferred_is_asked_of_workers_that_are_there_as_of_others() -> None:
    """`strict`: none of theirs will do where the preferred clique is elsewhere."""
    inventory = Inventory([node("x", 1), node("y", 1), *rack("r", 2, 1)])
    there = planning(inventory, "x", "y")
    near = gang(1, 1, locality=one_clique(required=False))
    assert nodes_of(there.plan(near, strict=True)) == ("r-t0", "r-t1")
    assert nodes_of(there.plan(near)) == ("x", "y")


def test_another_place_is_looked_for_as_if_the_gang_held_nothing_and_it_holds_what_it_held() -> None:
    inventory = Inventory(rack("r", 2))
    there = planning(inventory)
    first = there.plan(gang(4, name="g"))
    assert isinstance(first, Allocation)
    inventory.hold(first)
    before = picture(inventory)
    again = there.elsewhere(first, lambda: there.plan(gang(4, 4, name="g"), 3))
    assert isinstance(again, Allocation)
    assert (again.epoch, again.nodes) == (3, ("r-t0", "r-t1"))
    assert isinstance(there.elsewhere(first, lambda: there.plan(gang(4, 4, 4, name="g"), 3)), Unsatisfiable)
    assert picture(inventory) == before
    assert inventory.allocation("g") == first


def test_never_is_said_of_what_all_nodes_known_lately_could_not_hold_with_nobody_there() -> None:
    inventory = Inventory(rack("r", 2))
    there = planning(inventory)
    held = there.plan(gang(4, 4, name="all"))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    assert there.never(gang(4, 4), 1.0) is None, "it may have all once nobody is there"
    no = there.never(gang(4, 4, 4), 1.0)
    assert no is not None
    assert no.proven
    inventory.drop_node("r-t1")
    assert there.never(gang(4, 4), 2.0) is None, "the node may come back"
    assert there.known.look(700.0)
    assert there.never(gang(4, 4), 700.0) is not None
    inventory.put_node(node("new", 8))
    assert there.never(gang(8), 701.0) is None, "it came since the last look"
    there.known.unread = True
    assert there.never(gang(100), 702.0) is None, "some nodes have not been read"


def test_too_many_devices_are_refused_by_their_number_and_shares_by_none() -> None:
    inventory = Inventory(rack("r", 2))
    assert too_few(inventory, gang(4, 4)) is None
    no = too_few(inventory, gang(4, 4, 1))
    assert no is not None
    assert [(s.kind, s.wanted, s.available) for s in no.shortfalls] == [(ShortfallKind.DEVICES, 9, 8)]
    assert too_few(inventory, shares(*[100] * 9)) is None
    mixed = replace(gang(4, 4), bundles=(*gang(4, 4).bundles, *shares(100).bundles))
    assert too_few(inventory, mixed) is None


def test_other_devices_are_of_the_nodes_that_the_gang_is_on() -> None:
    inventory = Inventory([*rack("r", 2), node("else", 4)])
    there = planning(inventory)
    held = there.plan(gang(2, 2, name="g", locality=Locality(cliques=1), strategy=Strategy.STRICT_SPREAD))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    assert not there.taken(held)
    assert not there.taken(None)
    assert {grant.position for grant in held.grants} == {0, 1}
    inventory.set_others("r-t1", 0b0001, {})
    assert there.taken(held)
    before = picture(inventory)
    request = gang(2, 2, name="g", locality=Locality(cliques=1), strategy=Strategy.STRICT_SPREAD)
    other = there.other_devices(request, held, 5)
    assert other is not None
    assert (other.epoch, other.nodes) == (5, held.nodes)
    assert [g.position for g in other.bundles[1].grants] == [2, 3]
    assert picture(inventory) == before
    inventory.set_others("r-t1", 0b0111, {})
    assert there.other_devices(request, held, 5) is None
    assert inventory.allocation("g") == held
    inventory.drop_node("r-t0")
    assert there.other_devices(request, held, 5) is None, "a node of it is gone"
    assert inventory.allocation("g") == held
