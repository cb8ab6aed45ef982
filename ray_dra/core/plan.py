"""plan(inventory, request) -> Allocation | Unsatisfiable: where a gang goes.

Pure and deterministic. Three ways to look for room, by what the request demands of cliques:

    required     the cliques it names, or no
    preferred    one clique; else its segments, or the fewest cliques; else anywhere
    nothing      like preferred, so that gangs stay together and whole cliques stay whole

In each, a gang takes the tightest clique that fits, and leaves the roomier ones to those who need
them. Equal bundles are counted (`counting.py`), mixed ones searched exactly (`mixed.py`); what is
missing after a no is worked out in `shortfalls.py`.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.allocation import Allocation, Unsatisfiable
from ray_dra.core.counting import place_equal
from ray_dra.core.inventory import Inventory
from ray_dra.core.layout import Layout, Scope
from ray_dra.core.mixed import place_mixed
from ray_dra.core.needs import Needs
from ray_dra.core.request import GangRequest, Strategy
from ray_dra.core.shortfalls import shortfalls


def plan(inventory: Inventory, request: GangRequest, *, epoch: int = 0) -> Allocation | Unsatisfiable:
    """Decide where the whole gang goes, without holding anything.

    Returns:
        The Allocation, or Unsatisfiable with at least one shortfall. A no is exact, except where
        `proven` is False: then the search of mixed bundles reached `packing.SEARCH_BOUND` states.
    """
    needs = Needs(request)
    proven = True
    spreads = (True, False) if request.strategy is Strategy.SPREAD else (needs.spread,)
    for spread in spreads:
        tried = needs if spread == needs.spread else Needs(request, spread=spread)
        for scope in _scopes(request):
            layout = _place(inventory, tried, scope)
            if layout.bundles is not None:
                return Allocation(request.gang, layout.bundles, epoch, request.priority, layout.counters)
            proven = proven and layout.proven
    return Unsatisfiable(request.gang, shortfalls(inventory, needs, proven=proven), proven)


def _scopes(request: GangRequest) -> tuple[Scope, ...]:
    """The ways to look for room, the preferred first; the last one decides whether the answer is no."""
    locality = request.locality
    one_node = request.strategy is Strategy.STRICT_PACK
    asked = Scope(
        cliques=locality.cliques,
        segment=locality.segment or 1,
        exclusive=locality.exclusive,
        one_node=one_node,
    )
    together = replace(asked, cliques=1, segment=1)
    if locality.within_cliques and locality.required:
        return (together, asked) if asked != together else (asked,)
    anywhere = Scope(anywhere=True, one_node=one_node)
    near = asked if locality.within_cliques else replace(asked, cliques=None)
    scopes = [together, near, replace(near, cliques=None, segment=1), anywhere]
    return tuple(dict.fromkeys(scopes))


def _place(inventory: Inventory, needs: Needs, scope: Scope) -> Layout:
    if scope.one_node or len(needs.request.bundles) == scope.segment:  # in one clique whatever else is said
        scope = replace(scope, segment=1, cliques=1)
    if needs.equal:
        return place_equal(inventory, needs, scope)
    return place_mixed(inventory, needs, scope)
