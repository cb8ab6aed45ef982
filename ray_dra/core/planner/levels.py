"""Levels above the clique: a gang over several cliques stays in one domain of the lowest level that holds it.

    spine  s1 ------------- s2          A gang that no clique holds is tried in each leaf, then in each spine,
    leaf   l1 ---- l2       l3          then anywhere. Of several domains of a level it takes the one where it
    clique c1 c2   c3 c4    c5 c6       has the fewest cliques, then the one with the least room.

With `at_most("leaf", 2)` it is tried after one leaf in two of one spine, then in any two; only then in a spine.

Levels are preferred, never required: where no domain holds the gang, it is placed as if there were none, so a no is as
true as without. Neighbours: `equal.py` and `unequal.py`, which ask here; the domains of a clique are the index's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest

Share = tuple[CliqueState, int]
"""A clique, and how many bundles it holds, or is to hold."""
T = TypeVar("T")
LevelDomains = list[tuple[str, list[T]]]
"""By name, with what lies in each."""


class Limit(NamedTuple):
    """At most `domains` of the level with this index."""

    level: int
    domains: int


NO_LIMIT = Limit(-1, 1)


def level_named(labels: Sequence[str], name: str) -> int | None:
    """The index of a level: by its label, or by what follows the last slash of one label alone."""
    if name in labels:
        return labels.index(name)
    found = [at for at, label in enumerate(labels) if label.rpartition("/")[2] == name]
    return found[0] if len(found) == 1 else None


def limit_of(inventory: Inventory, locality: Locality) -> Limit:
    """The limit of a request. One of a level that the cluster has no more says nothing."""
    if not locality.level or locality.domains is None:
        return NO_LIMIT
    at = level_named(inventory.level_labels, locality.level)
    return NO_LIMIT if at is None else Limit(at, locality.domains)


def check_level(inventory: Inventory, locality: Locality) -> None:
    """Raises InvalidRequest for a level that the cluster does not have, or that could be one of two."""
    if locality.level and level_named(inventory.level_labels, locality.level) is None:
        raise InvalidRequest(
            "There is no such level, or several labels end so.",
            place="locality.level",
            wanted=locality.level,
            available=", ".join(inventory.level_labels) or "none (docs/planner.md)",
        )


def rounds(
    inventory: Inventory, found: Iterable[T], clique_of: Callable[[T], CliqueState], limit: Limit = NO_LIMIT
) -> Iterator[tuple[int, list[tuple[str, LevelDomains[T]]]]]:
    """What is tried, one after the other: (so many domains at most, [the domains to choose from, and what joins them]).

    A clique whose nodes are in several domains of a level is in none of them.
    """
    paths = [(each, inventory.above(clique_of(each))) for each in found]
    for at in range(len(inventory.level_labels)):
        yield 1, [(name, [(name, there)]) for name, there in _domains(paths, at)]
        if limit.level == at and limit.domains > 1:
            for above in range(at + 1, len(inventory.level_labels)):
                joined: dict[str, list[tuple[T, tuple[str | None, ...]]]] = {}
                for each in paths:
                    if (name := each[1][above]) is not None:
                        joined.setdefault(name, []).append(each)
                yield limit.domains, [(name, _domains(some, at)) for name, some in sorted(joined.items())]
            yield limit.domains, [("", _domains(paths, at))]


def _domains(paths: Iterable[tuple[T, tuple[str | None, ...]]], at: int) -> LevelDomains[T]:
    found: dict[str, list[T]] = {}
    for each, path in paths:
        if (name := path[at]) is not None:
            found.setdefault(name, []).append(each)
    return sorted(found.items())


def nearest(
    inventory: Inventory, found: Sequence[Share], total: int, segment: int, cliques: int | None, limit: Limit = NO_LIMIT
) -> list[Share] | None:
    """Where `total` equal bundles go, in whole segments, in one domain of the lowest level that holds them, or in as
    many as `limit` says; None where none do. `found`: the cliques with what each holds; `cliques`: at most so many."""
    for most, choices in rounds(inventory, found, lambda share: share[0], limit):
        best: tuple[int, int, int, str] | None = None
        chosen: list[Share] | None = None
        for name, there in choices:
            taken = _few(there, total // segment, segment, cliques, most)
            if taken is None:
                continue
            shares = fewest([share for _, some in taken for share in some], total, segment, cliques)
            if shares is None:
                continue
            holds = sum(capacity for _, some in taken for _, capacity in some)
            rank = (len(taken), len(shares), holds, name)
            if best is None or rank < best:
                best, chosen = rank, shares
        if chosen is not None:
            return chosen
    return None


def _few(
    there: LevelDomains[Share], segments: int, segment: int, cliques: int | None, most: int
) -> LevelDomains[Share] | None:
    """The fewest of these domains, `most` at most, of which the cliques, `cliques` at most, hold so many segments; the
    roomiest, and for the last one the tightest. None where there are none."""
    holding = []
    for domain in there:
        sizes = sorted((capacity // segment for _, capacity in domain[1]), reverse=True)[:cliques]
        holding.append((sum(sizes), sizes, domain))
    holding.sort(key=lambda each: (-each[0], each[2][0]))
    if sum(each[0] for each in holding[:most]) < segments:
        return None  # not even with so many cliques in each
    if cliques is not None and most > 1:
        return _few_of_few([(sizes, domain) for _, sizes, domain in holding], segments, cliques, most)
    chosen: LevelDomains[Share] = []
    while segments > holding[0][0]:
        left, _, domain = holding.pop(0)
        chosen.append(domain)
        segments -= left
    return [*chosen, min((each for each in holding if each[0] >= segments), key=lambda each: (each[0], each[2][0]))[2]]


def _few_of_few(
    holding: Sequence[tuple[list[int], tuple[str, list[Share]]]], segments: int, cliques: int, most: int
) -> LevelDomains[Share] | None:
    """The same where the cliques are limited over all domains: which of them to take depends on how many of its cliques
    each gives, so all ways are counted, domain by domain, the best for so many domains and cliques kept."""
    best: dict[tuple[int, int], tuple[int, LevelDomains[Share]]] = {(0, 0): (0, [])}
    for sizes, domain in holding:
        for (domains, used), (held, chosen) in list(best.items()):
            if domains == most:
                continue
            for count in range(1, min(len(sizes), cliques - used) + 1):
                held += sizes[count - 1]
                key = (domains + 1, used + count)
                if key not in best or best[key][0] < held:
                    best[key] = (held, [*chosen, domain])
    enough = [(key, chosen) for key, (held, chosen) in best.items() if held >= segments]
    return min(enough, key=lambda each: each[0])[1] if enough else None


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
