"""A Scope: where one way of placing may look, and the ordered streams of cliques in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby, repeat
from operator import itemgetter
from typing import NamedTuple

from ray_dra.core.cluster.clique_order import CliqueOrder, Run
from ray_dra.core.cluster.clique_state import BundleShape, CliqueState
from ray_dra.core.cluster.index import CLIQUE


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


def tightest_first(
    catalogs: Sequence[CliqueOrder], measure: BundleShape, least: int
) -> Iterator[tuple[int, CliqueState]]:
    """(room, domain) with room for at least `least`, the least roomy first, ties the fullest first, then by name."""
    if len(catalogs) == 1:
        catalog = catalogs[0]
        for room, rank in catalog.buckets(measure).upwards(least):
            yield room, catalog.at(rank)
        return
    for room, rank, at in merge(*(_tagged(c.buckets(measure).upwards(least), i) for i, c in enumerate(catalogs))):
        yield room, catalogs[at].at(rank)


def roomiest_first(
    catalogs: Sequence[CliqueOrder], measure: BundleShape, segment: int
) -> Iterator[tuple[CliqueState, int]]:
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
