"""Shares and whole devices on one node, packed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement, product

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from tests.core.machines import node


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
