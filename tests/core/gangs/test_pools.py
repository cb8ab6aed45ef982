"""Where shares of a pool go, against brute force: each yes can be held, and each no is true."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.gangs.backfill import can_leave
from ray_dra.core.gangs.pools import Pool, Pools
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.gpu_sharing import GpuSharing, PoolTerms, SharingKind
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import gang, node

SLICES = GpuSharing(SharingKind.TIME_SLICING, interval="Default", pool=PoolTerms())
SHARES = [100, 200, 250, 300, 333, 400, 500, 750]


def pool_of(inventory: Inventory, gpus: int, tasks: int) -> Allocation:
    bundle = Bundle((DeviceRequest(1, share=tasks, sharing=SLICES),))
    held = plan(inventory, GangRequest("pool", (bundle,) * gpus, pool="p"))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    return held


def asking(name: str, shares: Sequence[int]) -> GangRequest:
    return GangRequest(name, tuple(Bundle((DeviceRequest(1, share=share),)) for share in shares), pool="p")


def fits(left: list[int], shares: Sequence[int]) -> bool:
    """Whether these shares go onto GPUs of which so much is left, by trying all ways."""
    if not shares:
        return True
    for at, each in enumerate(left):
        if each >= shares[0] and fits([*left[:at], each - shares[0], *left[at + 1 :]], shares[1:]):
            return True
    return False


@given(
    gpus=st.integers(1, 3),
    tasks=st.sampled_from([100, 250, 500, 700]),
    gangs=st.lists(
        st.lists(st.sampled_from([100, 200, 250, 300, 333, 400, 500, 750]), min_size=1, max_size=4), max_size=6
    ),
    leave=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_a_yes_can_be_held_and_a_no_is_true(gpus: int, tasks: int, gangs: list[list[int]], leave: list[bool]) -> None:
    inventory = Inventory([node("a", 2), node("b", 2)])
    held = pool_of(inventory, gpus, tasks)
    free = inventory.free_devices
    assert free == 4 - gpus
    assert len({grant.device for grant in held.grants}) == gpus
    pools = Pools(inventory, {"p": Pool("p", "pool", SLICES, ready=True)}.get)
    for number, shares in enumerate(gangs):
        left = list(inventory.pool_left("pool").values())
        answer = pools.plan(asking(str(number), shares))
        assert isinstance(answer, Allocation) == fits(left, shares), (left, shares)
        if isinstance(answer, Allocation):
            inventory.hold(answer)
            assert {grant.device for grant in answer.grants} <= {grant.device for grant in held.grants}
            if leave[number]:
                inventory.release(str(number))
                assert list(inventory.pool_left("pool").values()) == left
        assert min(inventory.pool_left("pool").values()) >= 0
        assert inventory.free_devices == free, "nobody outside the pool has more or less"
    for number in range(len(gangs)):
        inventory.release(str(number))
    inventory.release("pool")
    assert inventory.free_devices == 4


def test_a_pool_may_leave_for_others_and_who_shares_it_frees_nothing() -> None:
    inventory = Inventory([node("a", 2)])
    pool_of(inventory, 2, 250)
    pools = Pools(inventory, {"p": Pool("p", "pool", SLICES, ready=True)}.get)
    shared = pools.plan(asking("one", [500, 500]))
    assert isinstance(shared, Allocation)
    inventory.hold(shared)
    assert not can_leave(shared)
    left = inventory.pool_left("pool")
    answer = plan_and_explain(inventory, gang(2, name="wants"))
    assert isinstance(answer, Unsatisfiable)
    assert answer.counterfactual is not None
    assert answer.counterfactual.leaving is not None
    assert answer.counterfactual.leaving.gangs == ("pool",)
    inventory.put_node(node("b", 1))
    held = plan(inventory, gang(1, name="above", priority=1))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    answer = plan_and_explain(inventory, gang(2, 1, name="wants"))
    assert isinstance(answer, Unsatisfiable)
    assert inventory.pool_left("pool") == left, "also where all sets of gangs were tried"
    assert {"pool", "one", "above"} == set(inventory.gangs)


def test_what_a_node_takes_along_is_in_the_pool_again_when_it_comes_back() -> None:
    inventory = Inventory([node("a", 2)])
    pool_of(inventory, 2, 250)
    pools = Pools(inventory, {"p": Pool("p", "pool", SLICES, ready=True)}.get)
    shared = pools.plan(asking("one", [500]))
    assert isinstance(shared, Allocation)
    inventory.hold(shared)
    before = inventory.pool_left("pool")
    there = inventory.node_states["a"].node
    inventory.drop_node("a")
    assert not isinstance(pools.plan(asking("two", [500])), Allocation)
    inventory.put_node(there)
    assert inventory.pool_left("pool") == before
    assert inventory.free_devices == 0
    assert isinstance(pools.plan(asking("two", [500])), Allocation)
    inventory.release("one")
    inventory.drop_node("a")
    inventory.release("pool")
    inventory.put_node(there)
    assert inventory.free_devices == 2
