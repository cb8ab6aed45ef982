"""Levels above the clique: a gang over several cliques stays in one domain of the lowest level that holds it.

    spine  s1 ------------- s2          A gang that no clique holds is tried in each leaf, then in each spine,
    leaf   l1 ---- l2       l3          then anywhere. Of several domains of a level it takes the one where it
    clique c1 c2   c3 c4    c5 c6       has the fewest cliques, then the one with the least room.

Levels are preferred, never required: where no domain holds the gang, it is placed as if there were none, so a no is as
true as without. Neighbours: `equal.py` and `unequal.py`, which ask here; the domains of a clique are the index's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory

Share = tuple[CliqueState, int]
"""A clique, and how many bundles it holds, or is to hold."""
T = TypeVar("T")


def domains(
    inventory: Inventory, found: Iterable[T], clique_of: Callable[[T], CliqueState]
) -> Iterator[list[tuple[str, list[T]]]]:
    """Level by level, the lowest first: each domain, by name, with what lies in it, in its order. A clique whose nodes
    are in several domains of a level is in none of them."""
    by_level: list[dict[str, list[T]]] = [{} for _ in inventory.level_labels]
    for each in found:
        for level, domain in zip(by_level, inventory.above(clique_of(each)), strict=True):
            if domain is not None:
                level.setdefault(domain, []).append(each)
    for level in by_level:
        yield sorted(level.items())


def nearest(
    inventory: Inventory, found: Sequence[Share], total: int, segment: int, cliques: int | None
) -> list[Share] | None:
    """Where `total` equal bundles go, in whole segments, in one domain of the lowest level that holds them; None where
    no domain does. `found`: the cliques with what each holds; `cliques`: so many of them at most."""
    for level in domains(inventory, found, lambda share: share[0]):
        best: tuple[int, int, str] | None = None
        chosen: list[Share] | None = None
        for name, there in level:
            if sum(capacity // segment for _, capacity in there) < total // segment:
                continue
            holds = sum(capacity for _, capacity in there)
            shares = fewest(there, total, segment, cliques)
            if shares is not None and (best is None or (len(shares), holds, name) < best):
                best, chosen = (len(shares), holds, name), shares
        if chosen is not None:
            return chosen
    return None


def fewest(there: Iterable[Share], total: int, segment: int, cliques: int | None) -> list[Share] | None:
    """The fewest of these cliques that hold `total` bundles in whole segments, the last one the tightest; None where
    they do not, or more than `cliques` would be needed. Largest first is exact, as in `equal.py`."""
    left = sorted(there, key=lambda share: (-(share[1] // segment), share[1], share[0].rank))
    chosen: list[Share] = []
    for at, (clique, capacity) in enumerate(left):
        if cliques is not None and len(chosen) == cliques:
            return None
        whole = capacity - capacity % segment
        if total < whole + segment:  # before that no single clique takes the rest
            last = min((s for s in left[at:] if s[1] >= total), key=lambda s: (s[1], s[0].rank), default=None)
            if last is not None:
                return [*chosen, (last[0], total)]
        if not whole:
            return None
        chosen.append((clique, whole))
        total -= whole
        if not total:
            return chosen
    return None
