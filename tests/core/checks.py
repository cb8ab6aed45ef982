"""What every allocation has to fulfil, whatever the planner did to find it."""

from __future__ import annotations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest, Strategy
from tests.core.machines import picture


def check(allocation: Allocation, inventory: Inventory, request: GangRequest) -> None:
    """An allocation meets its request and can be held."""
    assert len(allocation.bundles) == len(request.bundles)
    for placed, bundle in zip(allocation.bundles, request.bundles, strict=True):
        assert len(placed.grants) == bundle.count
        assert all(g.node == placed.node for g in placed.grants)
    devices = [g.device for g in allocation.grants]
    assert len(set(devices)) == len(devices)
    for grant in allocation.grants:
        assert inventory.node_states[grant.node].free >> grant.position & 1
    locality = request.locality
    if locality.within_cliques and locality.required:
        at = allocation.cliques
        assert None not in at
        if locality.cliques is not None:
            assert len(set(at)) <= locality.cliques
        step = locality.segment or 1
        assert all(len(set(at[i : i + step])) == 1 for i in range(0, len(at), step))
    if request.strategy is Strategy.STRICT_PACK:
        assert len(set(allocation.nodes)) == 1
    if request.strategy is Strategy.STRICT_SPREAD:
        assert len(set(allocation.nodes)) == len(allocation.nodes)
    if inventory.limits.compute_domains and locality.within_cliques and locality.required:
        in_imex = {scope for (scope, what), _ in allocation.counters if what == "imex"}
        for clique in {c for c in allocation.cliques if c is not None and not c.startswith("box.")}:
            nodes = {p.node for p in allocation.bundles if p.clique == clique}
            if len(nodes) > 1:
                assert len(nodes) <= inventory.limits.domain_nodes
                assert {"node/" + n for n in nodes} <= in_imex
                assert all(inventory.node_states[n].imex_gang is None for n in nodes)
    before = picture(inventory)
    inventory.hold(allocation)
    inventory.release(allocation.gang)
    assert picture(inventory) == before
