"""Why shares of a gang's own GPUs do not fit. Neighbour: `shortfalls.py`, which asks it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.device_selector import MEMORY
from ray_dra.core.model.gpu_sharing import GpuSharing, why_not_shared
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import Bundle
from ray_dra.core.model.selector import labels_match
from ray_dra.core.model.shortfall import CLUSTER, Shortfall, ShortfallKind, short
from ray_dra.core.planner.bundle_devices import ShareBundles
from ray_dra.core.planner.fold import FoldedRequest

NODES_TOLD = 4


Lost = tuple[tuple[str, str], ...]
"""Nodes that are not ready, and why."""


def not_ready(states: Iterable[NodeState]) -> Lost:
    """Those among these nodes: what is missing may be there once they are ready."""
    lost = sorted((s for s in states if not s.node.ready), key=lambda s: s.key)
    return tuple((state.name, state.node.reason) for state in lost[:NODES_TOLD])


def no_share(nodes: Sequence[NodeState], bundle: Bundle, sharing: GpuSharing, *, lost: Lost) -> list[Shortfall]:
    """Why none of these nodes has one share of this size; empty where one has. `lost`: others, that are not ready."""
    refusing = [(s.name, why) for s in nodes if (why := why_not_shared(s.node.unshared, sharing.kind))]
    facts: dict[str, Any] = {"share": bundle.share, "sharing": str(sharing), "criteria": bundle.criteria}
    if len(refusing) == len(nodes):
        return [short(ShortfallKind.SHARES, CLUSTER, 1, 0, refusing=tuple(sorted(refusing)[:NODES_TOLD]), **facts)]
    shareable = [state for state in nodes if not why_not_shared(state.node.unshared, sharing.kind)]
    sizes = {device.capacity.get(MEMORY, 0) for state in shareable for device in state.node.devices}
    if sharing.memory and not any(sharing.most_on(size) for size in sizes):
        return [short(ShortfallKind.SHARES, CLUSTER, 1, 0, memory=max(sizes, default=0), **facts)]
    bundles = ShareBundles(bundle.share or 0, bundle.criteria, Connect.ANY, sharing)
    if any(bundles.capacity(state, ALL_DEVICES) for state in shareable):
        return []
    return [short(ShortfallKind.SHARES, CLUSTER, 1, 0, free=0, lost=lost, **facts)]


def too_few_shares(nodes: Sequence[NodeState], folded: FoldedRequest, *, lost: Lost) -> Iterator[Shortfall]:
    """Classes of bundles of which these nodes have not so many shares, were all others left out. `lost`: other nodes,
    that are not ready."""
    sharing = folded.sharing
    if sharing is None:
        return
    for bundle, wanted in zip(folded.classes, folded.counts, strict=True):
        if not bundle.share:
            continue
        bundles = ShareBundles(bundle.share, bundle.criteria, folded.connect, sharing)
        open_to = [s for s in nodes if not bundle.labels or labels_match(bundle.labels, s.node.labels)]
        there = sum(bundles.capacity(state, ALL_DEVICES) for state in open_to)
        if there < wanted:
            free = sum(len(bundles.open_to(state)) for state in open_to)
            facts: dict[str, Any] = {
                "share": bundle.share,
                "sharing": str(sharing),
                "criteria": bundle.criteria,
            }
            yield short(ShortfallKind.SHARES, CLUSTER, wanted, there, free=free, lost=lost, **facts)
