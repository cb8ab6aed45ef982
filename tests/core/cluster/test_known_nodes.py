"""The nodes that a waiting gang may hope for, against a list of all that was seen of them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.node import Node
from tests.core.machines import node, picture

MINUTES = 600.0
"""How long a node that is gone still counts."""

FORMS = [
    node("a", 4),
    node("a", 4, sick=[0]),
    node("a", 4, sick=[0, 1]),
    replace(node("a", 4), ready=False, reason="x"),
]
FORMS += [node("a", 2), node("a", 4, labels={"zone": "z"})]


def healthy(form: Node) -> int:
    return sum(device.health.name == "OK" for device in form.devices)


@given(
    seen=st.lists(
        st.tuples(st.sampled_from([*range(len(FORMS)), None]), st.sampled_from([1.0, 299.0, 300.0, 600.0])), max_size=9
    )
)
@settings(max_examples=500, deadline=None)
def test_a_node_counts_as_the_best_it_was_in_the_last_minutes(seen: list[tuple[int | None, float]]) -> None:
    """A form takes the place of another if as many of its devices are well, or once the other is too long ago."""
    inventory, now = Inventory([node("other", 1)]), 0.0
    known = KnownNodes(inventory)
    assert not known.unread
    assert known.look(now), "the first one"
    best: tuple[Node, float] | None = None  # and when a node that was as well was seen last
    last: Node | None = None
    for form, later in seen:
        now += later
        there = None if form is None else FORMS[form]
        before = best
        if there is None:
            inventory.drop_node("a")
            if best is not None and now - best[1] >= MINUTES:
                best = None
        else:
            inventory.put_node(there)
            there = inventory.node_states["a"].node
            if best is None or healthy(there) >= healthy(best[0]) or now - best[1] >= MINUTES:
                best = (there, now)
        changed = known.look(now)
        assert known.cluster.node_states.keys() - {"other"} == ({"a"} if best is not None else set())
        if best is not None:
            kept = known.best("a")
            assert kept == replace(best[0], ready=True, reason="")
        else:
            assert known.best("a") is None
        if (before is None) is not (best is None) or (before is not None and best is not None and before[0] != best[0]):
            assert changed
        if there is last and before is not None and best is not None and before[0] is best[0]:
            assert not changed, "nothing is new"
        last = there


def test_a_look_tells_what_changed_whichever_node_comes_last() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        inventory = Inventory([node("a", 2), node("b", 2)])
        known = KnownNodes(inventory)
        assert known.look(0.0)
        assert not known.look(1.0)
        inventory.put_node(node(first, 4))
        assert known.look(2.0), f"{first} is larger, and {second} as it was"
        assert not known.look(3.0)
        inventory.drop_node(first)
        assert not known.look(3.0 + MINUTES - 0.5), "it may come back"
        assert known.look(3.0 + MINUTES)
        assert known.cluster.node_states.keys() == {second}


def test_nodes_of_before_a_restart_count_until_they_are_seen_and_as_long_as_others() -> None:
    inventory = Inventory(limits=Limits(compute_domains=True, domain_nodes=3))
    known = KnownNodes(inventory)
    known.remember([replace(node("a", 4), ready=False, reason="gone")], 5.0)
    assert known.cluster.limits is inventory.limits
    assert picture(known.cluster) == picture(Inventory([node("a", 4)], inventory.limits))
    assert not known.look(4.0 + MINUTES)
    assert known.look(5.0 + MINUTES)
    assert known.best("a") is None
