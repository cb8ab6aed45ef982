"""Exact packing of items into bins, with a stated bound.

Used at two levels: bundles into nodes, and segments into cliques. Bins that look alike are one
type and items that look alike one class, so that the search works on counts and forgets symmetric
states. Best fit comes first, backtracking makes it exact: best-fit-decreasing alone refuses free
(4, 5) for items (3, 2, 2, 2).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

Contents = tuple[int, ...]
"""How many items of each class a bin holds."""

SEARCH_BOUND = 20_000
"""States looked at before the search gives up; its "no" then says so."""


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

State = tuple[tuple[tuple[int, Contents], int], ...]
"""How many bins of each (type, contents) there are, sorted."""


def pack(
    counts: Contents, types: Sequence[BinType], fits: Fits, *, max_bins: int | None = None, bound: int = SEARCH_BOUND
) -> Packing:
    """Place counts[c] items of each class c, the classes being ordered from the largest item down.

    Args:
        fits: see `Fits`; called often, so it should remember its answers.
        max_bins: at most this many bins may be used.
        bound: states looked at before giving up, when proven is False.
    """
    empty = (0,) * len(counts)
    start = {(t, empty): types[t].count for t in range(len(types)) if types[t].count}
    failed: set[tuple[Contents, State]] = set()
    stack = [_Frame(counts, start, 0)]
    seen = 0
    while stack:
        frame = stack[-1]
        if frame.moves is None:
            if not any(frame.left):
                return Packing(_used(frame.bins))
            key = (frame.left, tuple(sorted(frame.bins.items(), key=_sort_key)))
            if key in failed:
                stack.pop()
                continue
            frame.key = key
            seen += 1
            if seen > bound:
                return Packing(None, proven=False)
            frame.moves = _moves(frame, types, fits, max_bins)
        if not frame.moves:
            assert frame.key is not None
            failed.add(frame.key)
            stack.pop()
            continue
        stack.append(frame.moves.pop())
    return Packing(None)


class _Frame:
    __slots__ = ("bins", "key", "left", "moves", "opened")

    def __init__(self, left: Contents, bins: dict[tuple[int, Contents], int], opened: int) -> None:
        self.left = left
        self.bins = bins
        self.opened = opened
        self.key: tuple[Contents, State] | None = None
        self.moves: list[_Frame] | None = None


def _moves(frame: _Frame, types: Sequence[BinType], fits: Fits, max_bins: int | None) -> list[_Frame]:
    """The frames that place the next item, the best last (they are popped from the end)."""
    item = next(c for c, n in enumerate(frame.left) if n)
    left = (*frame.left[:item], frame.left[item] - 1, *frame.left[item + 1 :])
    moves = []
    # Bins in use first, so that few are opened; then by the preference of the caller.
    order = sorted(frame.bins, key=lambda b: (not any(b[1]), types[b[0]].rank, tuple(-n for n in b[1])))
    for state in order:
        kind, contents = state
        opens = not any(contents)
        if opens and max_bins is not None and frame.opened >= max_bins:
            continue
        grown = (*contents[:item], contents[item] + 1, *contents[item + 1 :])
        if not fits(kind, grown):
            continue
        bins = dict(frame.bins)
        bins[state] -= 1
        if not bins[state]:
            del bins[state]
        bins[kind, grown] = bins.get((kind, grown), 0) + 1
        moves.append(_Frame(left, bins, frame.opened + opens))
    moves.reverse()
    return moves


def _sort_key(entry: tuple[tuple[int, Contents], int]) -> tuple[int, Contents]:
    return entry[0]


def _used(bins: dict[tuple[int, Contents], int]) -> tuple[tuple[int, Contents], ...]:
    return tuple(state for state, n in sorted(bins.items()) for _ in range(n) if any(state[1]))
