"""From chosen nodes to the bundles on them, in topology order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ray_dra.core.cluster.clique_state import SPARES, CliqueState
from ray_dra.core.cluster.device_choice import Masks
from ray_dra.core.cluster.node_state import EXCLUSIVE, EXCLUSIVE_SPARES, NodeState
from ray_dra.core.model.allocation import Grant, Placed
from ray_dra.core.model.device import Counter
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.request import Bundle
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.packing import Contents
from ray_dra.core.planner.scope import Scope


class NodeShare(NamedTuple):
    """So many bundles of each class on a node, out of the devices in `members`.

    `masks`: the devices of each bundle, class by class, where they have been chosen already.
    """

    state: NodeState
    members: int
    contents: Contents
    masks: Masks | None = None


class Layout(NamedTuple):
    """All bundles placed, or None; `proven` is False where a bounded search gave up.

    `masks`: the whole devices of each node, where they are at hand and nothing else is given.
    """

    bundles: tuple[Placed, ...] | None
    counters: tuple[tuple[Counter, int], ...] = ()
    proven: bool = True
    masks: dict[NodeState, int] | None = None


NOTHING = Layout(None)


def lay_out(folded: FoldedRequest, groups: Sequence[tuple[Sequence[int], Sequence[NodeShare]]]) -> tuple[Placed, ...]:
    """Give bundles of several classes their devices.

    Args:
        groups: (bundle indices ascending, node shares that hold exactly these); one a clique, or one for all.
    """
    placed: dict[int, Placed] = {}
    split = folded.node_classes.split
    class_of = folded.class_of
    for indices, node_shares in groups:
        waiting: list[list[int]] = [[] for _ in folded.classes]
        for index in reversed(indices):
            waiting[class_of[index]].append(index)
        for state, members, contents, chosen in sorted(node_shares, key=lambda node_share: node_share.state.key):
            masks = chosen if chosen is not None else split(state, members, contents)
            assert masks is not None, "the planner chose a node without room"
            at = 0
            for c, n in enumerate(contents):
                bundle = folded.classes[c]
                for _ in range(n):
                    grants = granted(state, masks[at], bundle)
                    placed[waiting[c].pop()] = Placed(state.name, grants, bundle.resources)
                    at += 1
    return tuple(placed[i] for i in range(len(placed)))


def granted(state: NodeState, mask: int, bundle: Bundle) -> tuple[Grant, ...]:
    """The devices of `mask` for a bundle, whole or a share of the one."""
    if not bundle.share:
        return state.granted(mask)
    grant = state.grants[mask.bit_length() - 1]
    return (grant._replace(amount=bundle.share, own=bundle.sharing is not None),)


def exclusively(scope: Scope, cliques: Iterable[CliqueState]) -> tuple[tuple[Counter, int], ...]:
    """The counters of a gang that has its cliques to itself."""
    if not scope.exclusive:
        return ()
    found = sorted((d.name, EXCLUSIVE_SPARES if d.kind == SPARES else EXCLUSIVE) for d in cliques)
    return tuple((counter, 1) for counter in found)


def imex_counters(
    clique: CliqueState, node_states: Sequence[NodeState], limits: Limits
) -> tuple[tuple[Counter, int], ...]:
    """The counters of a gang's part in one clique: its IMEX domain has the nodes, where there are several."""
    if not limits.compute_domains or not clique.fabric or len(node_states) < 2:
        return ()
    return tuple(state.imex_counter for state in node_states)
