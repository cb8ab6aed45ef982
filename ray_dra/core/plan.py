"""plan(inventory, request) -> Allocation | Unsatisfiable: where a gang goes.

Pure and deterministic. The ways to look for room, in order, by what the request demands of cliques:

    required     one node; the one clique; the cliques or segments it names; or no
    preferred    as if it were required; else as if nothing were said
    nothing      one node; one clique; the fewest cliques; else anywhere: gangs stay together, whole cliques whole

In each, a gang takes the tightest place that fits, and leaves the roomier ones to those who need
them. Equal bundles are counted (`equal.py`), unequal ones searched exactly (`unequal.py`); what is
missing after a no is worked out in `shortfalls.py`. Gangs of parts of GPUs are `parts.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from ray_dra.core.cluster.clique_state import LOOSE_NODE, SPARES, CliqueKind
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import UNEVEN
from ray_dra.core.explain.shortfalls import shortfalls
from ray_dra.core.model.allocation import Allocation, make
from ray_dra.core.model.locality import ANYWHERE, Connect
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.planner.equal import place_equal, place_linked
from ray_dra.core.planner.fold import FoldedRequest, kinds_for
from ray_dra.core.planner.joint import overdrawn, place_jointly, torn
from ray_dra.core.planner.parts import place_parts
from ray_dra.core.planner.placement import NOTHING, Layout
from ray_dra.core.planner.scope import Scope
from ray_dra.core.planner.unequal import place_unequal
from ray_dra.core.planner.work import MOST_CLASSES, Work
from ray_dra.core.policy.base import Policy
from ray_dra.core.policy.place_by_policy import place_by_policy


def plan(
    inventory: Inventory,
    request: GangRequest,
    *,
    epoch: int = 0,
    policy: Policy | None = None,
    strict: bool = False,
    work: Work | None = None,
    explain: bool = True,
) -> Allocation | Unsatisfiable:
    """Decide where the whole gang goes, without holding anything.

    Args:
        policy: scores the places of equal bundles; None for the tightest place, from the index.
        strict: treat a preferred locality as required: refuse instead of leaving the cliques. Linked GPUs of one node
            count as near, too. Used while patience lasts.
        work: what the searches may do, where several plans share it; None for `work.STEPS`.
        explain: False: a no has no shortfalls, which take longer to tell than a yes.

    Returns:
        The Allocation, or Unsatisfiable with at least one shortfall. A no is exact, except where
        `proven` is False: then the search of unequal bundles has used up its work.
    """
    folded = FoldedRequest(request, work=work)
    strict = strict and request.locality.within_cliques and not folded.demanding
    layout = place(inventory, folded, policy, strict=strict)
    if layout.bundles is not None:
        allocation = make(
            Allocation, (request.gang, layout.bundles, epoch, request.priority, layout.counters, (), (), "", None)
        )
        if layout.masks is not None:
            inventory.remember(allocation, layout.masks)
        return allocation
    if not explain:
        return Unsatisfiable(request.gang, (), layout.proven)
    if strict:
        required = replace(request.locality, required=True, patience=None, outside_speed=None)
        folded = FoldedRequest(replace(request, locality=required), work=folded.work)
    return Unsatisfiable(request.gang, shortfalls(inventory, folded, proven=layout.proven), layout.proven)


def place(inventory: Inventory, folded: FoldedRequest, policy: Policy | None = None, *, strict: bool = False) -> Layout:
    """The layout of a gang, or why there is none: not at all, or not within the bound."""
    if folded.parted:
        return place_parts(inventory, folded.request, folded.work)
    if folded.equal:
        if folded.whole and folded.total > inventory.free_devices:
            return NOTHING
    elif _too_few(inventory, folded):
        return NOTHING
    elif len(folded.classes) > MOST_CLASSES or folded.work.spent:
        return Layout(None, proven=False)
    proven = True
    once = policy is not None or (folded.demanding and folded.request.strategy is not Strategy.SPREAD)
    for tried, near in ((folded, strict),) if once else _rounds(inventory, folded, strict):
        put = place_equal if tried.equal else place_unequal
        if near and (tried.together or _by_worker(tried)):
            layout = _linked(inventory, tried)
            if layout.bundles is not None:
                return layout
            if tried.together:
                proven = proven and layout.proven and tried.proven
                continue
        for scope in scopes(inventory, tried, near=near):
            if scope.jointly:
                layout = place_jointly(inventory, tried, scope)
            elif policy is not None and _chooses(policy, tried):
                layout = place_by_policy(inventory, tried, scope, policy)
            else:
                layout = put(inventory, tried, scope)
            if layout.bundles is not None and not (
                inventory.split and scope.cliques != 1 and overdrawn(inventory, tried, layout)
            ):
                return layout
            proven = proven and layout.proven and tried.proven
    return Layout(None, proven=proven)


def _by_worker(folded: FoldedRequest) -> bool:
    """Whether equal bundles are first looked for on devices of one node that are linked, as if they were one bundle."""
    several = len(folded.request.bundles) > 1
    return folded.linked and folded.equal and several and folded.request.strategy is not Strategy.SPREAD


def _linked(inventory: Inventory, folded: FoldedRequest) -> Layout:
    """All devices on one node, every two of them linked; bundles without devices wherever there is room."""
    if folded.equal:
        return place_linked(inventory, folded)
    request = folded.request
    if folded.total >= len(inventory.by_free) or any(bundle.count > bundle.whole_devices for bundle in folded.classes):
        return NOTHING
    resources = {
        name: sum(
            b.resources.get(name, 0.0) * n for b, n in zip(folded.classes, folded.counts, strict=True) if b.devices
        )
        for name in folded.resources
    }
    one = Bundle((DeviceRequest(folded.total),), {name: amount for name, amount in resources.items() if amount})
    as_one = FoldedRequest(replace(request, bundles=(one,), locality=ANYWHERE, strategy=Strategy.PACK), linked=True)
    whole, given = folded.work, folded.work.left // 2  # the rest is for placing it anywhere
    folded = FoldedRequest(request, together=True, work=Work(given))
    layout, proven = NOTHING, True
    for kind in (SPARES, LOOSE_NODE) if request.preemptible else (LOOSE_NODE,):
        if place_equal(inventory, as_one, Scope((kind,), one_node=True)).bundles is None:
            continue  # no node has so many that are linked, which is quickly seen
        one_node = request.strategy is Strategy.STRICT_PACK
        layout = place_jointly(inventory, folded, Scope((kind,), 1, 1, False, one_node, jointly=True))
        proven = proven and layout.proven and folded.proven
        if layout.bundles is not None:
            break
    whole.left -= given - folded.work.left
    return layout if layout.bundles is not None else Layout(None, proven=proven)


def _too_few(inventory: Inventory, folded: FoldedRequest) -> bool:
    """Whether the numbers of free devices alone say no to bundles of several classes: nothing is searched for then."""
    wanted = sum(b.whole_devices * n for b, n in zip(folded.classes, folded.counts, strict=True))
    if wanted > inventory.free_devices:
        return True
    for bundle, count in zip(folded.classes, folded.counts, strict=True):
        size = bundle.whole_devices
        if size and sum(n * (f // size) for f, n in enumerate(inventory.by_free)) < count:
            return True
    return False


def _chooses(policy: Policy, folded: FoldedRequest) -> bool:
    """Whether the policy can serve such a gang; the others are placed as without one, so that a no stays true."""
    one_node = folded.request.strategy is Strategy.STRICT_PACK and len(folded.request.bundles) > 1
    if folded.sharing is not None:
        return False
    return folded.equal and not one_node and (policy.by_clique or not folded.demanding)


def _rounds(inventory: Inventory, folded: FoldedRequest, strict: bool) -> Iterator[tuple[FoldedRequest, bool]]:
    """The request as it is looked at, the preferred way first; the last one decides whether the answer is no."""
    request, locality = folded.request, folded.request.locality
    bundles = len(request.bundles)
    spread = request.strategy is Strategy.SPREAD and bundles > 1
    if folded.demanding:
        if spread:
            yield FoldedRequest(request, spread=True, work=folded.work), False
        yield folded, False
        return
    prefers = locality.within_cliques
    if spread:
        yield FoldedRequest(request, spread=True, work=folded.work), prefers
    if (
        locality.connect is Connect.PREFERRED
        and folded.total > 1
        and ((prefers and bundles == 1) or any(c.grade == UNEVEN and c.cliques for c in inventory.orders.values()))
    ):
        # Some nodes have GPUs without links to each other: first where the gang's are linked.
        yield FoldedRequest(request, linked=True, work=folded.work), True
    if prefers:
        yield folded, True  # as if it were required; what is not in a clique comes after that
        if (strict or not spread) and any(c.kind == LOOSE_NODE and c.cliques for c in inventory.orders.values()):
            yield FoldedRequest(request, together=True, work=folded.work), True
    if strict:
        return
    if spread and prefers:
        yield FoldedRequest(request, spread=True, work=folded.work), False
    yield folded, False


@cache  # the first scope of nearly every gang, and one of eight
def _on_one_node(kinds: tuple[CliqueKind, ...], exclusive: bool) -> Scope:
    return Scope(kinds, 1, 1, exclusive, True)


def scopes(inventory: Inventory, folded: FoldedRequest, *, near: bool = False) -> Iterator[Scope]:
    """Where to look, the preferred first. `near`: only where what is preferred of cliques is met."""
    request, locality = folded.request, folded.request.locality
    bundles = len(request.bundles)
    required = near or folded.demanding
    one_node = request.strategy is Strategy.STRICT_PACK
    segment, limit = locality.segment or 1, locality.cliques
    if segment == bundles:  # in one clique, whatever else is said
        segment, limit = 1, 1
    exclusive = locality.exclusive
    if not folded.total:  # where no device is asked for, cliques say nothing
        yield Scope(anywhere=True, one_node=one_node)
        return
    small = bundles == 1 or not folded.spread
    if small and not one_node:
        small = folded.least_devices < len(inventory.by_free)
    # The devices of one bundle that are linked, or that are one, are as near as they would be in a clique.
    in_cliques = required and not (near and bundles == 1 and (folded.linked or folded.total == 1))
    for kinds in kinds_for(request, cliques=in_cliques):
        if one_node or small:
            yield _on_one_node(kinds, exclusive)
        if bundles == 1:
            continue
        if not one_node:
            yield Scope(kinds, 1, 1, exclusive)
            if locality.within_cliques and (limit, segment) != (1, 1) and not (required and folded.bare):
                yield Scope(kinds, limit, segment, exclusive)
        if required and ((folded.bare and not one_node) or (limit != 1 and inventory.split and torn(inventory, kinds))):
            yield Scope(kinds, limit, segment, exclusive, one_node, jointly=True)
        if not (required or one_node):
            yield Scope(kinds)
    if not required:
        yield Scope(anywhere=True, one_node=one_node)
