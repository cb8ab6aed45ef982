"""Nodes that change, and holds that are refused: the index is as one built afresh; a refused hold changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.node import Node
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import gang, node, one_clique, picture, rack

BOX = node("b", 4, box=True, numa=[0, 0, 1, 1])


def renumbered(there: Node) -> Node:
    return replace(there, devices=tuple(replace(d, index=3 - (d.index or 0)) for d in there.devices))


def fewer(there: Node) -> Node:
    return replace(there, devices=there.devices[:2], links=tuple(row[:2] for row in there.links[:2]))


CHANGES: dict[str, Callable[[Node], Node]] = {
    "links": lambda n: replace(n, links=tuple((0,) * 4 for _ in range(4))),
    "ancestors": lambda n: replace(n, ancestors=tuple((10,) * 4 for _ in range(4))),
    "numbers": renumbered,
    "fewer": fewer,
    "order": lambda n: replace(n, order=7),
    "clique": lambda n: node("b", 4, clique="c"),
    "product": lambda n: node("b", 4, box=True, product="NVIDIA A100"),
    "numa": lambda n: node("b", 4, box=True, numa=[0, 1, 0, 1]),
    "health": lambda n: replace(n, devices=(replace(n.devices[0], health=Health.TAINTED), *n.devices[1:])),
    "away": lambda n: replace(n, ready=False, reason="drained"),
    "labels": lambda n: replace(n, labels={"zone": "z"}),
    "resources": lambda n: replace(n, resources={"CPU": 2.0}),
    "spare": lambda n: replace(n, spare=True),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("held", [False, True])
def test_a_node_that_changed_is_as_one_that_was_so_from_the_first(what: str, held: bool) -> None:
    after = CHANGES[what](BOX)
    others = rack("r", 2)
    inventory, fresh = Inventory([BOX, *others]), Inventory([after, *others])
    if held and what not in ("clique", "product"):
        first = plan(Inventory([BOX]), gang(2, name="first"))
        assert isinstance(first, Allocation)
        inventory.hold(first)
        inventory.put_node(after)
        fresh.hold(first)
    else:
        inventory.put_node(after)
    assert picture(inventory) == picture(fresh)
    for request in (gang(1), gang(2), gang(4, locality=one_clique()), gang(1, resources={"CPU": 3.0}), gang(4, 4)):
        ours, theirs = plan(inventory, request), plan(fresh, request)
        if isinstance(theirs, Unsatisfiable):
            assert isinstance(ours, Unsatisfiable)
        else:
            assert ours == theirs
    assert all(
        a.index == b.index and a.links == b.links and a.ancestors == b.ancestors
        for a, b in zip(_seen(inventory), _seen(fresh), strict=True)
    )


class _Seen:
    def __init__(self, index: object, links: object, ancestors: object) -> None:
        self.index, self.links, self.ancestors = index, links, ancestors


def _seen(inventory: Inventory) -> list[_Seen]:
    states = sorted(inventory.node_states.values(), key=lambda s: s.name)
    return [_Seen([g.index for g in s.grants], s.graph.links, s.graph.ancestors) for s in states]


def test_a_node_is_in_one_imex_domain_and_a_hold_that_says_otherwise_changes_nothing() -> None:
    """Both gangs were planned before either was held; they share one of their nodes, and no device."""
    limits = Limits(compute_domains=True)
    nodes = rack("r", 3)
    inventory, other = Inventory(nodes, limits), Inventory(nodes, limits)
    first = plan(inventory, gang(2, 2, 2, name="first", locality=one_clique()))
    assert isinstance(first, Allocation)
    assert len(set(first.nodes)) == 2
    for name in set(first.nodes):
        other.set_others(name, sum(1 << g.position for g in first.grants if g.node == name), {})
    second = plan(other, gang(3, 2, name="second", locality=one_clique()))
    assert isinstance(second, Allocation)
    shared = set(first.nodes) & set(second.nodes)
    assert len(shared) == 1
    assert not {g.device for g in first.grants} & {g.device for g in second.grants}
    inventory.hold(first)
    before = picture(inventory)
    with pytest.raises(ValueError, match="IMEX domain of another gang"):
        inventory.hold(second)
    assert picture(inventory) == before
    inventory.release("first")
    inventory.hold(second)


def test_what_two_gangs_claim_is_held_by_the_first_alone() -> None:
    inventory = Inventory(rack("r", 2))
    one, same = (plan(inventory, gang(3, name=name)) for name in ("one", "same"))
    assert isinstance(one, Allocation)
    assert isinstance(same, Allocation)
    inventory.hold(one)
    before = picture(inventory)
    with pytest.raises(ValueError, match="held by another gang"):
        inventory.hold(same)
    twice = same._replace(bundles=(*same.bundles, *same.bundles))
    with pytest.raises(ValueError, match="held"):
        inventory.hold(twice)
    assert picture(inventory) == before


def test_changes_are_counted_so_that_a_no_may_be_remembered() -> None:
    """Whatever could make a no a yes counts as a change; what changes nothing does not."""
    inventory = Inventory([BOX])
    counts = [inventory.changes]
    found = plan(inventory, gang(2))
    assert isinstance(found, Allocation)
    assert inventory.changes == counts[-1], "plan changes nothing"
    changes: list[Callable[[], object]] = [
        lambda: inventory.hold(found),
        lambda: inventory.release("g"),
        lambda: inventory.set_others("b", 0b1, {}),
        lambda: inventory.set_others("b", 0b1, {"CPU": 1.0}),
        lambda: inventory.put_node(replace(BOX, labels={"a": "b"})),
        lambda: inventory.drop_node("b"),
        lambda: inventory.put_node(BOX),
    ]
    for change in changes:
        change()
        assert inventory.changes > counts[-1]
        counts.append(inventory.changes)
    inventory.release("nobody")
    inventory.set_others("nowhere", 0b1, {})
    inventory.put_node(BOX)
    assert inventory.changes == counts[-1]
