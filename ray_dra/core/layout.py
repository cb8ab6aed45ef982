"""From chosen nodes to the bundles on them, in topology order.

Shared by the counting and the searching planner: both say how many bundles of which class go on
which seat, and this gives every bundle its node and its devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby, repeat
from operator import itemgetter
from typing import NamedTuple

from ray_dra.core.allocation import Grant, Placed
from ray_dra.core.catalog import Catalog, Run
from ray_dra.core.devices import Masks
from ray_dra.core.domain import Domain, Measure
from ray_dra.core.index import CLIQUE
from ray_dra.core.limits import Limits
from ray_dra.core.needs import Needs
from ray_dra.core.packing import Contents
from ray_dra.core.seat import Seat
from ray_dra.core.topology import Counter


class Scope(NamedTuple):
    """Where to look.

    Attributes:
        kinds: kinds of catalog.
        cliques: at most so many cliques; None: any number.
        segment: consecutive bundles that share a clique.
        exclusive: only cliques in which nobody has a device, and they become the gang's alone.
        one_node: all bundles on one node.
        anywhere: forget cliques and IMEX; a bundle may mix devices in a clique with devices in none.
        jointly: all cliques at once, and bundles without devices anywhere: `joint.py`.
    """

    kinds: tuple[str, ...] = (CLIQUE,)
    cliques: int | None = None
    segment: int = 1
    exclusive: bool = False
    one_node: bool = False
    anywhere: bool = False
    jointly: bool = False


class Pick(NamedTuple):
    """So many bundles of each class on a seat, out of the devices in `members`.

    `masks`: the devices of each bundle, class by class, where they have been chosen already.
    """

    seat: Seat
    members: int
    contents: Contents
    masks: Masks | None = None


class Layout(NamedTuple):
    """All bundles placed, or None; `proven` is False where a bounded search gave up.

    `masks`: the whole devices of each seat, where they are at hand and nothing else is given.
    """

    bundles: tuple[Placed, ...] | None
    counters: tuple[tuple[Counter, int], ...] = ()
    proven: bool = True
    masks: dict[Seat, int] | None = None


NOTHING = Layout(None)


def tightest_first(catalogs: Sequence[Catalog], measure: Measure, least: int) -> Iterator[tuple[int, Domain]]:
    """(room, domain) with room for at least `least`, the least roomy first, ties the fullest first, then by name."""
    if len(catalogs) == 1:
        catalog = catalogs[0]
        for room, rank in catalog.buckets(measure).upwards(least):
            yield room, catalog.at(rank)
        return
    for room, rank, at in merge(*(_tagged(c.buckets(measure).upwards(least), i) for i, c in enumerate(catalogs))):
        yield room, catalogs[at].at(rank)


def roomiest_first(catalogs: Sequence[Catalog], measure: Measure, segment: int) -> Iterator[tuple[Domain, int]]:
    """(domain, room), in the order of `Buckets.runs`; those without room for a segment are left out."""
    streams = [_numbered(catalog.buckets(measure).runs(segment), at) for at, catalog in enumerate(catalogs)]
    for (_, room), alike in groupby(merge(*streams) if len(streams) != 1 else streams[0], itemgetter(0, 1)):
        runs = list(alike)
        if len(runs) == 1:
            _, _, at, ranks = runs[0]
            domain_at = catalogs[at].at
            for rank in ranks:
                yield domain_at(rank), room
        else:
            for rank, at in merge(*(zip(ranks, repeat(at)) for _, _, at, ranks in runs)):
                yield catalogs[at].at(rank), room


def _numbered(runs: Iterable[Run], at: int) -> Iterator[tuple[int, int, int, Iterable[str]]]:
    return ((segments, room, at, ranks) for segments, room, ranks in runs)


def _tagged(stream: Iterable[tuple[int, str]], tag: int) -> Iterator[tuple[int, str, int]]:
    return ((room, rank, tag) for room, rank in stream)


def lay_out(needs: Needs, groups: Sequence[tuple[Sequence[int], Sequence[Pick]]]) -> tuple[Placed, ...]:
    """Give bundles of several classes their devices.

    Args:
        groups: (bundle indices ascending, picks that hold exactly these); one a clique, or one for all.
    """
    placed: dict[int, Placed] = {}
    class_of = needs.class_of
    for indices, picks in groups:
        waiting: list[list[int]] = [[] for _ in needs.classes]
        for index in reversed(indices):
            waiting[class_of[index]].append(index)
        for seat, members, contents, chosen in sorted(picks, key=lambda pick: pick.seat.key):
            masks = chosen if chosen is not None else needs.split(seat, members, contents)
            assert masks is not None, "the planner chose a seat without room"
            at = 0
            for c, n in enumerate(contents):
                bundle = needs.classes[c]
                for _ in range(n):
                    grants = granted(seat, masks[at], bundle.share)
                    placed[waiting[c].pop()] = Placed(seat.name, grants, bundle.resources)
                    at += 1
    return tuple(placed[i] for i in range(len(placed)))


def granted(seat: Seat, mask: int, share: int | None) -> tuple[Grant, ...]:
    """The devices of `mask`, whole or a share of the one."""
    if not share:
        return seat.granted(mask)
    return (seat.grants[mask.bit_length() - 1]._replace(amount=share),)


def exclusively(scope: Scope, domains: Iterable[Domain]) -> tuple[tuple[Counter, int], ...]:
    """The counters of a gang that has its cliques to itself."""
    return tuple(((d, "exclusive"), 1) for d in sorted(d.id for d in domains)) if scope.exclusive else ()


def imex(domain: Domain, seats: Sequence[Seat], limits: Limits) -> tuple[tuple[Counter, int], ...]:
    """The counters of a gang's part in one clique: its IMEX domain has the nodes, where there are several."""
    if not limits.compute_domains or not domain.fabric or len(seats) < 2:
        return ()
    return tuple(seat.imex_counter for seat in seats)
