"""Shares of several sizes onto the devices of one node, beside the bundles that have whole devices there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ray_dra.core.cluster.device_choice import Masks, bits
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import WHOLE
from ray_dra.core.planner.work import Work

Key = tuple[int, tuple[tuple[int, int, int], ...]]
NO_LIMITS: Mapping[int, int] = {}


class WholesBeside:
    """The bundles of whole devices on a node, beside devices that are opened for shares."""

    def __init__(self, state: NodeState, free: int, sizes: Masks, allowed: Masks, connect: Connect) -> None:
        self.state, self.free, self.sizes, self.allowed, self.connect = state, free, sizes, allowed, connect
        self._found: dict[int, Masks | None] = {}

    def beside(self, opened: int) -> Masks | None:
        """Devices for each bundle when those in `opened` are others'; None where the bundles do not fit."""
        if opened not in self._found:
            each = tuple(1 << at for at in bits(opened))  # as bundles of one device
            allowed = (*self.allowed, *each)
            narrow = allowed if any(a != self.free for a in allowed) else None
            sizes = (*self.sizes, *(1 for _ in each))
            masks = self.state.graph.split(self.free, sizes, self.connect, narrow)
            self._found[opened] = None if masks is None else masks[: len(self.sizes)]
        return self._found[opened]


class OutOfWork(Exception):
    """The search has used up its part of the plan's work."""


def pack_shares(
    left: dict[int, int],
    shares: list[tuple[int, int]],
    wholes: WholesBeside | None,
    work: Work,
    most: Mapping[int, int] = NO_LIMITS,
) -> list[int] | None:
    """A device for each (share, devices allowed), the tightest first, by backtracking.

    Args:
        left: position -> thousandths.
        wholes: whole bundles that have to fit beside the devices that are opened; None: they have theirs.
        most: position -> how many shares may lie there; empty: as many as fit.
    """
    if sum(share for share, _ in shares) > sum(left.values()):
        return None
    if all(n >= len(shares) for n in most.values()):
        most = NO_LIMITS
    places = dict(most)
    if most and len(shares) > sum(most[p] for p in left):
        return None
    order = sorted(range(len(shares)), key=lambda i: (-shares[i][0], shares[i][1]))
    # Devices that the same shares may lie on are alike, unless whole bundles are to be put beside them.
    masks = sorted({allowed for _, allowed in shares})
    like = {p: p if wholes is not None else sum((m >> p & 1) << i for i, m in enumerate(masks)) for p in left}
    failed: set[Key] = set()
    trail = [_Step(0, 0)]
    least = work.left // 2  # as in `pack`: there is some left to look elsewhere
    while trail:
        step = trail[-1]
        if step.at == len(order):
            found = [0] * len(shares)
            for i, taken in zip(order, trail, strict=False):
                found[i] = 1 << taken.position
            return found
        share, allowed = shares[order[step.at]]
        if step.moves is None:
            step.key = (step.at, tuple(sorted((n, like[p], places.get(p, 0)) for p, n in left.items())))
            if step.key in failed:
                trail.pop()
                continue
            work.left -= 4 + len(left)
            if work.left <= least:
                raise OutOfWork
            fitting = {
                (n, like[p], places.get(p, 0)): p
                for p, n in sorted(left.items(), reverse=True)
                if n >= share and allowed >> p & 1 and places.get(p, 1)
            }
            step.moves = iter([(n, p) for (n, *_), p in sorted(fitting.items())])
        elif step.position >= 0:
            left[step.position] = step.amount
            if most:
                places[step.position] += 1
        move = next(step.moves, None)
        if move is None:
            failed.add(step.key)
            trail.pop()
            continue
        step.amount, step.position = move
        opened = step.opened | 1 << step.position if step.amount == WHOLE else step.opened
        if wholes is None or opened == step.opened or wholes.beside(opened) is not None:
            left[step.position] = step.amount - share
            if most:
                places[step.position] -= 1
            trail.append(_Step(step.at + 1, opened))
        else:
            step.position = -1
    return None


class _Step:
    """A step of the search: the share that is placed, devices opened before it, and where it lies now (-1: nowhere)."""

    __slots__ = ("amount", "at", "key", "moves", "opened", "position")

    def __init__(self, at: int, opened: int) -> None:
        self.at, self.opened = at, opened
        self.position = -1
        self.amount: int  # that was left where it lies
        self.key: Key  # once the step has been looked at
        self.moves: Iterator[tuple[int, int]] | None = None
