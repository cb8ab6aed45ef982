"""Sets of ordinary placement groups: each placed where the set is, if that can be; or all of them as one gang.

Pure, and holds nothing. Neighbours: `ordinary_turns.py` says when a set is whole; `planning.py` plans one gang.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from heapq import nlargest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.patience import Patience, in_turn
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.quota import paid
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import MAX_DEVICES_PER_BUNDLE, Bundle, GangRequest, Strategy
from ray_dra.core.model.shortfall import CLUSTER, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest


def place_near(
    planning: Planning, gang: Gang, cliques: Collection[DomainId], epoch: int, *, strict: bool = False
) -> Answer:
    """In `cliques`, which the others of its set have, where what the gang prefers is met there, too; else wherever it
    would go without them. One of a set that is a gang adds no more cliques than the set may have: the emptiest are
    searched together with those of the set, and all others by themselves."""
    request = paid(gang.request, gang.quota)
    left = _cliques_left(gang, cliques)
    there = [cliques, _emptiest_besides(planning.inventory, cliques, left)] if left else [cliques]
    for near in there if cliques else ():
        inside = _part(planning.inventory, near)
        answer = plan(inside, request, epoch=epoch, strict=True) if inside is not None else None
        if isinstance(answer, Allocation) or (answer is not None and left == 0):
            return answer
    if cliques and left:
        request = replace(request, locality=replace(request.locality, cliques=left))
    return planning.plan(request, epoch, strict=strict)


def place_together(
    planning: Planning,
    gangs: Sequence[Gang],
    since: float | None,
    now: float,
    patience: Patience,
    expected: Callable[[Callable[[bool], Answer], GangRequest], float | None],
) -> tuple[tuple[Allocation, ...] | Unsatisfiable, float | None]:
    """All of them at once, an allocation each, in the same order; or a no for all. `since` and `patience` as in
    `patience.in_turn`, and `expected`, which gets how the set is placed and what it asks for.

    Where they go is planned as for one gang. Then each is placed there by itself, the largest first: where the groups
    are equal, that finds a place whenever there is one.
    """
    no = short(ShortfallKind.SET, CLUSTER, len(gangs), None, divided=True)
    try:
        joint = _as_one(gangs)
    except InvalidRequest:  # groups that ask for different things, e.g. bundles that do not divide into segments
        return Unsatisfiable(gangs[0].id, (no,)), since

    def place(strict: bool) -> Answer:
        return planning.plan(joint, strict=strict)

    inventory = planning.inventory
    answer, since = in_turn(inventory, joint, since, now, place, patience, lambda: expected(place, joint))
    if not isinstance(answer, Allocation):
        return answer, since
    cliques = frozenset(grant.clique for grant in answer.grants if grant.clique is not None)
    for part in (planning.inventory.part(dict.fromkeys(answer.nodes)), _part(planning.inventory, cliques)):
        found = _one_by_one(part, gangs) if part is not None else None
        if found is not None:
            return found, since
    return Unsatisfiable(joint.gang, (no,), proven=False), since


def _one_by_one(part: Inventory, gangs: Sequence[Gang]) -> tuple[Allocation, ...] | None:
    found: dict[str, Allocation] = {}
    for gang in sorted(gangs, key=lambda gang: -gang.request.device_count):
        answer = plan(part, gang.request, epoch=gang.moves, strict=True)
        if not isinstance(answer, Allocation):
            answer = plan(part, gang.request, epoch=gang.moves)
        if not isinstance(answer, Allocation):
            return None
        part.hold(answer)
        found[gang.id] = answer
    return tuple(found[gang.id] for gang in gangs)


def _part(inventory: Inventory, cliques: Collection[DomainId]) -> Inventory | None:
    """The nodes of these cliques; None where none are there any more."""
    states = inventory.clique_states
    names = {state.name: None for each in sorted(cliques) if each in states for state in states[each].node_states}
    return inventory.part(names) if names else None


def _emptiest_besides(inventory: Inventory, cliques: Collection[DomainId], count: int) -> Collection[DomainId]:
    """These cliques, and so many others with the most free devices."""
    states = inventory.clique_states
    others = (each for each in states if isinstance(each, str) and each not in cliques)
    return [*cliques, *nlargest(count, others, key=lambda each: states[each].free)]


def _cliques_left(gang: Gang, cliques: Collection[DomainId]) -> int | None:
    """How many cliques a set that is a gang may have besides these; None: as many as there are."""
    locality, ordinary = gang.request.locality, gang.ordinary
    whole = ordinary is not None and ordinary.part_of is not None and ordinary.part_of.size > 1
    if not (whole and locality.required and locality.cliques is not None):
        return None
    return max(0, locality.cliques - len(cliques))


def _as_one(gangs: Sequence[Gang]) -> GangRequest:
    """The request for all of them. A group that is to be on one node counts as one bundle. Raises InvalidRequest where
    no gang can ask so."""
    first = gangs[0].request
    bundles = tuple(bundle for gang in gangs for bundle in _bundles(gang.request))
    exclude = frozenset[str]().union(*(gang.request.exclude for gang in gangs))
    return replace(first, bundles=bundles, strategy=Strategy.PACK, exclude=exclude)


def _bundles(request: GangRequest) -> tuple[Bundle, ...]:
    bundles, count = request.bundles, request.device_count
    if request.strategy is not Strategy.STRICT_PACK or len(bundles) == 1 or request.locality.segment is not None:
        return bundles
    asked = {replace(device, count=1) for bundle in bundles for device in bundle.devices}
    alike = len(asked) == 1 and all(bundle.labels == bundles[0].labels for bundle in bundles)
    if (
        not alike
        or bundles[0].share is not None
        or count > MAX_DEVICES_PER_BUNDLE
        or request.locality.connect is Connect.REQUIRED
    ):
        return bundles  # each is planned by itself in the end
    resources: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.resources.items():
            resources[name] = resources.get(name, 0.0) + amount
    return (Bundle((replace(asked.pop(), count=count),), resources, bundles[0].labels),)
