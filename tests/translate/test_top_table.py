"""Who uses how much: every GPU counts once, in the state that the metrics have of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.figures import figures_of
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from ray_dra.translate.top_table import gang_uses, owner_of, place_uses, totals
from tests.core.machines import DGX1, gang, node, rack
from tests.core.parted import bundle, parted_node


def held_in(inventory: Inventory) -> list[Allocation]:
    return [held for gang in inventory.gangs if (held := inventory.allocation(gang)) is not None]


@given(
    gangs=st.lists(
        st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans(), st.sampled_from([None, 300])),
        max_size=5,
    ),
    busy=st.integers(0, 15),
    ready=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_each_gpu_counts_once_in_the_state_that_the_metrics_have(
    gangs: list[tuple[list[int], bool, int | None]], busy: int, ready: bool
) -> None:
    nodes = [*rack("a", 3), node("box", 8, box=True, loose=[2]), replace(node("dgx", 8, links=DGX1, sick=[1]))]
    nodes[1] = replace(nodes[1], ready=ready)
    inventory = Inventory(nodes)
    inventory.set_others("a-t1", busy, {})
    for i, (sizes, exclusive, share) in enumerate(gangs):
        locality = Locality(cliques=1, exclusive=True) if exclusive else Locality()
        request = gang(*sizes, name=f"g{i}", locality=locality)
        if share is not None:
            request = replace(request, bundles=(Bundle((DeviceRequest(1, share=share),)), *request.bundles[1:]))
        answer = plan(inventory, request)
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    wanted = {state: count for state, count in figures_of(inventory).gpus.items() if count}
    for by_node in (True, False):
        uses = place_uses(inventory, {}, by_node=by_node)
        counts: Counter[str] = sum((use.gpus for use in uses), Counter())
        assert dict(counts) == wanted
        assert {gang for use in uses for gang in use.gangs} == set(inventory.gangs)
        assert [use.used for use in uses] == sorted((use.used for use in uses), reverse=True)
    found = gang_uses(held_in(inventory), {})
    assert sum(use.gpus for use in found) == wanted.get("held", 0)
    assert {use.gang for use in found} == set(inventory.gangs)
    for use, allocation in ((u, inventory.allocation(u.gang)) for u in found):
        assert allocation is not None
        assert use.nodes == set(allocation.nodes)
        assert use.shares == sum(grant.amount or 0 for grant in allocation.grants)


def test_what_is_kept_for_a_gang_stands_aside() -> None:
    inventory = Inventory(rack("a", 2))
    answer = plan(inventory, gang(4, name="train"))
    assert isinstance(answer, Allocation)
    inventory.hold(answer)
    spare = plan(inventory, gang(4, name="spares/train"))
    assert isinstance(spare, Allocation)
    inventory.hold(spare)
    (use,) = gang_uses(held_in(inventory), {})
    assert (use.gang, use.gpus, use.aside, len(use.nodes)) == ("train", 4, 4, 2)
    assert list(place_uses(inventory, {}, by_node=False)[0].gangs) == ["train"]
    assert [owner_of(each) for each in ("kept/g", "spares/g", "g", "keeper/g")] == ["g", "g", "g", "keeper/g"]


def test_parts_are_counted_apart_from_whole_gpus() -> None:
    dynamic = parted_node("n", 2)
    alone = replace(dynamic, name="s", devices=(), parted=parted_node("s", 1).parted[:1])
    alone = replace(alone, parted=(replace(alone.parted[0], position=None),))
    inventory = Inventory([dynamic, alone])
    one = plan(inventory, GangRequest("g", (bundle("3g.40gb"), bundle("1g.10gb"))))
    assert isinstance(one, Allocation)
    inventory.hold(one)
    (use,) = gang_uses(held_in(inventory), {})
    assert (use.gpus, use.shares, use.parts) == (0, 0, 2)
    by_node = {each.place: each for each in place_uses(inventory, {}, by_node=True)}
    on = {placed.node for placed in one.bundles}
    assert (by_node["s"].all, by_node["s"].parted, by_node["s"].parted_used) == (0, 1, int("s" in on))
    assert by_node["n"].all == 2
    assert by_node["n"].parted == 0


def test_a_hold_without_devices_is_a_gang_that_has_nothing() -> None:
    (use,) = gang_uses([Allocation("cpu", (Placed("a", ()),))], {})
    assert (use.gpus, use.nodes) == (0, set())
    assert totals([]) == "0 GPUs: 0 free"
