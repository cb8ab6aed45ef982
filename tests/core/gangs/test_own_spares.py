"""A gang's own spares: free nodes of its cliques, held for it alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.own_spares import OwnSpares
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.plan import plan
from tests.core.gangs.test_replacing import placed
from tests.core.machines import gang


def always(gang: Gang, devices: int) -> bool:
    return True


@given(
    sizes=st.sampled_from([(4,), (4, 4), (2, 2), (4, 4, 4, 4, 4, 4), (1, 1, 1)]),
    locality=st.sampled_from([Locality(), Locality(cliques=1), Locality(cliques=2)]),
    others=st.lists(st.integers(1, 4), max_size=6).map(tuple),
    spares=st.integers(1, 4),
    shared=st.lists(st.sampled_from(["a-t4", "b-t4", "b-t0"]), unique=True),
    data=st.data(),
)
def test_free_nodes_of_its_cliques_and_as_many_as_there_are(
    sizes: tuple[int, ...],
    locality: Locality,
    others: tuple[int, ...],
    spares: int,
    shared: list[str],
    data: st.DataObject,
) -> None:
    inventory, _, asked = placed(*sizes, locality=locality, others=others)
    held = asked.allocation
    if held is None:
        return
    for name in shared:
        inventory.put_node(replace(inventory.node_states[name].node, spare=True))
    asked = replace(asked, spares=spares)
    free = {name: state.free for name, state in inventory.node_states.items()}
    own = OwnSpares(inventory)
    own.look([asked], always)
    found = own.nodes_of("g")
    cliques = {grant.clique for grant in held.grants}
    could = Counter(
        inventory.node_states[name].node.clique for name, mask in free.items() if mask == 0b1111 and name not in shared
    )
    assert Counter(inventory.node_states[name].node.clique for name in found) == Counter(
        {clique: min(spares, could[clique]) for clique in cliques if could[clique]}
    )
    assert all(free[name] == 0b1111 and name not in shared for name in found)
    assert all(not inventory.node_states[name].free for name in found), "nobody else is planned there"
    with own.lent("g"):
        assert all(inventory.node_states[name].free == 0b1111 for name in found)
    inventory.release("g")
    assert all(inventory.node_states[name].free == 0b1111 for name in found), "as if the gang had ended"
    inventory.hold(held)
    assert all(not inventory.node_states[name].free for name in found)
    changes = inventory.changes
    own.look([asked], always)
    assert own.nodes_of("g") == found
    assert inventory.changes == changes or found, "once is enough where nothing has changed"
    more = plan(inventory, gang(4, name="more"))
    if isinstance(more, Allocation):
        assert {*more.nodes}.isdisjoint(found)
        inventory.hold(more)
        own.look([asked], always)
        assert {*own.nodes_of("g")} >= {*found}, "those that it has stay"
    if found:
        used = data.draw(st.sampled_from(found))
        own.give("g", {used})
        assert own.nodes_of("g") == tuple(name for name in found if name != used)
        assert inventory.node_states[used].free == 0b1111
        own.look([asked], always)
        assert len(own.nodes_of("g")) == len(found)
    own.look([], always)
    assert not own.holding()
    assert all(inventory.node_states[name].free == 0b1111 for name in found)


@pytest.mark.parametrize("most", [0, 4, 8, 100])
def test_not_more_than_it_may(most: int) -> None:
    inventory, _, asked = placed(4, 4, locality=Locality(cliques=1))
    own = OwnSpares(inventory)
    own.look([replace(asked, spares=3)], lambda gang, devices: devices <= most)
    assert len(own.nodes_of("g")) == min(3, most // 4)


def test_what_changes_the_gang_is_looked_at_again() -> None:
    inventory, _, asked = placed(4, 4, locality=Locality(cliques=1))
    own = OwnSpares(inventory)
    for spares in (1, 3, 2, 0):
        own.look([replace(asked, spares=spares)], always)
        assert len(own.nodes_of("g")) == spares
    own.look([replace(asked, spares=2)], always)
    own.let_go("g")
    own.let_go("g")
    assert not own.holding()
