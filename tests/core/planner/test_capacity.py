"""Which single node, which clique: IMEX domains, spares, kinds of machine."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.brute import linked_by_hand
from tests.core.machines import DGX1, gang, held, node, one_clique, rack


def test_spares_are_lent_to_preemptible_gangs_only() -> None:
    """A rack of 18 trays as 16 + 2."""
    trays = [replace(n, spare=i >= 16) for i, n in enumerate(rack("r", 18))]
    inventory = Inventory(trays)
    small = held(inventory, replace(gang(4, name="small"), preemptible=True))
    assert small.nodes[0] in ("r-t16", "r-t17"), "a preemptible gang goes to the spares first"
    assert isinstance(plan(inventory, gang(*[4] * 17, name="x", locality=one_clique())), Unsatisfiable)
    large = held(inventory, gang(*[4] * 16, name="large", locality=one_clique()))
    assert not {"r-t16", "r-t17"} & set(large.nodes)
    refused = plan(inventory, gang(1, name="y"))
    assert isinstance(refused, Unsatisfiable)
    assert "kept as spares" in str(refused)
    assert isinstance(plan(inventory, replace(gang(4, name="z"), preemptible=True)), Allocation)
    # A tray breaks: the spare takes its place once the label says so.
    inventory.release("small")
    inventory.put_node(replace(trays[17], spare=False))
    assert isinstance(plan(inventory, gang(4, name="y")), Allocation)


def test_a_rack_is_not_broken_into_where_a_box_will_do() -> None:
    inventory = Inventory([*rack("r", 4), node("box", 8, box=True), node("loose", 4)])
    assert held(inventory, gang(1, name="1")).nodes == ("loose",)
    assert held(inventory, gang(2, name="2")).nodes == ("box",)
    assert held(inventory, gang(4, 4, name="3", locality=one_clique())).cliques == ("r", "r")


def test_of_a_partly_connected_box_linked_devices_first() -> None:
    """Free: 0 and 4-7 of a DGX-1; the best quad is 4-7, and a pair without a link is taken only at last."""
    inventory = Inventory([node("dgx", 8, links=DGX1)])
    inventory.set_others("dgx", 0b00001110, {})
    linked = Locality(connect=Connect.REQUIRED)
    assert [g.position for g in held(inventory, gang(4, locality=linked)).grants] == [4, 5, 6, 7]
    inventory.release("g")
    assert isinstance(plan(inventory, gang(5, locality=linked)), Unsatisfiable)
    assert isinstance(plan(inventory, gang(5)), Allocation)


PAIRS = tuple(tuple(12 * (i != j and i // 2 == j // 2) for j in range(4)) for i in range(4))


@given(
    trays=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    boxes=st.lists(st.integers(0, 255), max_size=2),
    size=st.integers(2, 4),
    more=st.sampled_from([0, 0, 0, 1]),
    cpus=st.booleans(),
    loose=st.sampled_from([(), (), (), (0,), (2, 5)]),
    bridged=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_linked_bundles_lie_anywhere_where_no_clique_may_have_them_all(
    trays: list[int], boxes: list[int], size: int, more: int, cpus: bool, loose: tuple[int, ...], bridged: bool
) -> None:
    """One node of a rack and no more is one gang's there, but nodes without a clique's IMEX domain hold what is linked
    on each. Boxes with few links: their number of free GPUs alone would promise too much. `loose`: of the first one's
    GPUs, those in no clique, which bundles may mix with the others. `more`: than there is room for.
    `bridged`: a tray's GPUs are linked in pairs only."""
    nodes = [
        *(node(f"r-t{t}", 4, clique="r", order=t, links=PAIRS if bridged else None) for t in range(len(trays))),
        *(node(f"d{i}", 8, links=DGX1, box=True, loose=() if i else loose) for i in range(len(boxes))),
    ]
    inventory = Inventory(nodes, Limits(compute_domains=True, domain_nodes=1))
    for at, free in enumerate(trays):
        inventory.set_others(f"r-t{at}", (1 << 4) - (1 << free), {})
    for at, busy in enumerate(boxes):
        inventory.set_others(f"d{at}", busy, {})
    most = 0
    for free in trays:
        open_ = set(range(free))
        links = PAIRS if bridged else ((1,) * 4,) * 4
        most += max(n for n in range(5) if linked_by_hand(links, open_, (size,) * n))
    for busy in boxes:
        open_ = {i for i in range(8) if not busy >> i & 1}
        most += max(n for n in range(8 // size + 1) if linked_by_hand(DGX1, open_, (size,) * n))
    resources = {"CPU": 1.0} if cpus else {}
    request = gang(*[size] * max(most + more, 1), locality=Locality(connect=Connect.REQUIRED), resources=resources)
    assert isinstance(plan(inventory, request), Allocation) is (most > 0 and not more)


@given(
    trays=st.lists(st.integers(0, 4), min_size=2, max_size=3),
    loose=st.integers(0, 4),
    boxes=st.lists(st.integers(0, 255), min_size=1, max_size=2),
    size=st.integers(2, 4),
)
@settings(max_examples=300, deadline=None)
def test_of_single_nodes_for_linked_devices_one_in_use_and_left_with_least(
    trays: list[int], loose: int, boxes: list[int], size: int
) -> None:
    """Whole ones last: of these none of a clique first, then a box, then a rack. Of boxes with few links the one that
    holds the fewest such bundles."""
    linked = tuple(tuple(18 * (i != j) for j in range(4)) for i in range(4))
    nodes = [*rack("r", len(trays)), node("x", 4, links=linked)]
    nodes += [node(f"d{i}", 8, links=DGX1, box=True) for i in range(len(boxes))]
    inventory = Inventory(nodes)
    ranked: list[tuple[tuple[bool, int, int, int, str, int], str]] = []
    racks = [(f"r-t{at}", "r", 4 * len(trays), 4, sum(trays), (1 << free) - 1, at) for at, free in enumerate(trays)]
    dgxs = []
    for at, busy in enumerate(boxes):
        inventory.set_others(f"d{at}", busy, {})
        open_ = {i for i in range(8) if not busy >> i & 1}
        if most := max(n for n in range(5) if linked_by_hand(DGX1, open_, (size,) * n)):
            dgxs.append((most, len(open_), f"d{at}", 255 & ~busy))
    for name, clique, of_clique, of_node, rank, free, at in (
        *racks,
        ("x", "", 0, 4, loose, (1 << loose) - 1, 0),
        *((name, f"box.{name}", 8, 8, free, mask, 0) for _, free, name, mask in sorted(dgxs)[:1]),
    ):
        inventory.set_others(name, (1 << of_node) - 1 & ~free, {})
        links = DGX1 if of_node == 8 else linked
        if linked_by_hand(links, {i for i in range(of_node) if free >> i & 1}, (size,)):
            whole = free.bit_count() == of_node
            ranked.append(((whole, of_clique * whole, free.bit_count(), rank, clique, at), name))
    answer = plan(inventory, gang(size, locality=Locality(connect=Connect.REQUIRED)))
    if ranked:
        assert isinstance(answer, Allocation)
        assert answer.nodes == (min(ranked)[1],)
    else:
        assert isinstance(answer, Unsatisfiable)
