"""ConsumableShares: a device that several claims may have, with as much of its memory, or as many shares, as they ask.

Pure; `devices` calls it for GPUs and parts. It is accounting: nothing holds a claim to what it asked for.
"""

from __future__ import annotations

from typing import Any


def share(body: dict[str, Any], consumable_shares: str) -> None:
    """Open the published device to several claims.

    Args:
        consumable_shares: "memory": a claim has all memory unless it asks for less; "unlimited": none unless it asks;
            a number: the same, and at most so many claims.
    """
    body["allowMultipleAllocations"] = True
    memory = body["capacity"].get("memory")
    if memory is None:
        return
    whole = memory["value"]
    nothing = "0"
    default, least = (whole, "1Mi") if consumable_shares == "memory" else (nothing, nothing)
    policy = {"default": default, "validRange": {"min": least, "max": whole, "step": "1Mi"}}
    body["capacity"] = {**body["capacity"], "memory": {"value": whole, "requestPolicy": policy}}
    if consumable_shares.isdigit():
        one = {"min": "1", "max": consumable_shares, "step": "1"}
        body["capacity"]["shares"] = {
            "value": consumable_shares,
            "requestPolicy": {"default": "1", "validRange": one},
        }
