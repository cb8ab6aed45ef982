"""When a gang that could start now waits for what it prefers, and when no longer. Pure; the caller has the clock.

A gang outside its clique is slow for as long as it runs, so a wait that is short beside its run pays, for it and
for those behind it: a gang that runs 2.4 times as long holds its devices 2.4 times as long (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Callable

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import QUEUE, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan

Answer = Allocation | Unsatisfiable


def in_turn(
    inventory: Inventory, request: GangRequest, since: float | None, now: float, place: Callable[[bool], Answer]
) -> tuple[Answer, float | None]:
    """The answer to the first in the queue: what it prefers while its patience lasts, then as near as can be.

    What not even an empty cluster has is not waited for.

    Args:
        since: when it could have started first; None until then.
        now: seconds, by the same clock.
        place: `plan` for it, strictly or not.

    Returns:
        The answer, and `since` for the next time. A no for want of patience says what the preferred place lacks.
    """
    patience = request.locality.patience
    if not patience:
        return place(False), since
    preferred = place(True)
    if isinstance(preferred, Allocation):
        return preferred, since
    nearest = place(False)
    if isinstance(nearest, Unsatisfiable):
        return nearest, since
    if since is None:
        ever = isinstance(plan(inventory.emptied(), request, strict=True), Allocation)
        since = now if ever else now - patience
    if now - since >= patience:
        return nearest, since
    waits = short(ShortfallKind.PATIENCE, QUEUE, patience, now - since)
    return Unsatisfiable(request.gang, (*preferred.shortfalls, waits)), since
