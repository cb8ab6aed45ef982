"""Cliques are called after their nodes where that is clear, and never two alike."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.model.topology import Topology
from ray_dra.translate.clique_names import clique_names
from tests.core.machines import node, rack

UUIDS = ["3f2a9c1e-4e54-59d9-a1ac-ad6ed7d5e7b7.32766", "b84ae0bc-4e54-59d9-a1ac-ad6ed7d5e7b7.32766"]


def test_a_rack_is_called_as_its_nodes_begin() -> None:
    nodes = [n for at, id in enumerate(UUIDS) for n in rack(id, 2, prefix=f"gb200-r{at}")]
    assert clique_names(Topology.of([*nodes, node("h100-0", 8, box=True)])) == {
        UUIDS[0]: "gb200-r0",
        UUIDS[1]: "gb200-r1",
        "box.h100-0": "h100-0",
    }


def test_where_nodes_of_others_begin_so_too_the_id_is_shortened() -> None:
    nodes = [node(f"worker-{at}", 4, clique=UUIDS[at // 2]) for at in range(4)]
    assert list(clique_names(Topology.of(nodes)).values()) == ["3f2a9c1e", "b84ae0bc"]
    stranger = node("gb200-r0-extra", 1)
    assert clique_names(Topology.of([*rack(UUIDS[0], 2, prefix="gb200-r0"), stranger])) == {UUIDS[0]: "3f2a9c1e"}
    same = [f"{UUIDS[0][:36]}.{at}" for at in (1, 2)]
    nodes = [node(f"worker-{at}", 4, clique=same[at // 2]) for at in range(4)]
    assert list(clique_names(Topology.of(nodes)).values()) == same


NAMES = st.text("ab-.", min_size=1, max_size=4)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["", "box", "a", "b", "a-b", *UUIDS])), unique_by=lambda n: n[0]))
@settings(max_examples=300, deadline=None)
def test_no_two_cliques_have_a_name(found: list[tuple[str, str]]) -> None:
    nodes = [node(name, 2, clique=None if c in ("", "box") else c, box=c == "box") for name, c in found]
    topology = Topology.of(nodes)
    names = clique_names(topology)
    assert names.keys() == topology.cliques.keys()
    assert len(set(names.values())) == len(names)
