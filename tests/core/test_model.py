"""What the model has room for: shares, partitions that share counters, spares, IMEX domains, mixed products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations_with_replacement, product

import pytest

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_order import Buckets, Leveled
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Counter, Device, DeviceId
from ray_dra.core.model.imex import IMEX_LIMITS, Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest

from .checks import check
from .machines import DGX1, gang, node, one_clique, picture, rack


def held(inventory: Inventory, request: GangRequest) -> Allocation:
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation), answer
    inventory.hold(answer)
    return answer


def shares(*amounts: int, name: str = "s") -> GangRequest:
    return GangRequest(name, tuple(Bundle((DeviceRequest(1, share=a),)) for a in amounts))


def test_what_plan_found_is_looked_up_again_once_anything_has_changed() -> None:
    """A node leaves, or another gang is quicker, between the plan and the hold."""
    inventory = Inventory(rack("r", 4))
    request = gang(4, 4, locality=one_clique())
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation)
    inventory.drop_node(answer.nodes[0])
    inventory.hold(answer)
    fresh = Inventory([n for n in rack("r", 4) if n.name != answer.nodes[0]])
    fresh.hold(answer)
    assert picture(inventory) == picture(fresh)
    inventory.put_node(rack("r", 4)[0])
    assert inventory.free_devices == 8, "the gang has its devices on the node that came back"
    late = plan(inventory, gang(4, 4, name="late", locality=one_clique()))
    assert isinstance(late, Allocation)
    held(inventory, gang(4, name="quicker"))
    with pytest.raises(ValueError, match="held by another gang"):
        inventory.hold(late)


@pytest.mark.parametrize("request_", [gang(1, resources={"CPU": 8.0}), shares(250)])
def test_what_a_gang_has_on_a_node_that_was_away_is_given_back_once_it_returned(request_: GangRequest) -> None:
    home = [node("a", 1, box=True)]
    answer = plan(Inventory(home), request_)
    assert isinstance(answer, Allocation)
    inventory = Inventory()
    inventory.hold(answer)
    inventory.put_node(home[0])
    state = inventory.node_states["a"]
    assert state.left("CPU") < 64 or state.shares
    inventory.release(answer.gang)
    assert picture(inventory) == picture(Inventory(home))


def test_cliques_of_one_node_answer_from_their_levels_as_from_buckets_kept_up_one_by_one() -> None:
    """Every number of free devices on three boxes, every shape, against buckets filled by `CliqueState.capacity`."""
    for free in combinations_with_replacement(range(9), 3):
        inventory = Inventory([node(f"n{i}", 8, box=True) for i in range(3)])
        for i, n in enumerate(free):
            inventory.set_others(f"n{i}", (1 << 8 - n) - 1, {})
        (order,) = (c for c in inventory.orders.values() if c.cliques)
        for size, spread in product(range(1, 9), (False, True)):
            shape = BundleShape(size, spread=spread)
            found, kept = order.buckets(shape), Buckets()
            assert isinstance(found, Leveled)
            for clique in inventory.clique_states.values():
                if capacity := clique.capacity(shape, inventory.limits):
                    kept.add(capacity, clique.rank)
            assert found.lists == kept.lists
            for least in range(1, 9):
                assert list(found.upwards(least)) == list(kept.upwards(least))
                assert found.segments(least) == kept.segments(least)
                runs = [[(s, capacity, list(ranks)) for s, capacity, ranks in b.runs(least)] for b in (found, kept)]
                assert runs[0] == runs[1]


def test_a_no_names_what_no_node_has_beside_the_devices_that_are_taken() -> None:
    inventory = Inventory([node("a", 8, box=True), node("b", 8, box=True, resources={"CPU": 96.0})])
    answer = plan(inventory, gang(9, resources={"CPU": 128.0}))
    assert isinstance(answer, Unsatisfiable)
    assert {(s.kind, s.available) for s in answer.shortfalls} >= {(ShortfallKind.RESOURCES, 96.0)}
    assert ShortfallKind.NODE_SIZE in {s.kind for s in answer.shortfalls}
    inventory.drop_node("b")
    answer = plan(inventory, gang(9, resources={"CPU": 128.0}))
    assert isinstance(answer, Unsatisfiable)
    assert (ShortfallKind.RESOURCES, 64.0) in {(s.kind, s.available) for s in answer.shortfalls}, "the largest has left"


# -- shares of a device


def test_shares_fill_devices_that_are_shared_before_whole_ones() -> None:
    inventory = Inventory([node("a", 4, box=True), node("b", 4, box=True)])
    first = held(inventory, shares(500, name="1"))
    second = held(inventory, shares(400, name="2"))
    assert first.grants[0].device == second.grants[0].device
    assert (first.grants[0].amount, second.grants[0].amount) == (500, 400)
    third = held(inventory, shares(200, name="3"))
    assert third.grants[0].device != first.grants[0].device, "100 left are not 200"
    whole = held(inventory, gang(4, name="whole"))
    assert whole.nodes == ("b",), "a node with shared devices has no four whole ones"
    inventory.release("1")
    inventory.release("2")
    assert inventory.node_states["a"].shares == {second.grants[0].position + 1: 200}
    assert inventory.free_devices == 3


def test_a_share_is_of_one_device_and_less_than_whole() -> None:
    for count, share in ((2, 500), (1, 0), (1, 1000), (1, -3)):
        with pytest.raises(InvalidRequest):
            GangRequest("g", (Bundle((DeviceRequest(count, share=share),)),))


def test_a_shared_device_is_one_cliques_though_its_node_is_in_two() -> None:
    """GPU 0 of the box is in no clique, and sick; GPU 1, in the box's, has a quarter left, which must be given once."""
    inventory = Inventory([node("a", 4, box=True, loose=[0], sick=[0])])
    held(inventory, GangRequest("first", (Bundle((DeviceRequest(1, share=750),)),), Locality(cliques=1)))
    inventory.put_node(node("b", 1, box=True))
    answer = held(inventory, GangRequest("mixed", (*shares(250, 250).bundles, *gang(2).bundles)))
    assert sorted((g.node, g.position) for g in answer.grants) == [("a", 1), ("a", 2), ("a", 3), ("b", 0)]


