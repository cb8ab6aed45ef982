"""Exact packing of items into bins, with a stated bound.

Used at two levels: bundles into nodes, and segments into cliques. Bins that look alike are one
type and items that look alike one class, so that the search works on counts and forgets symmetric
states. Best fit comes first, backtracking makes it exact: best-fit-decreasing alone refuses free
(4, 5) for items (3, 2, 2, 2).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ray_dra.core.planner.work import Work

Contents = tuple[int, ...]
"""How many items of each class a bin holds."""


@dataclass(frozen=True, slots=True)
class BinType:
    """`count` bins that look alike; `rank` orders the types, the preferred first."""

    key: Hashable
    count: int
    rank: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packing:
    """`bins`: (index of the bin type, contents) of each bin used. None: no packing, proven or not."""

    bins: tuple[tuple[int, Contents], ...] | None
    proven: bool = True


Fits = Callable[[int, Contents], bool]
"""Whether a bin of a type can hold these contents. Monotone: less of what fits, fits."""

Bins = Mapping[tuple[int, Contents], int]
"""How many bins of each (type, contents) there are."""

State = tuple[tuple[tuple[int, Contents], int], ...]
"""The same, sorted."""


def _anything(bins: Bins) -> bool:
    return True


def pack(
    counts: Contents,
    types: Sequence[BinType],
    fits: Fits,
    work: Work,
    *,
    max_bins: int | None = None,
    allowed: Callable[[Bins], bool] | None = None,
    accept: Callable[[Bins], bool] = _anything,
) -> Packing:
    """Place counts[c] items of each class c, the classes being ordered from the largest item down.

    Args:
        fits: see `Fits`; called often, so it should remember its answers.
        work: what is left of the plan's; one packing gives up, not proven, when it has used half of that, so that
            there is some left to look elsewhere.
        max_bins: at most this many bins may be used.
        allowed: whether these bins together may be part of a packing; less of what is allowed is allowed.
        accept: whether these bins are a packing, once everything is placed.
    """
    empty = (0,) * len(counts)
    start = {(t, empty): types[t].count for t in range(len(types)) if types[t].count}
    failed: set[tuple[Contents, State]] = set()
    stack = [_Frame(counts, start, 0)]
    step = 1 + len(counts) // 16  # a look at one bin; contents of many classes take longer
    least = work.left // 2
    while stack:
        frame = stack[-1]
        if frame.moves is None:
            frame.key = key = (frame.left, tuple(sorted(frame.bins.items(), key=_sort_key)))
            if key in failed:
                stack.pop()
                continue
            if not any(frame.left):
                if accept(frame.bins):
                    return Packing(_used(frame.bins))
                frame.moves = iter(())
            else:
                work.left -= step * (4 + len(frame.bins))
                if work.left <= least:
                    return Packing(None, proven=False)
                frame.moves = _moves(frame, types, fits, max_bins)
        move = next(frame.moves, None)
        if move is None:
            assert frame.key is not None
            failed.add(frame.key)
            stack.pop()
        elif allowed is None or allowed(move.bins):
            stack.append(move)
    return Packing(None)


class _Frame:
    __slots__ = ("bins", "key", "left", "moves", "opened")

    def __init__(self, left: Contents, bins: dict[tuple[int, Contents], int], opened: int) -> None:
        self.left = left
        self.bins = bins
        self.opened = opened
        self.key: tuple[Contents, State] | None = None
        self.moves: Iterator[_Frame] | None = None


def _moves(frame: _Frame, types: Sequence[BinType], fits: Fits, max_bins: int | None) -> Iterator[_Frame]:
    """The frames that place the next item, the best first; before them, where best fit leads for the items like it.

    Best fit fills the first bin that will do, then the bins like it: this one step takes what would be thousands.
    """
    item = next(c for c, n in enumerate(frame.left) if n)
    waiting = frame.left[item]
    # Bins in use first, so that few are opened; then by the preference of the caller.
    order = sorted(frame.bins, key=lambda b: (not any(b[1]), types[b[0]].rank, tuple(-n for n in b[1])))
    first = True
    for state in order:
        bin_type, contents = state
        opens = not any(contents)
        if opens and max_bins is not None and frame.opened >= max_bins:
            continue
        if not fits(bin_type, _grown(contents, item, 1)):
            continue
        if first and waiting > 1:
            many = 1
            while many < waiting and fits(bin_type, _grown(contents, item, many + 1)):
                many += 1
            alike = min(frame.bins[state], waiting // many)
            if opens and max_bins is not None:
                alike = min(alike, max_bins - frame.opened)
            if many * alike > 1:
                yield _after(frame, state, item, many, alike)
        first = False
        yield _after(frame, state, item, 1, 1)


def _after(frame: _Frame, state: tuple[int, Contents], item: int, many: int, alike: int) -> _Frame:
    """The frame once so many bins like this one have so many more of an item each."""
    bin_type, contents = state
    bins = dict(frame.bins)
    bins[state] -= alike
    if not bins[state]:
        del bins[state]
    grown = (bin_type, _grown(contents, item, many))
    bins[grown] = bins.get(grown, 0) + alike
    opened = 0 if any(contents) else alike
    return _Frame(_grown(frame.left, item, -many * alike), bins, frame.opened + opened)


def _grown(contents: Contents, item: int, by: int) -> Contents:
    return (*contents[:item], contents[item] + by, *contents[item + 1 :])


def _sort_key(entry: tuple[tuple[int, Contents], int]) -> tuple[int, Contents]:
    return entry[0]


def _used(bins: dict[tuple[int, Contents], int]) -> tuple[tuple[int, Contents], ...]:
    return tuple(state for state, n in sorted(bins.items()) for _ in range(n) if any(state[1]))
