"""Shares and whole devices on one node, packed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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


def pack_products_by_hand(products: str, wholes: Sequence[str], shares: Sequence[tuple[int, str]]) -> bool:
    """The same where a bundle may ask for a product; "": for any."""
    for where in product(range(len(products)), repeat=len(wholes) + len(shares)):
        taken, lying = where[: len(wholes)], where[len(wholes) :]
        asked = (*wholes, *(of for _, of in shares))
        if len(set(taken)) < len(taken) or set(taken) & set(lying):
            continue
        if all(of in ("", products[at]) for of, at in zip(asked, where, strict=True)) and all(
            sum(a for (a, _), at in zip(shares, lying, strict=True) if at == d) <= 1000 for d in set(lying)
        ):
            return True
    return False


def test_all_small_cases_of_shares_and_whole_devices_of_some_product() -> None:
    """Whole devices are chosen first, and must leave to the shares what only those will have."""
    answers = set()
    for products in ("A", "AB", "BA", "AAB", "ABB", "BAA"):
        base = node("n", len(products), box=True)
        devices = tuple(
            replace(d, attributes={**d.attributes, "product": of}) for d, of in zip(base.devices, products, strict=True)
        )
        inventory = Inventory([replace(base, devices=devices)])
        for wholes in ((), ("",), ("A",), ("", "")):
            for count in range(1, 4):
                for asked in combinations_with_replacement(((400, ""), (700, ""), (400, "A"), (700, "B")), count):
                    bundles = [Bundle((DeviceRequest(1, products=(of,) if of else ()),)) for of in wholes]
                    bundles += [Bundle((DeviceRequest(1, share=a, products=(of,) if of else ()),)) for a, of in asked]
                    answer = plan(inventory, GangRequest("g", tuple(bundles)))
                    fits = pack_products_by_hand(products, wholes, asked)
                    assert isinstance(answer, Allocation) is fits, (products, wholes, asked)
                    answers.add(fits)
                    if isinstance(answer, Allocation):
                        inventory.hold(answer)
                        inventory.release("g")
    assert answers == {True, False}
