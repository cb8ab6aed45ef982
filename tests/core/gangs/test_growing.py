"""A gang that has shrunk grows back beside what it has; nothing of that moves."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.gangs.growing import grown, still_there
from ray_dra.core.gangs.repair import OnFault, Way, segment_of
from ray_dra.core.gangs.shapes import Reshape, ReshapeStage, Shape, sense_of_reshape
from ray_dra.core.gangs.shrinking import shrunk_to
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS, Limits, imex_counter
from ray_dra.core.model.locality import Locality
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


@given(
    sizes=st.sampled_from([(4, 4), (4, 4, 4, 4), (2, 2), (2, 2, 4, 4), (1, 1, 1, 1), (4, 4, 4, 4, 4, 4)]),
    locality=st.sampled_from(LOCALITIES),
    limits=st.sampled_from([IMEX_LIMITS, NO_LIMITS]),
    others=st.lists(st.integers(1, 4), max_size=8).map(tuple),
    own_workers=st.booleans(),
    comes_back=st.booleans(),
    spare=st.booleans(),
    data=st.data(),
)
def test_it_grows_by_what_it_lacks_and_nothing_else_moves(
    sizes: tuple[int, ...],
    locality: Locality,
    limits: Limits,
    others: tuple[int, ...],
    own_workers: bool,
    comes_back: bool,
    spare: bool,
    data: st.DataObject,
) -> None:
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
    for node in lost:
        seen = inventory.node_states[node].node
        inventory.put_node(replace(seen, spare=spare) if comes_back else replace(seen, ready=False, reason="lost"))
    small = replace(asked, request=left.request, allocation=left.allocation, shrunk=left.shrunk)
    held, free = left.allocation, {name: state.free for name, state in inventory.node_states.items()}
    found = grown(planning, small, own_workers=own_workers)
    assert found == grown(planning, small, own_workers=own_workers)
    assert {name: state.free for name, state in inventory.node_states.items()} == free, "nothing is held"
    if found is None or found.shrunk is not None:
        back = comes_back and not (own_workers and not spare and {*whole.nodes} - {*held.nodes} - lost)
        some = found is not None and locality.cliques == 2  # what comes into others comes by itself
        assert some or not back, "what it had is there again, so a no is not true"
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
