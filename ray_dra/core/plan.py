"""plan(inventory, request) -> Allocation | Unsatisfiable: where a gang goes.

Pure and deterministic. The ways to look for room, in order, by what the request demands of cliques:

    required     one node; the one clique; the cliques or segments it names; or no
    preferred    one node; one clique; its segments, or the fewest cliques; else anywhere
    nothing      like preferred, so that gangs stay together and whole cliques stay whole

In each, a gang takes the tightest place that fits, and leaves the roomier ones to those who need
them. Equal bundles are counted (`counting.py`), mixed ones searched exactly (`mixed.py`); what is
missing after a no is worked out in `shortfalls.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ray_dra.core.allocation import Allocation, Unsatisfiable
from ray_dra.core.counting import place_equal
from ray_dra.core.inventory import Inventory
from ray_dra.core.layout import Layout, Scope
from ray_dra.core.mixed import place_mixed
from ray_dra.core.needs import Needs, kinds_for
from ray_dra.core.request import GangRequest, Strategy
from ray_dra.core.shortfalls import shortfalls


def plan(inventory: Inventory, request: GangRequest, *, epoch: int = 0) -> Allocation | Unsatisfiable:
    """Decide where the whole gang goes, without holding anything.

    Returns:
        The Allocation, or Unsatisfiable with at least one shortfall. A no is exact, except where
        `proven` is False: then the search of mixed bundles reached `packing.SEARCH_BOUND` states.
    """
    needs = Needs(request)
    layout = place(inventory, needs)
    if layout.bundles is not None:
        return Allocation(request.gang, layout.bundles, epoch, request.priority, layout.counters)
    return Unsatisfiable(request.gang, shortfalls(inventory, needs, proven=layout.proven), layout.proven)


def place(inventory: Inventory, needs: Needs) -> Layout:
    """The layout of a gang, or why there is none: not at all, or not within the bound."""
    request = needs.request
    proven = True
    rounds: tuple[Needs, ...] = (needs,)
    if request.strategy is Strategy.SPREAD and len(request.bundles) > 1:
        rounds = (Needs(request, spread=True), needs)
    for tried in rounds:
        put = place_equal if tried.equal else place_mixed
        for scope in scopes(inventory, tried):
            layout = put(inventory, tried, scope)
            if layout.bundles is not None:
                return layout
            proven = proven and layout.proven and tried.proven
    return Layout(None, proven=proven)


def scopes(inventory: Inventory, needs: Needs) -> Iterator[Scope]:
    """The ways to look for room, the preferred first; the last one decides whether the answer is no."""
    request, locality = needs.request, needs.request.locality
    bundles = len(request.bundles)
    required = locality.within_cliques and locality.required
    one_node = request.strategy is Strategy.STRICT_PACK
    segment, limit = locality.segment or 1, locality.cliques
    if segment == bundles:  # in one clique, whatever else is said
        segment, limit = 1, 1
    small = bundles == 1 or not needs.spread
    if small and not one_node:
        small = (needs.size * bundles if needs.equal else request.device_count) < len(inventory.by_free)
    exclusive = locality.exclusive
    for kinds in kinds_for(request, cliques=required):
        if one_node or small:
            yield Scope(kinds, 1, 1, exclusive, True)
        if one_node or bundles == 1:
            continue
        yield Scope(kinds, 1, 1, exclusive)
        if locality.within_cliques and (limit, segment) != (1, 1):
            yield Scope(kinds, limit, segment, exclusive)
        if not required:
            yield Scope(kinds)
    if not required:
        yield Scope(anywhere=True, one_node=one_node)