def test_a_share_that_is_not_there_is_refused_by_hold() -> None:
    inventory = Inventory([node("a", 1, box=True)])
    answer = held(inventory, shares(700))
    with pytest.raises(ValueError, match="not so much left"):
        inventory.hold(answer._replace(gang="again"))
    refused = plan(inventory, shares(400, name="t"))
    assert isinstance(refused, Unsatisfiable)
    assert refused.shortfalls[0].kind is ShortfallKind.NODE_SIZE
    assert refused.shortfalls[0].available == 300


def pack_by_hand(free: int, wholes: int, amounts: Sequence[int]) -> bool:
    """Whether whole devices and shares fit on `free` empty ones."""
    return any(
        all(sum(a for a, at in zip(amounts, where, strict=True) if at == d) <= 1000 for d in range(free - wholes))
        for where in product(range(free - wholes), repeat=len(amounts))
    )


def test_all_small_cases_of_shares_and_whole_devices_on_one_node() -> None:
    """Up to four shares of five sizes and up to two whole devices on up to three: exact in both directions."""
    for free in range(1, 4):
        inventory = Inventory([node("a", free, box=True)])
        for wholes in range(min(3, free + 1)):
            for count in range(1, 5):
                for amounts in combinations_with_replacement((200, 300, 400, 600, 900), count):
                    bundles = tuple(Bundle((DeviceRequest(1, share=a),)) for a in amounts)
                    request = GangRequest("g", bundles + (Bundle((DeviceRequest(1),)),) * wholes)
                    answer = plan(inventory, request)
                    assert isinstance(answer, Allocation) is pack_by_hand(free, wholes, amounts), (free, request)
                    if isinstance(answer, Allocation):
                        inventory.hold(answer)
                        inventory.release("g")


# -- partitions that share counters


def mig_node(name: str) -> Node:
    """One GPU with 8 memory slices: partitions of 1, 2 and 4 slices at their legal starts (MIG's 1g, 2g, 4g)."""
    slices = [(1, i) for i in range(7)] + [(2, 0), (2, 2), (2, 4), (4, 0)]
    devices = []
    for size, start in slices:
        consumes: tuple[tuple[Counter, int], ...] = tuple(
            (("gpu/" + name, f"memory-slice-{i}"), 1) for i in range(start, start + size)
        )
        devices.append(
            Device(
                DeviceId("gpu.nvidia.com", name, f"gpu-0-mig-{size}g-{start}"),
                None,
                None,
                kind="mig",
                attributes={"product": f"H100 MIG {size}g"},
                consumes=consumes,
            )
        )
    counters: tuple[tuple[Counter, int], ...] = tuple((("gpu/" + name, f"memory-slice-{i}"), 1) for i in range(8))
    return Node(name, tuple(devices), counters=counters)


def partitions(*profiles: str, name: str = "m") -> GangRequest:
    return GangRequest(name, tuple(Bundle((DeviceRequest(1, products=(f"H100 MIG {p}",)),)) for p in profiles))


def overlap(profiles: Sequence[str]) -> bool:
    """Whether partitions can lie side by side, by hand: starts as in `mig_node`."""
    starts = {"1g": range(7), "2g": (0, 2, 4), "4g": (0,)}
    for where in product(*(starts[p] for p in profiles)):
        used = [s + i for p, s in zip(profiles, where, strict=True) for i in range(int(p[0]))]
        if len(set(used)) == len(used):
            return True
    return False


def test_partitions_over_the_same_slices_exclude_each_other() -> None:
    inventory = Inventory([mig_node("a")])
    large = held(inventory, partitions("4g"))
    assert {i for i in range(11) if inventory.node_states["a"].free >> i & 1} == {4, 5, 6, 9}, (
        "1g and 2g from slice 4 on"
    )
    with_three = plan(inventory, partitions("1g", "1g", "1g", name="x"))
    assert isinstance(with_three, Allocation)
    assert isinstance(plan(inventory, partitions("2g", "1g", "1g", name="x")), Unsatisfiable)
    inventory.release(large.gang)
    assert inventory.free_devices == 11


