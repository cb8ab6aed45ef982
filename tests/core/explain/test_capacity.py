"""What a cluster could serve now is what the planner says: so many are a yes, one more is a no."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.capacity import ClusterCapacity, PartsCapacity, capacity_now
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from ray_dra.translate.capacity_text import capacity_table
from tests.core.brute import random_world as random_cluster
from tests.core.machines import gang, node, rack
from tests.core.parted import bundle, parted_node
from tests.core.planner.test_parts import newly_broken, random_world


def yes(inventory: Inventory, *bundles: Bundle, locality: Locality | None = None) -> bool:
    if not bundles:
        return True
    return isinstance(plan(inventory, GangRequest("g", bundles, locality or Locality())), Allocation)


@pytest.mark.parametrize("seed", range(4))
def test_whole_gpus_are_as_many_as_the_planner_gives(seed: int) -> None:
    """50 clusters a seed, with gangs, split nodes and sick devices."""
    dice, one = random.Random(seed), Bundle((DeviceRequest(1),))
    for _ in range(50):
        inventory = random_cluster(dice).inventory()
        found = capacity_now(inventory)
        assert found == capacity_now(inventory), "it holds nothing"
        for wanted in range(inventory.free_devices + 2):
            assert yes(inventory, *[one] * wanted) is (wanted <= found.gpus)
            assert yes(inventory, *[one] * wanted, locality=Locality(cliques=1)) is (wanted <= found.clique)
            if wanted:
                assert yes(inventory, Bundle((DeviceRequest(wanted),))) is (wanted <= found.node)
        for size, _ in found.cliques:
            assert yes(inventory, *[one] * size, locality=Locality(cliques=1, exclusive=True))
        largest = found.cliques[0][0] if found.cliques else 0
        assert not yes(inventory, *[one] * (largest + 1), locality=Locality(cliques=1, exclusive=True))


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_as_many_as_the_planner_gives_and_some_break_no_gpu(seed: int) -> None:
    """60 clusters a seed, with strangers' parts."""
    dice = random.Random(seed)
    for _ in range(60):
        world = random_world(dice)
        for profile, most, unbroken in capacity_now(world.inventory).parts:
            one = bundle(profile)
            assert yes(world.inventory, *[one] * most)
            assert not yes(world.inventory, *[one] * (most + 1))
            for wanted, breaks in ((unbroken, False), (unbroken + 1, True)):
                answer = plan(world.inventory, GangRequest("g", (one,) * wanted)) if 0 < wanted <= most else None
                if isinstance(answer, Allocation):
                    on = {grant.part.parent: [profile] for grant in answer.grants if grant.part is not None}
                    assert bool(newly_broken(world, on)[0]) is breaks


def test_one_h100_with_a_gang_on_it() -> None:
    inventory = Inventory([parted_node("n", 2)])
    empty = capacity_now(inventory)
    assert (empty.gpus, empty.node, empty.clique, empty.cliques) == (2, 2, 2, ((2, 1),))
    assert empty.parts[0] == PartsCapacity("7g.80gb", 2, 0)
    assert empty.parts[-1] == PartsCapacity("1g.10gb", 14, 0)
    held = plan(inventory, GangRequest("g", (bundle("3g.40gb"),)))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    found = {profile: (most, unbroken) for profile, most, unbroken in capacity_now(inventory).parts}
    assert found["7g.80gb"] == (1, 0)
    assert found["3g.40gb"] == (3, 1)
    assert capacity_now(inventory).cliques == ()


def test_a_cluster_that_is_full_or_empty() -> None:
    inventory = Inventory([node("n", 4, box=True)])
    full = plan(inventory, gang(4))
    assert isinstance(full, Allocation)
    inventory.hold(full)
    assert capacity_now(inventory) == capacity_now(Inventory()) == ClusterCapacity(0, 0, 0, ())


def test_the_segment_that_leaves_the_spares_is_told_and_is_the_largest_that_does() -> None:
    def trays(name: str, count: int, spares: int) -> list[Node]:
        return [replace(each, spare=at < spares) for at, each in enumerate(rack(name, count))]

    nodes = [*trays("a", 18, 2), *trays("b", 18, 2), *trays("c", 9, 1), *trays("d", 18, 0)]
    assert capacity_now(Inventory(nodes)).segments == ((16, 2, 2), (8, 1, 1))
    only = Inventory(trays("a", 18, 2))
    ((segment, _, _),) = capacity_now(only).segments
    assert yes(only, *gang(*[4] * segment).bundles, locality=Locality(segment=segment))
    assert not yes(only, *gang(*[4] * (segment + 1)).bundles, locality=Locality(segment=segment + 1))
    assert capacity_now(Inventory(rack("d", 18))).segments == ()
    assert "segment        16     nodes of 1 clique, beside 2 spares" in capacity_table(capacity_now(only))
