"""Every shortfall's values against the cluster and exhaustive search: places exist, numbers are true."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from ray import cloudpickle

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.reason import PlaceKind
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.model.shortfall import QUEUE, Place, Shortfall, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan
from ray_dra.errors import UnsatisfiableError, unsatisfiable
from tests.core.brute import Brute, World, random_request, random_world
from tests.core.machines import gang, node, one_clique, rack


@pytest.mark.parametrize("seed", range(4))
def test_every_shortfall_is_true(seed: int) -> None:
    """900 a seed."""
    dice = random.Random(4000 + seed)
    seen: Counter[ShortfallKind] = Counter()
    for _ in range(900):
        world, request = random_world(dice), random_request(dice)
        answer = plan(world.inventory(), request)
        if not isinstance(answer, Unsatisfiable):
            continue
        for found in answer.shortfalls:
            check_values(found, world, request)
            check_truth(found, world, request)
            seen[found.kind] += 1
    for kind in (
        ShortfallKind.DEVICES,
        ShortfallKind.NODE_SIZE,
        ShortfallKind.CONNECTED,
        ShortfallKind.CLIQUE,
        ShortfallKind.RESOURCES,
        ShortfallKind.SEGMENT,
        ShortfallKind.PACKING,
    ):
        assert seen[kind] >= 3, (kind, seen)


def check_values(found: Shortfall, world: World, request: GangRequest) -> None:
    """Numbers of which the wanted one is more, ids of the cluster and the request; a sentence without holes."""
    names = {n.name for n in world.nodes}
    cliques = {d.clique for n in world.nodes for d in n.devices if d.clique}
    place = found.place
    if isinstance(found.wanted, int | float) and isinstance(found.available, int | float):
        assert found.available < found.wanted, found
    if place.kind is PlaceKind.NODE:
        assert place.id in names
        assert place.of is None or place.of in cliques
    elif place.kind is PlaceKind.CLIQUE:
        assert place.id in cliques
        assert place.of in (None, len(cliques))
    elif place.kind is PlaceKind.CLIQUES:
        assert place.id == (request.locality.cliques if place.choice else len(cliques))
    elif place.kind is PlaceKind.BUNDLE:
        assert place.id in range(len(request.bundles))
    else:
        assert place.id is None
    assert "None" not in str(found)
    assert not any(each in str(found) for each in ("((", "<", "'")), "no Python in a sentence"
    again = pickle.loads(pickle.dumps(found))
    assert (again, hash(again), str(again)) == (found, hash(found), str(found))


def check_truth(found: Shortfall, world: World, request: GangRequest) -> None:
    nodes = {n.name: n for n in world.nodes}
    usable = [n for n in world.nodes if n.ready and n.name not in request.exclude]
    kind, place = found.kind, found.place
    if kind is ShortfallKind.DEVICES:
        assert found.wanted == request.device_count
        assert found.available == sum(len(world.free(n)) for n in usable)
        assert found.facts["devices"] == sum(len(n.devices) for n in world.nodes)
    elif kind is ShortfallKind.NODE_SIZE:
        bundles = [b for b in request.bundles if b.count == found.wanted]
        products = {tuple(p for d in b.devices for p in d.products) for b in bundles}
        assert found.available in {most_free(world, usable, of) for of in products}
        assert found.available in {len(usable_devices(world, nodes[str(place.id)], of)) for of in products}
    elif kind is ShortfallKind.CONNECTED:
        bundles = [b for b in request.bundles if b.count == found.wanted]
        products = {tuple(p for d in b.devices for p in d.products) for b in bundles}
        assert found.available in {most_linked(world, nodes[str(place.id)], of) for of in products}
        assert found.available in {max(most_linked(world, n, of) for n in usable) for of in products}
    elif kind is ShortfallKind.RESOURCES and place.kind is PlaceKind.NODE:
        resource = found.facts["resource"]
        empty = nodes[str(place.id)].resources[resource]
        assert found.available in (world.left(nodes[str(place.id)], resource), empty)
        assert found.wanted in {b.resources.get(resource) for b in request.bundles}
    elif kind is ShortfallKind.RESOURCES and place.kind is PlaceKind.CLUSTER:
        resource = found.facts["resource"]
        assert found.available == sum(world.left(n, resource) for n in usable)
        assert found.wanted == sum(b.resources.get(resource, 0.0) for b in request.bundles)
    elif kind in (ShortfallKind.CLIQUE, ShortfallKind.CLIQUES, ShortfallKind.SEGMENT):
        assert found.wanted == len(request.bundles) // found.facts.get("segment", 1)
        step = found.facts.get("segment", 1)
        if kind is not ShortfallKind.SEGMENT and request.locality.segment:  # one segment of all: in one clique
            request = replace(request, locality=replace(request.locality, segment=None, cliques=1))
        torn = any(len({d.clique for d in n.devices}) > 1 for n in world.nodes)  # counted once for each of its cliques
        if found.available and not torn:
            assert Brute(world, replace(request, bundles=request.bundles[: found.available * step])).fits(), found
        more = request.bundles[: (found.available + 1) * step]
        if not (torn and request.strategy is Strategy.STRICT_PACK):  # of one clique on the node, not of both
            assert not Brute(world, replace(request, bundles=more)).fits(), found
    elif kind is ShortfallKind.PACKING and place.kind is PlaceKind.CLIQUE:
        lying = Counter(
            n for on in world.nodes if on.ready and (n := sum(on.devices[i].clique == place.id for i in world.free(on)))
        )
        assert dict(found.available) == lying
    elif kind is ShortfallKind.PACKING:
        lying = Counter(n for on in world.nodes if on.ready and (n := len(world.free(on))))
        assert dict(found.available) == lying
        assert dict(found.wanted) == Counter(b.count for b in request.bundles)
    elif kind is ShortfallKind.NODES and "lost" in found.facts:
        assert not usable
        assert {name for name, _ in found.facts["lost"]} <= set(nodes)


def usable_devices(world: World, on: Node, products: tuple[str, ...]) -> list[int]:
    return [i for i in sorted(world.free(on)) if on.ready and (not products or on.devices[i].product in products)]


def most_free(world: World, usable: list[Node], products: tuple[str, ...]) -> int:
    return max((len(usable_devices(world, n, products)) for n in usable), default=0)


def most_linked(world: World, on: Node, products: tuple[str, ...]) -> int:
    free = usable_devices(world, on, products)
    sets = (c for n in range(len(free), 0, -1) for c in combinations(free, n))
    return next((len(c) for c in sets if all(on.links[a][b] for a, b in combinations(c, 2))), 0)


CASES: list[tuple[list[Node], GangRequest, str]] = [
    (rack("a", 3), gang(4, 4, 4, 4), "devices in the cluster: wanted 16 GPUs, available 12 free of 12"),
    (
        rack("a", 3),
        gang(8),
        "devices on one node in a-t0 (the node with most free): wanted 8 GPUs in one bundle, available 4 free; the"
        " largest node has 4",
    ),
    (
        rack("a", 3) + rack("b", 2),
        gang(4, 4, 4, 4, locality=one_clique()),
        "room in one clique in clique a (the roomiest of 2): wanted 4 bundles of 4 GPUs, available room for 3: 4 on 3"
        " nodes",
    ),
    (
        rack("a", 3) + rack("b", 2),
        gang(4, 4, locality=one_clique(), strategy=Strategy.STRICT_PACK),
        "room in one clique in b-t0 (the roomiest node of clique b): wanted 2 bundles of 4 GPUs on one node, available"
        " room for 1: 4 on 2 nodes",
    ),
    (
        rack("a", 3) + rack("b", 3),
        gang(*[4] * 6, locality=Locality(segment=2)),
        "room for segments in the cluster: wanted 3 segments of 2 bundles of 4 GPUs, available 2 whole segments; clique"
        " a, the roomiest, holds 3 such bundles",
    ),
    (
        rack("a", 2) + rack("b", 2) + rack("c", 2),
        gang(*[4] * 5, locality=Locality(cliques=2)),
        "room in so few cliques in the 2 roomiest cliques: wanted 5 bundles of 4 GPUs, available room for 4",
    ),
    (
        rack("a", 2),
        gang(3, 3, 2, locality=one_clique()),
        "packing in clique a (the clique with most free): wanted one clique, bundles of 2 x 3 + 1 x 2 GPUs, available 8"
        " free: 4 on 2 nodes",
    ),
    (
        [node("n", 4, product="A")],
        gang(1, products=("B", "C")),
        "product in bundle 0: wanted B or C, available A",
    ),
    (
        [node("n", 2, links=((0, 0), (0, 0)))],
        gang(2, locality=Locality(connect=Connect.REQUIRED)),
        "linked devices in n (the best-linked node): wanted 2 GPUs, every two linked by NVLink, available 1 linked and"
        " free",
    ),
    (
        [node("n", 4, resources={"CPU": 8.0})],
        gang(1, resources={"CPU": 16.0}),
        "resources in n (the node with most): wanted 16 CPU in one bundle, available 8 CPU",
    ),
]


@pytest.mark.parametrize(("nodes", "request_", "text"), CASES, ids=[c[2][:40] for c in CASES])
def test_the_sentences(nodes: list[Node], request_: GangRequest, text: str) -> None:
    answer = plan(Inventory(nodes), request_)
    assert isinstance(answer, Unsatisfiable)
    assert text in str(answer)


def test_an_error_and_its_shortfalls_cross_processes_as_values() -> None:
    answer = plan(Inventory(rack("a", 3)), gang(4, 4, 4, 4, locality=one_clique()))
    assert isinstance(answer, Unsatisfiable)
    error = unsatisfiable("No.", answer.shortfalls)
    for dumps in (pickle.dumps, cloudpickle.dumps):
        again = pickle.loads(dumps(error))
        assert isinstance(again, UnsatisfiableError)
        assert again.shortfalls == error.shortfalls
        assert {*again.shortfalls} == {*error.shortfalls}, "equal values are one in a set"
        assert (again.place, again.wanted, again.available) == ("the cluster", "16 GPUs", "12 free of 12")


def test_shortfalls_that_differ_are_different() -> None:
    one = short(ShortfallKind.PATIENCE, QUEUE, 60.0, 2.0)
    assert one == short(ShortfallKind.PATIENCE, QUEUE, 60.0, 2.0)
    assert one != short(ShortfallKind.PATIENCE, QUEUE, 60.0, 3.0)
    assert Place(PlaceKind.NODE, "a") != Place(PlaceKind.CLIQUE, "a")
    assert str(one) == "patience in the queue: wanted 60 s for what it prefers, available 2 s waited"