def test_all_small_mixes_of_partitions() -> None:
    """Every mix of up to four partitions on one GPU, against brute force."""
    inventory = Inventory([mig_node("a")])
    for count in range(1, 5):
        for profiles in combinations_with_replacement(("1g", "2g", "4g"), count):
            answer = plan(inventory, partitions(*profiles))
            assert isinstance(answer, Allocation) is overlap(profiles), profiles
            if isinstance(answer, Allocation):
                inventory.hold(answer)
                inventory.release("m")


# -- spares


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


# -- IMEX domains


def test_two_gangs_over_several_nodes_never_share_one() -> None:
    inventory = Inventory(rack("r", 3), IMEX_LIMITS)
    first = held(inventory, gang(3, 3, name="first", locality=one_clique()))
    assert {scope for (scope, what), _ in first.counters if what == "imex"} == {f"node/{n}" for n in first.nodes}
    second = plan(inventory, gang(1, 1, 1, 1, name="second", locality=one_clique()))
    assert isinstance(second, Allocation)
    assert len(set(second.nodes)) == 1, "4 GPUs on one node need no IMEX domain"
    refused = plan(inventory, gang(2, 3, name="third", locality=one_clique()))
    assert isinstance(refused, Unsatisfiable), "5 free GPUs lie beside the first gang's, in its IMEX domain"
    single = held(inventory, gang(1, name="single"))
    assert single.nodes[0] in first.nodes, "nodes that no larger gang can use are used up first"
    anywhere = plan(inventory, gang(1, 1, 1, 1, 1, name="fourth"))
    assert isinstance(anywhere, Allocation), "without a clique asked for, no IMEX domain is needed"
    assert not anywhere.counters
    with pytest.raises(ValueError, match="IMEX domain of another gang"):
        inventory.hold(first._replace(gang="thief", bundles=tuple(p._replace(grants=()) for p in first.bundles)))
    inventory.release("first")
    assert isinstance(plan(inventory, gang(4, 4, name="third", locality=one_clique())), Allocation)


def test_an_imex_domain_has_at_most_18_nodes() -> None:
    inventory = Inventory(rack("r", 20), IMEX_LIMITS)
    assert isinstance(plan(inventory, gang(*[4] * 18, locality=one_clique())), Allocation)
    assert isinstance(plan(inventory, gang(*[4] * 19, locality=one_clique())), Unsatisfiable)
    assert isinstance(plan(inventory, gang(*[2] * 36, locality=one_clique())), Allocation)
    assert isinstance(plan(inventory, gang(*[2] * 37, locality=one_clique())), Unsatisfiable)
    assert isinstance(plan(Inventory(rack("r", 20)), gang(*[4] * 19, locality=one_clique())), Allocation)


def test_one_imex_domain_a_clique_where_the_driver_needs_it() -> None:
    inventory = Inventory(rack("r", 8), Limits(compute_domains=True, one_per_clique=True))
    held(inventory, gang(4, 4, name="first", locality=one_clique()))
    assert isinstance(plan(inventory, gang(4, 4, name="second", locality=one_clique())), Unsatisfiable)
    assert isinstance(plan(inventory, gang(4, name="single", locality=one_clique())), Allocation)


def test_boxes_need_no_imex_domain() -> None:
    inventory = Inventory([node("a", 8, box=True), node("b", 8, box=True)], IMEX_LIMITS)
    answer = held(inventory, gang(8, 8, locality=Locality(segment=1)))
    assert not answer.counters


# -- choice between kinds of machine


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


def test_a_node_with_two_products() -> None:
    base = node("a", 4, box=True)
    devices = tuple(
        replace(d, attributes={**d.attributes, "product": "A100" if i < 3 else "H100"})
        for i, d in enumerate(base.devices)
    )
    inventory = Inventory([replace(base, devices=devices), node("b", 2, box=True, product="H100")])
    for sizes, product_name, fits in (
        ((3,), "A100", True),
        ((2,), "H100", True),
        ((2, 1), "H100", True),
        ((3,), "H100", False),
    ):
        request = gang(*sizes, products=(product_name,))
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation) is fits, (sizes, product_name)
        if isinstance(answer, Allocation):
            check(answer, inventory, request)
            products = {inventory.node_states[g.node].node.devices[g.position].product for g in answer.grants}
            assert products == {product_name}


def test_spread_and_pack_on_one_node_under_limits() -> None:
    inventory = Inventory(rack("r", 4), IMEX_LIMITS)
    answer = plan(inventory, gang(1, 1, 1, strategy=Strategy.STRICT_SPREAD, locality=one_clique()))
    assert isinstance(answer, Allocation)
    assert len(answer.counters) == 3
    packed = plan(inventory, gang(2, 2, strategy=Strategy.STRICT_PACK, locality=one_clique()))
    assert isinstance(packed, Allocation)
    assert not packed.counters
