"""Which cliques and nodes equal bundles get: the rules of docs/planner.md, written down again in a few lines."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import DGX1, gang, node

TRAY = 4
LINKED = tuple(tuple(18 * (i != j) for j in range(4)) for i in range(4))


def inventory_of(racks: list[list[int]]) -> Inventory:
    """Racks r0, r1, ... of trays with so many free GPUs each."""
    nodes = [
        node(f"r{r}-t{t}", TRAY, clique=f"r{r}", order=t) for r, trays in enumerate(racks) for t in range(len(trays))
    ]
    inventory = Inventory(nodes)
    for r, trays in enumerate(racks):
        for t, free in enumerate(trays):
            inventory.set_others(f"r{r}-t{t}", (1 << TRAY) - (1 << free), {})
    return inventory


def rule_4(racks: list[list[int]], size: int, count: int, segment: int) -> dict[str, int] | None:
    """Clique -> bundles: one that holds all, the least roomy; else most whole segments first, of these the least
    roomy; the last one the tightest that takes the rest. Ties: fewest free GPUs, then by name."""
    rooms = {f"r{r}": (sum(free // size for free in trays), sum(trays), r) for r, trays in enumerate(racks)}
    chosen: dict[str, int] = {}
    while count:
        open_ = {name: room for name, room in rooms.items() if name not in chosen}
        enough = [name for name, room in open_.items() if room[0] >= count]
        if enough:
            chosen[min(enough, key=lambda name: open_[name])] = count
            return chosen
        best = min(open_, key=lambda name: (-(open_[name][0] // segment), *open_[name]), default=None)
        if best is None or open_[best][0] < segment:
            return None
        chosen[best] = open_[best][0] // segment * segment
        count -= chosen[best]
    return chosen


TRAYS = st.lists(st.integers(0, TRAY), min_size=1, max_size=5)


@given(
    racks=st.lists(TRAYS, min_size=1, max_size=5),
    size=st.integers(1, TRAY),
    segments=st.integers(1, 6),
    segment=st.integers(1, 4),
)
@settings(max_examples=400, deadline=None)
def test_several_cliques_the_last_the_tightest_that_takes_the_rest(
    racks: list[list[int]], size: int, segments: int, segment: int
) -> None:
    count = segments * segment
    answer = plan(inventory_of(racks), gang(*[size] * count, locality=Locality(segment=segment)))
    if isinstance(answer, Allocation) and len(set(answer.nodes)) == 1:
        return  # one node is tried before cliques
    expected = rule_4(racks, size, count, segment)
    if expected is None:
        assert isinstance(answer, Unsatisfiable)
        return
    assert isinstance(answer, Allocation)
    assert {c: answer.cliques.count(c) for c in answer.cliques} == expected


def test_a_clique_that_holds_no_more_segments_is_left_to_others() -> None:
    """Cliques of 18 and of 16 trays hold two segments of 8 each: the 16 are used up, and the third goes to the 18."""
    racks = [[4] * 18, [4] * 16]
    answer = plan(inventory_of(racks), gang(*[4] * 8, *[4] * 8, *[4] * 8, locality=Locality(segment=8)))
    assert isinstance(answer, Allocation)
    assert answer.cliques == ("r0",) * 8 + ("r1",) * 16


@given(trays=TRAYS, size=st.integers(1, TRAY), count=st.integers(1, 12), cpus=st.booleans())
@settings(max_examples=300, deadline=None)
def test_in_a_clique_the_fewest_nodes_the_last_the_tightest(
    trays: list[int], size: int, count: int, cpus: bool
) -> None:
    """The same whether numbers of free GPUs tell all, or nodes are looked at for their CPUs, too."""
    resources = {"CPU": 1.0} if cpus else {}
    answer = plan(inventory_of([trays]), gang(*[size] * count, locality=Locality(cliques=1), resources=resources))
    rooms = sorted((free // size, free, t) for t, free in enumerate(trays) if free >= size)
    if sum(room for room, _, _ in rooms) < count:
        assert isinstance(answer, Unsatisfiable)
        return
    assert isinstance(answer, Allocation)
    chosen: dict[str, int] = {}
    while count:
        enough = [each for each in rooms if each[0] >= count]
        most = max(room for room, _, _ in rooms)
        room, free, t = (
            enough[0] if enough else min(e for e in rooms if e[:2] == max(r[:2] for r in rooms if r[0] == most))
        )
        rooms.remove((room, free, t))
        chosen[f"r0-t{t}"] = min(room, count)
        count -= chosen[f"r0-t{t}"]
    assert {n: answer.nodes.count(n) for n in answer.nodes} == chosen


@st.composite
def mixed_racks(draw: st.DrawFn) -> list[tuple[int, list[int]]]:
    """(GPUs of a tray, free ones of each tray)."""
    racks = []
    for _ in range(draw(st.integers(1, 4))):
        tray = draw(st.sampled_from([2, 4, 4, 8]))
        racks.append((tray, draw(st.lists(st.integers(0, tray), min_size=1, max_size=4))))
    return racks


@given(racks=mixed_racks(), loose=st.lists(st.integers(0, 4), max_size=2), size=st.integers(1, 8), cpus=st.booleans())
@settings(max_examples=400, deadline=None)
def test_of_single_nodes_one_in_use_and_left_with_least(
    racks: list[tuple[int, list[int]]], loose: list[int], size: int, cpus: bool
) -> None:
    """In the fullest clique. Where a whole node has to be broken into, one of the smallest kind of clique: none, a box,
    a rack; of that kind in the fullest. The same whether numbers of free GPUs tell all, or nodes are looked at for
    their CPUs, too."""
    nodes = [
        node(f"r{r}-t{t}", tray, clique=f"r{r}", order=t) for r, (tray, f) in enumerate(racks) for t in range(len(f))
    ]
    inventory = Inventory([*nodes, *(node(f"x{x}", 4, links=LINKED) for x in range(len(loose)))])
    used: list[tuple[tuple[int, int, str, int], str]] = []
    whole: dict[
        tuple[bool, bool, int], list[tuple[tuple[int, str], int, str]]
    ] = {}  # kind of clique -> (rank, its GPUs, node)
    cliques = [(f"r{r}", tray, trays, tray * len(trays)) for r, (tray, trays) in enumerate(racks)]
    for name, tray, trays, gpus in [*cliques, *((f"#loose/x{x}", 4, [free], 0) for x, free in enumerate(loose))]:
        for t, free in enumerate(trays):
            place = f"{name}-t{t}" if gpus else name.removeprefix("#loose/")
            inventory.set_others(place, (1 << tray) - (1 << free), {})
            rank = (sum(trays), name)
            if free == tray >= size:
                whole.setdefault((not gpus, len(trays) > 1, tray), []).append((rank, gpus, place))
            elif free >= size:
                used.append(((free, *rank, t), place))
    answer = plan(inventory, gang(size, resources={"CPU": 1.0} if cpus else {}))
    heads = [(min(alike)[1], most, *min(alike)) for (_, _, most), alike in whole.items()]
    if used or heads:
        assert isinstance(answer, Allocation)
        assert answer.nodes == (min(used)[1] if used else min(heads)[-1],)
    else:
        assert isinstance(answer, Unsatisfiable)


@given(
    trays=st.lists(st.integers(0, 15), min_size=2, max_size=3),
    loose=st.integers(0, 15),
    boxes=st.lists(st.integers(0, 255), min_size=1, max_size=2),
    size=st.integers(1, 2),
    count=st.integers(2, 3),
)
@settings(max_examples=200, deadline=None)
def test_bundles_that_are_linked_on_one_node_lie_where_one_bundle_of_all_their_devices_would(
    trays: list[int], loose: int, boxes: list[int], size: int, count: int
) -> None:
    """Where some node's GPUs are not all linked, links among bundles are looked for before anything else."""
    nodes = [*(node(f"r-t{t}", TRAY, clique="r", order=t) for t in range(len(trays))), node("x", 4, links=LINKED)]
    inventory = Inventory([*nodes, *(node(f"d{d}", 8, links=DGX1, box=True) for d in range(len(boxes)))])
    for name, busy in (
        *((f"r-t{t}", b) for t, b in enumerate(trays)),
        ("x", loose),
        *((f"d{d}", b) for d, b in enumerate(boxes)),
    ):
        inventory.set_others(name, busy, {})
    one = plan(inventory, gang(size * count, locality=Locality(connect=Connect.REQUIRED)))
    several = plan(inventory, gang(*[size] * count))
    if isinstance(one, Allocation):
        assert isinstance(several, Allocation)
        assert set(several.nodes) == set(one.nodes)
        assert sorted(g.position for g in several.grants) == sorted(g.position for g in one.grants)
