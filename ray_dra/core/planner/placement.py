"""From chosen nodes to the bundles on them, in topology order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.device_choice import Masks
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.allocation import Grant, Placed
from ray_dra.core.model.device import Counter
from ray_dra.core.model.imex import Limits
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.packing import Contents
from ray_dra.core.planner.scope import Scope


class NodeShare(NamedTuple):
    """So many bundles of each class on a seat, out of the devices in `members`.

    `masks`: the devices of each bundle, class by class, where they have been chosen already.
    """

    seat: NodeState
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
    masks: dict[NodeState, int] | None = None


NOTHING = Layout(None)


def lay_out(needs: FoldedRequest, groups: Sequence[tuple[Sequence[int], Sequence[NodeShare]]]) -> tuple[Placed, ...]:
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


def granted(seat: NodeState, mask: int, share: int | None) -> tuple[Grant, ...]:
    """The devices of `mask`, whole or a share of the one."""
    if not share:
        return seat.granted(mask)
    return (seat.grants[mask.bit_length() - 1]._replace(amount=share),)


def exclusively(scope: Scope, domains: Iterable[CliqueState]) -> tuple[tuple[Counter, int], ...]:
    """The counters of a gang that has its cliques to itself."""
    return tuple(((d, "exclusive"), 1) for d in sorted(d.id for d in domains)) if scope.exclusive else ()


def imex(domain: CliqueState, node_states: Sequence[NodeState], limits: Limits) -> tuple[tuple[Counter, int], ...]:
    """The counters of a gang's part in one clique: its IMEX domain has the nodes, where there are several."""
    if not limits.compute_domains or not domain.fabric or len(node_states) < 2:
        return ()
    return tuple(seat.imex_counter for seat in node_states)
