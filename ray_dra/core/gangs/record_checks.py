"""What holds of every record, and of what is kept beside the records. For tests.

Neighbours: `Records.validate` and `SetIndex.validate` ask it.
"""

from __future__ import annotations

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.phases import ARROWS
from ray_dra.core.gangs.shapes import gpu_of, sense_of_kept, sense_of_reshape


def validate_gang(gang: Gang) -> None:
    if gang.unpaid and gang.allocation is not None:
        raise AssertionError(f"gang {gang.id} holds what nobody pays for")
    if gang.allocation is not None:
        counts = [len(placed.grants) for placed in gang.allocation.bundles]
        same(f"devices of gang {gang.id}", counts, [bundle.count for bundle in gang.request.bundles])
        same(f"what gang {gang.id} keeps", sense_of_kept(gang.allocation), "")
    if gang.reshape is not None:
        wrong = sense_of_reshape(gang.reshape, gang.shape, gang.id, gang.moves)
        same(f"the change of gang {gang.id}'s shape", wrong, "")
        held = set(map(gpu_of, gang.reshape.holds.held_grants))
        for shape in (gang.reshape.leaves, gang.reshape.comes):
            lacking = set(map(gpu_of, shape.allocation.held_grants)) - held
            same(f"GPUs of a shape of gang {gang.id} that are not held", lacking, set())
    if not gang.history:
        raise AssertionError(f"gang {gang.id} has no history")
    for before, change in zip(gang.history, gang.history[1:], strict=False):
        same(f"history of gang {gang.id}", change.was, before.to)
        if before.to is not change.to and (before.to, change.to) not in ARROWS:
            raise AssertionError(f"gang {gang.id}: no arrow leads from {before.to} to {change.to}: {change.why}")


def same(what: str, found: object, scanned: object) -> None:
    if found != scanned:
        raise AssertionError(f"{what}: {found} is kept, and {scanned} is so")
