"""A gang that has shrunk grows back beside what it has; nothing of that moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.growing import grown, still_there
from ray_dra.core.gangs.repair import OnFault, Way, segment_of
from ray_dra.core.gangs.shapes import Reshape, ReshapeStage, Shape, sense_of_reshape
from ray_dra.core.gangs.shrinking import shrunk_to
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS, Limits, imex_counter
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.translate.kube.slots import slot_labels
from tests.core.gangs.test_replacing import placed

LOCALITIES = [
    Locality(cliques=1),
    Locality(segment=2),
    Locality(segment=2, cliques=2),
    Locality(),
    Locality(cliques=1, required=False),
    Locality(cliques=1, exclusive=True),
]


def anything(request: GangRequest) -> bool:
    return True


def finds_room(inventory: Inventory, before: Gang, gang: Gang, sizes: tuple[int, ...], *, own_workers: bool) -> bool:
    """Whether bundles of these sizes would find room in one clique, or anywhere where the gang asks for none, beside
    what it has; by trying."""
    assert before.allocation is not None
    assert gang.allocation is not None
    taken = Counter(grant.node for grant in gang.allocation.grants)
    mine = Counter(grant.node for grant in before.allocation.grants)
    free = {
        name: state.free.bit_count() - taken[name] + mine[name]
        for name, state in inventory.node_states.items()
        if state.node.ready and not (own_workers and name in before.allocation.nodes)
    }
    locality = gang.request.locality
    within = locality.required and locality.within_cliques
    cliques = {str(state.node.clique) for state in inventory.node_states.values()}
    if within and locality.segment is None:
        cliques = {str(each) for each in before.allocation.cliques}
    for clique in cliques:
        names = [n for n in free if not within or str(inventory.node_states[n].node.clique) == clique]
        for nodes in product(names, repeat=len(sizes)):
            wanted = Counter[str]()
            for node, size in zip(nodes, sizes, strict=True):
                wanted[node] += size
            if all(free[node] >= size for node, size in wanted.items()):
                return True
    return False


@given(
    sizes=st.sampled_from([(4, 4), (4, 4, 4, 4), (2, 2), (2, 2, 4, 4), (1, 1, 1, 1), (4, 4, 4, 4, 4, 4)]),
    locality=st.sampled_from(LOCALITIES),
    limits=st.sampled_from([IMEX_LIMITS, NO_LIMITS]),
    others=st.lists(st.integers(1, 4), max_size=8).map(tuple),
    own_workers=st.booleans(),
    spare=st.booleans(),
    data=st.data(),
)
def test_it_grows_by_what_it_lacks_and_nothing_else_moves(
    sizes: tuple[int, ...],
    locality: Locality,
    limits: Limits,
    others: tuple[int, ...],
    own_workers: bool,
    spare: bool,
    data: st.DataObject,
) -> None:
    own_workers = own_workers or limits is IMEX_LIMITS  # IMEX domains are joined by workers that are made
    inventory, planning, asked = placed(*sizes, locality=locality, limits=limits, others=others)
    whole = asked.allocation
    if whole is None:
        return
    faulty = data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1))
    asked = replace(asked, on_fault=OnFault((Way.SHRINK,), 5.0, 1))
    left = shrunk_to(asked, faulty, own_workers=own_workers)
    if left is None:
        return
    inventory.release("g")
    inventory.hold(left.allocation)
    lost = {whole.nodes[rank] for rank in faulty} - {*left.allocation.nodes}
    back = data.draw(st.sets(st.sampled_from(sorted(lost)))) if lost else set()
    for node in lost:
        seen = inventory.node_states[node].node
        inventory.put_node(replace(seen, spare=spare) if node in back else replace(seen, ready=False, reason="lost"))
    small = replace(asked, request=left.request, allocation=left.allocation, shrunk=left.shrunk)
    held, free = left.allocation, {name: state.free for name, state in inventory.node_states.items()}
    found = grown(planning, small, own_workers=own_workers, may=anything)
    assert found == grown(planning, small, own_workers=own_workers, may=anything)
    assert {name: state.free for name, state in inventory.node_states.items()} == free, "nothing is held"
    assert {state.name for state in inventory.node_states.values() if state.node.spare} == (back if spare else set())
    if found is None or found.shrunk is not None:
        all_back = back == lost and not (own_workers and not spare and {*whole.nodes} - {*held.nodes} - lost)
        some = found is not None and locality.cliques == 2  # what comes into others comes by itself
        assert some or not all_back, "what it had is there again, so a no is not true"
        if limits is NO_LIMITS and not locality.exclusive and not some:
            after = replace(small, request=found.request, allocation=found.allocation) if found is not None else small
            now_shrunk = found.shrunk if found is not None else left.shrunk
            assert now_shrunk is not None
            there = now_shrunk.ranks
            lacking = [rank for rank in range(len(sizes)) if rank not in there]
            size = segment_of(small.request)
            for first in lacking[::size]:
                more = sizes[first : first + size]
                assert not finds_room(inventory, small, after, more, own_workers=own_workers), "a no is not true"
    if found is None:
        return
    now, ranks = found.allocation, found.shrunk.ranks if found.shrunk is not None else range(len(sizes))
    at = dict(zip(ranks, now.bundles, strict=True))
    assert left.shrunk is not None
    assert {*left.shrunk.ranks} < {*ranks}
    for rank, bundle in zip(left.shrunk.ranks, held.bundles, strict=True):
        assert at[rank] == bundle, "what it has stays where it is"
    assert [len(bundle.grants) for bundle in now.bundles] == [sizes[rank] for rank in ranks]
    new = {bundle.node for rank, bundle in at.items() if rank not in left.shrunk.ranks}
    assert all(inventory.node_states[node].node.ready for node in new)
    size = segment_of(found.request)
    for first in range(0, len(now.bundles), size):
        assert len({bundle.clique for bundle in now.bundles[first : first + size]}) == 1
    if locality.required and locality.cliques is not None:
        assert len({*now.cliques}) <= locality.cliques
        assert locality.cliques > 1 or {*now.cliques} == {*held.cliques}
    if own_workers:
        assert not new & {*held.nodes}
        labels = slot_labels(now)
        assert {node: labels[node] for node in held.nodes} == slot_labels(held)
        assert len({*labels.values()}) == len(labels)
        assert {node for node, moves in now.renewed if moves == small.moves + 1} == new
    if limits is IMEX_LIMITS:
        for clique in {*now.cliques}:
            nodes = {bundle.node for bundle in now.bundles if bundle.clique == clique}
            assert len({(imex_counter(node), 1) in now.counters for node in nodes}) == 1
            assert len(nodes) == 1 or new.isdisjoint(nodes) or (imex_counter(min(nodes)), 1) in now.counters
    change = Reshape(ReshapeStage.DRAINS, Shape(small.request, held, left.shrunk), found, 0.0, 60.0, grows=True)
    assert sense_of_reshape(change, change.leaves, "g", small.moves + 1) == ""
    inventory.release("g")
    inventory.hold(change.holds)  # raises where anything of it is another's
    assert still_there(planning, change)
    node = min(new)
    inventory.put_node(replace(inventory.node_states[node].node, ready=False, reason="lost"))
    assert not still_there(planning, change)


@pytest.mark.parametrize(
    ("sizes", "locality", "stays", "well", "comes"),
    [
        ((4, 4, 4, 4), Locality(cliques=1), 3, (4, 4), 2),  # of three two
        ((4, 4, 4, 4, 4), Locality(cliques=1), 4, (4, 4, 4), 3),  # of four three
        ((4, 4, 2, 2), Locality(cliques=1), 0, (3,), 1),  # not the first
        ((4, 4, 2, 1), Locality(cliques=1), 0, (2, 1), 2),  # not the first, but both others
        ((4, 2, 4, 4, 2, 2), Locality(segment=2), 0, (2, 2), 2),  # the second segment
    ],
)
def test_as_much_comes_as_there_is_room_for(
    sizes: tuple[int, ...], locality: Locality, stays: int, well: tuple[int, ...], comes: int
) -> None:
    """`stays`: the bundle, and its segment, that is left; `well`: of so many nodes so many devices."""
    inventory, planning, asked = placed(*sizes, locality=locality, limits=NO_LIMITS)
    whole, size = asked.allocation, segment_of(asked.request)
    assert whole is not None
    kept = range(stays // size * size, stays // size * size + size)
    asked = replace(asked, on_fault=OnFault((Way.SHRINK,), 5.0, 1))
    left = shrunk_to(asked, {*range(len(sizes))} - {*kept}, own_workers=False)
    assert left is not None
    inventory.release("g")
    inventory.hold(left.allocation)
    clique, free = whole.bundles[kept[0]].clique, list(well)
    for state in list(inventory.node_states.values()):
        count = free.pop() if free and state.node.clique == clique and state.name not in left.allocation.nodes else 0
        busy = state.busy
        for position in range(state.size):
            mine = any(g.node == state.name and g.position == position for g in left.allocation.grants)
            if not mine and count <= 0:
                busy |= 1 << position
            count -= not mine
        inventory.set_others(state.name, busy, {})
    assert not free
    small = replace(asked, request=left.request, allocation=left.allocation, shrunk=left.shrunk)
    found = grown(planning, small, own_workers=False, may=anything)
    assert found is not None
    assert len(found.request.bundles) == size + comes
    most = len(small.request.bundles) + size
    found = grown(planning, small, own_workers=False, may=lambda request: len(request.bundles) <= most)
    assert found is not None
    assert len(found.request.bundles) == most, "as its team's queue allows"
