"""A Scope: where one way of placing may look, and the ordered streams of cliques in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby, repeat
from operator import itemgetter
from typing import NamedTuple

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_order import CliqueOrder, Run
from ray_dra.core.cluster.clique_state import CLIQUE, CliqueKind, CliqueState


class Scope(NamedTuple):
    """Where to look.

    Attributes:
        kinds: of cliques, see `CliqueOrder.kind`.
        cliques: at most so many cliques; None: any number.
        segment: consecutive bundles that share a clique.
        exclusive: only cliques in which nobody has a device, and they become the gang's alone.
        one_node: all bundles on one node.
        anywhere: forget cliques and IMEX; a bundle may mix devices in a clique with devices in none.
        jointly: all cliques at once, and bundles without devices anywhere: `joint.py`.
    """

    kinds: tuple[CliqueKind, ...] = (CLIQUE,)
    cliques: int | None = None
    segment: int = 1
    exclusive: bool = False
    one_node: bool = False
    anywhere: bool = False
    jointly: bool = False


def tightest_first(orders: Sequence[CliqueOrder], shape: BundleShape, least: int) -> Iterator[tuple[int, CliqueState]]:
    """(capacity, clique) where it is `least` or more, the least roomy first, ties the fullest first, then by name."""
    if len(orders) == 1:
        order = orders[0]
        for capacity, rank in order.buckets(shape).upwards(least):
            yield capacity, order.at(rank)
        return
    for capacity, rank, at in merge(*(_tagged(c.buckets(shape).upwards(least), i) for i, c in enumerate(orders))):
        yield capacity, orders[at].at(rank)


def roomiest_first(
    orders: Sequence[CliqueOrder], shape: BundleShape, segment: int
) -> Iterator[tuple[CliqueState, int]]:
    """(clique, capacity), in the order of `Buckets.runs`; those that hold no segment are left out."""
    streams = [_numbered(order.buckets(shape).runs(segment), at) for at, order in enumerate(orders)]
    for (_, capacity), alike in groupby(merge(*streams) if len(streams) != 1 else streams[0], itemgetter(0, 1)):
        runs = list(alike)
        if len(runs) == 1:
            _, _, at, ranks = runs[0]
            clique_at = orders[at].at
            for rank in ranks:
                yield clique_at(rank), capacity
        else:
            for rank, at in merge(*(zip(ranks, repeat(at)) for _, _, at, ranks in runs)):
                yield orders[at].at(rank), capacity


def _numbered(runs: Iterable[Run], at: int) -> Iterator[tuple[int, int, int, Iterable[str]]]:
    return ((segments, capacity, at, ranks) for segments, capacity, ranks in runs)


def _tagged(stream: Iterable[tuple[int, str]], tag: int) -> Iterator[tuple[int, str, int]]:
    return ((capacity, rank, tag) for capacity, rank in stream)
