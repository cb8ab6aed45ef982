"""When a gang that could start now waits for what it prefers, and when no longer. Pure; the caller has the clock.

A gang outside its clique is slow for as long as it runs, so a wait that is short beside its run pays, for it and
for those behind it: a gang that runs 2.4 times as long holds its devices 2.4 times as long (docs/benchmarks.md).
A program may say how long (`Locality.patience`). Where it says how long it runs instead, it is known what a clique
is worth: it waits while it would end sooner there than outside (docs/queue.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import QUEUE, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan

Answer = Allocation | Unsatisfiable


@dataclass(frozen=True, slots=True)
class Worth:
    """What a clique is worth to those who prefer it; an operator's to set.

    Attributes:
        speed: of a gang outside of what it prefers, where it is 1 inside; its program may say another.
        share: of its run that it waits where nobody can tell when it could have what it prefers.
    """

    speed: float = 1 / 2.4
    share: float = 0.1


WORTH = Worth()


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long one gang waits for what it prefers, from when it could start elsewhere.

    Attributes:
        most: seconds, at most.
        blind: seconds where nobody can tell when it could have it; None: `most`, whatever is known.
    """

    most: float = 0.0
    blind: float | None = None

    def until(self, since: float, at: float | None) -> float:
        """When the wait is over. `since`: when it could have started elsewhere; `at`: when it could have what it
        prefers, if all guesses hold; None: nobody can tell. What comes too late to be worth it is not waited for."""
        if self.blind is None:
            return since + self.most
        if at is None:
            return since + self.blind
        return at if at <= since + self.most else since


def patience_of(locality: Locality, runs_for: float | None = None, worth: Worth | None = None) -> Patience:
    """A gang's patience: as its program says, else as much as it would lose outside, if it says how long it runs.
    `worth`: None: only what programs say."""
    if locality.required or not locality.within_cliques:
        return Patience()
    if locality.patience is not None:
        return Patience(locality.patience)
    if runs_for is None or worth is None:
        return Patience()
    most = runs_for * (slowdown(locality, worth) - 1)
    return Patience(most, min(worth.share * runs_for, most))


def slowdown(locality: Locality, worth: Worth) -> float:
    """How many times as long a gang runs outside of what it prefers."""
    return 1 / (locality.outside_speed if locality.outside_speed is not None else worth.speed)


def runs_with(allocation: Allocation, locality: Locality, runs_for: float | None, worth: Worth | None) -> float | None:
    """How long a gang runs with what it got: longer outside of what it prefers. None: nobody has said."""
    if runs_for is None or worth is None or as_preferred(allocation, locality):
        return runs_for
    return runs_for * slowdown(locality, worth)


def as_preferred(allocation: Allocation, locality: Locality) -> bool:
    """Whether a gang got what it prefers of cliques: so few of them, each segment in one; or all on one node."""
    if locality.required:
        return True
    bundles, segment = allocation.bundles, locality.segment
    parts = [(bundles, locality.cliques)] if locality.cliques is not None else []
    if segment is not None:
        parts += [(bundles[start : start + segment], 1) for start in range(0, len(bundles), segment)]
    return all(_within(part, most) for part, most in parts)


def _within(bundles: tuple[Placed, ...], most: int) -> bool:
    grants = [grant for placed in bundles for grant in placed.grants]
    cliques = {grant.clique for grant in grants}
    return (None not in cliques and len(cliques) <= most) or len({grant.node for grant in grants}) == 1


def in_turn(
    inventory: Inventory,
    request: GangRequest,
    since: float | None,
    now: float,
    place: Callable[[bool], Answer],
    patience: Patience | None = None,
    expected: Callable[[], float | None] = lambda: None,
) -> tuple[Answer, float | None]:
    """The answer to the first in the queue: what it prefers while its patience lasts, then as near as can be.

    What not even an empty cluster has is not waited for.

    Args:
        since: when it could have started first; None until then.
        now: seconds, by the same clock.
        place: `plan` for it, strictly or not.
        patience: None: as its request says.
        expected: when it could have what it prefers, by the same clock; None: nobody can tell.

    Returns:
        The answer, and `since` for the next time. A no for want of patience says what the preferred place lacks.
    """
    patience = patience if patience is not None else patience_of(request.locality)
    if not patience.most:
        return place(False), since
    preferred = place(True)
    if isinstance(preferred, Allocation):
        return preferred, since
    nearest = place(False)
    if isinstance(nearest, Unsatisfiable):
        return nearest, since
    if since is None:
        ever = isinstance(plan(inventory.emptied(), request, strict=True), Allocation)
        since = now if ever else now - patience.most
    until = patience.until(since, expected() if patience.blind is not None else None)
    if now >= until:
        return nearest, since
    waits = short(ShortfallKind.PATIENCE, QUEUE, until - since, now - since)
    return Unsatisfiable(request.gang, (*preferred.shortfalls, waits)), since
