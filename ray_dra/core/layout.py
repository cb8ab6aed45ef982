"""From chosen nodes to the bundles on them, in topology order.

Shared by the counting and the searching planner: both say how many bundles of which class go on
which seat, and this gives every bundle its node and its devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.allocation import Placed
from ray_dra.core.inventory import LOOSE, Domain, Inventory, Seat
from ray_dra.core.needs import Needs
from ray_dra.core.packing import Contents
from ray_dra.core.topology import Counter


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to look.

    Attributes:
        cliques: at most so many cliques; None: any number.
        segment: consecutive bundles that share a clique.
        exclusive: only cliques in which nobody has a device, and they become the gang's alone.
        one_node: all bundles on one node (Ray's STRICT_PACK).
        anywhere: forget cliques; a bundle may mix devices in a clique with devices in none.
    """

    cliques: int | None = None
    segment: int = 1
    exclusive: bool = False
    one_node: bool = False
    anywhere: bool = False


class Pick(NamedTuple):
    """So many bundles of each class on a seat, out of the devices in `members`."""

    seat: Seat
    members: int
    contents: Contents


class Layout(NamedTuple):
    """All bundles placed, or None; `proven` is False where a bounded search gave up."""

    bundles: tuple[Placed, ...] | None
    counters: tuple[tuple[Counter, int], ...] = ()
    proven: bool = True


NOTHING = Layout(None)


def candidates(inventory: Inventory, scope: Scope, least: int) -> Iterable[Domain]:
    """Domains with at least `least` free devices, the tightest first.

    Devices in no clique form a domain of their own, offered last, and only to those who do not ask
    for a clique.
    """
    for _, clique in inventory.capacity_index(1).upwards(least):
        if clique != LOOSE:
            domain = inventory.domains[clique]
            if not scope.exclusive or domain.empty:
                yield domain


def lay_out(needs: Needs, groups: Sequence[tuple[Sequence[int], Sequence[Pick]]]) -> tuple[Placed, ...]:
    """Give bundles their devices.

    Args:
        groups: (bundle indices ascending, picks that hold exactly these); one a clique, or one for all.
    """
    placed: dict[int, Placed] = {}
    for indices, picks in groups:
        waiting: list[list[int]] = [[] for _ in needs.classes]
        for index in reversed(indices):
            waiting[needs.class_of[index]].append(index)
        for seat, members, contents in sorted(picks, key=lambda pick: pick.seat.key):
            mask = seat.free & members
            masks = needs.split(seat, mask, contents)
            assert masks is not None, "the planner chose a seat without room"
            at = 0
            for c, n in enumerate(contents):
                resources = needs.classes[c].resources
                for _ in range(n):
                    placed[waiting[c].pop()] = Placed(seat.name, seat.granted(masks[at]), resources)
                    at += 1
    return tuple(placed[i] for i in range(len(placed)))


def exclusively(scope: Scope, cliques: Iterable[str]) -> tuple[tuple[Counter, int], ...]:
    """The counters of a gang that has its cliques to itself."""
    return tuple(((clique, "exclusive"), 1) for clique in sorted(cliques)) if scope.exclusive else ()
