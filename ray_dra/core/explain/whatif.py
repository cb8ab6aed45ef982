"""After a no: what would fit now instead, and whose leaving would let the gang fit.

Tries things on the inventory and puts everything back; whoever calls it must be the inventory's only
user meanwhile. Off the hot path: `plan` never calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from itertools import combinations

from ray_dra.core.cluster.clique_state import CLIQUE, LOOSE_NODE
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import CliqueKey, exclusive_key
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device_selector import MEMORY
from ray_dra.core.model.gpu_sharing import INTERVALS, MIB, GpuSharing, SharingKind
from ray_dra.core.model.locality import Connect, Gpus, Locality
from ray_dra.core.model.request import MAX_BUNDLES, WHOLE, Bundle, GangRequest, Strategy
from ray_dra.core.model.shortfall import Counterfactual, Instead, Leaving, Unsatisfiable
from ray_dra.core.plan import place, plan
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.levels import check_level
from ray_dra.core.planner.placement import Layout
from ray_dra.core.planner.work import STEPS, Work

CLIQUES_TRIED = 12
"""In how many cliques, those with most free devices first, gangs that could leave are looked for."""

ALL_SETS_OF = 10
"""Up to so many gangs every set of them is tried; what is found is then proven to be the smallest."""


def plan_and_explain(inventory: Inventory, request: GangRequest) -> Allocation | Unsatisfiable:
    """`plan`, and after a no what is nearest to a yes."""
    answer = plan(inventory, request)
    if isinstance(answer, Unsatisfiable):
        return replace(answer, counterfactual=counterfactual(inventory, request))
    return answer


def answer_of(inventory: Inventory, request: GangRequest) -> Allocation | Unsatisfiable:
    """The same for whoever asks of a file. Raises InvalidRequest for a level above cliques that its nodes do not
    have."""
    check_level(inventory, request.locality)
    return plan_and_explain(inventory, request)


def counterfactual(inventory: Inventory, request: GangRequest) -> Counterfactual:
    """What is nearest to a yes for a request that does not fit now, within half the steps of a plan."""
    trial = _Trial(inventory)
    try:
        return Counterfactual(tuple(_instead(trial, request)), _leaving(trial, request))
    finally:
        trial.all_back()


@dataclass(slots=True)
class _Trial:
    """Gangs taken off the inventory for a while, and requests tried on what is there then.

    Attributes:
        sure: every no so far was a proven one.
    """

    inventory: Inventory
    gone: dict[str, Allocation] = field(default_factory=dict)
    work: Work = field(default_factory=lambda: Work(STEPS // 2))
    sure: bool = True

    def ask(self, request: GangRequest) -> Allocation | None:
        """Where it would lie; None where it does not fit, or the work is used up."""
        self.work.left -= 20 + len(request.bundles)
        layout = Layout(None, proven=False)
        if not self.work.spent:
            layout = place(self.inventory, FoldedRequest(request, work=self.work))
        if layout.bundles is None:
            self.sure = self.sure and layout.proven
            return None
        return Allocation(request.gang, layout.bundles, 0, request.priority, layout.counters)

    def leave(self, gang: str) -> None:
        allocation = self.inventory.allocation(gang)
        assert allocation is not None
        self.inventory.release(gang)
        self.gone[gang] = allocation

    def back(self, gang: str) -> None:
        self.inventory.hold(self.gone.pop(gang))

    def all_back(self) -> None:
        for gang in list(self.gone):
            self.back(gang)


# -- what would fit instead


def _instead(trial: _Trial, request: GangRequest) -> Iterator[Instead]:
    """One alternative of each kind that fits: a smaller gang, a looser locality, smaller bundles."""
    fewer = _fewer(trial, request)
    if fewer is not None:
        yield fewer
    for change, looser in (*_looser(request), *_shared_otherwise(trial.inventory, request)):
        if (answer := trial.ask(looser)) is not None:
            yield Instead(change, answer)
            break
    halved = _halved(request)
    if halved is not None and (answer := trial.ask(halved)) is not None:
        yield Instead(f"{len(halved.bundles)} bundles of {halved.bundles[0].count} GPUs", answer)


def _fewer(trial: _Trial, request: GangRequest) -> Instead | None:
    """The most bundles of the request's own, from the first on, that fit; found by halving."""
    step = request.locality.segment or 1
    low, high = 0, len(request.bundles) // step  # low fits, high does not
    best: Allocation | None = None
    while high - low > 1:
        middle = (low + high) // 2
        answer = trial.ask(replace(request, bundles=request.bundles[: middle * step]))
        if answer is not None:
            low, best = middle, answer
        else:
            high = middle
    if best is None:
        return None
    return Instead(f"{low * step} of the {len(request.bundles)} bundles", best)


def _looser(request: GangRequest) -> Iterator[tuple[str, GangRequest]]:
    """Localities that demand less, the nearest first."""
    locality = request.locality
    bundles = len(request.bundles)
    if locality.exclusive:
        yield "not exclusively", replace(request, locality=replace(locality, exclusive=False))
    if locality.within_cliques and locality.required:
        one_node = request.strategy is Strategy.STRICT_PACK
        largest = 1 if one_node else locality.segment or (bundles if locality.cliques == 1 else 1)
        for segment in (s for s in range(largest - 1, 1, -1) if bundles % s == 0 and largest % s == 0):
            loose = replace(locality, segment=segment, cliques=None)
            yield f"segments of {segment} bundles in one clique each", replace(request, locality=loose)
        if locality.cliques is not None and locality.segment is None:
            for cliques in (2, 3, 4, 6, 8, 12, 16):
                if locality.cliques < cliques <= bundles:
                    loose = replace(locality, cliques=cliques)
                    yield f"on {cliques} cliques", replace(request, locality=loose)
        yield "anywhere", replace(request, locality=Locality(connect=locality.connect))
    if locality.gpus is not Gpus.ANY:
        yield "parts of whichever GPUs", replace(request, locality=replace(locality, gpus=Gpus.ANY))
    if locality.connect is Connect.REQUIRED:
        loose = replace(locality, connect=Connect.PREFERRED)
        yield "devices that are not all linked", replace(request, locality=loose)


def _shared_otherwise(inventory: Inventory, request: GangRequest) -> Iterator[tuple[str, GangRequest]]:
    """Less memory for each share, so that as many go on the largest GPU as their sizes say; then time slices."""
    sharing = request.sharing
    if sharing is None or sharing.kind is not SharingKind.MPS:
        return
    largest = max(
        (d.capacity.get(MEMORY, 0) for s in inventory.node_states.values() for d in s.node.devices), default=0
    )
    memory = largest // (WHOLE // max(bundle.share or 1 for bundle in request.bundles)) // MIB * MIB
    if MIB <= memory < sharing.memory:
        less = replace(sharing, memory=memory)
        yield str(less), _with_sharing(request, less)
    slices = GpuSharing(SharingKind.TIME_SLICING, interval=INTERVALS[0])
    yield str(slices), _with_sharing(request, slices)


def _with_sharing(request: GangRequest, sharing: GpuSharing) -> GangRequest:
    made = {
        bundle: replace(bundle, devices=tuple(replace(device, sharing=sharing) for device in bundle.devices))
        for bundle in set(request.bundles)
    }
    return replace(request, bundles=tuple(made[bundle] for bundle in request.bundles))


def _halved(request: GangRequest) -> GangRequest | None:
    """Twice as many bundles of half the size."""
    first = request.bundles[0]
    if len(first.devices) != 1 or first.count % 2 or 2 * len(request.bundles) > MAX_BUNDLES:
        return None
    if any(b is not first and b != first for b in request.bundles):
        return None
    device = replace(first.devices[0], count=first.count // 2)
    half = Bundle((device,), {r: n / 2 for r, n in first.resources.items()}, first.labels)
    locality = request.locality
    if locality.segment is not None:
        locality = replace(locality, segment=locality.segment * 2)
    return replace(request, bundles=(half,) * (2 * len(request.bundles)), locality=locality)


# -- whose leaving would help


def _leaving(trial: _Trial, request: GangRequest) -> Leaving | None:
    """A small set of gangs, none of a higher priority, without which the gang fits; None where there is none."""
    sizes = {}
    besides = trial.inventory.besides
    for gang in trial.inventory.gangs:
        if gang in besides:  # goes with another
            continue
        allocation = trial.inventory.allocation(gang)
        assert allocation is not None
        if allocation.priority <= request.priority and not allocation.pool:  # who has shares of a pool frees nothing
            grants = allocation.held_grants
            shared = bool(grants) and grants[0].own
            sizes[gang] = (allocation.priority, len({g.device for g in grants} if shared else grants))
    trial.sure = True
    if len(sizes) <= ALL_SETS_OF:
        return _every_set(trial, request, sizes)
    found = _one(trial, request, sizes)
    if found is not None:
        return found
    answers = [f for gangs in _groups(trial.inventory, request, sizes) if (f := _from(trial, request, sizes, gangs))]
    return min(answers, key=lambda f: (f.priority, f.devices, f.gangs), default=None)


Sizes = dict[str, tuple[int, int]]  # gang -> (priority, devices)


def _every_set(trial: _Trial, request: GangRequest, sizes: Sizes) -> Leaving | None:
    """The cheapest of all sets, by highest priority, then devices, then gangs."""
    sets = [s for n in range(1, len(sizes) + 1) for s in combinations(sorted(sizes), n)]
    sets.sort(key=lambda s: (max(sizes[g][0] for g in s), sum(sizes[g][1] for g in s), len(s), s))
    for gangs in sets:
        for gang in gangs:
            trial.leave(gang)
        answer = trial.ask(request)
        trial.all_back()
        if answer is not None:
            return _found(gangs, sizes, answer, trial.sure)
        if trial.work.spent:
            break
    return None


def _one(trial: _Trial, request: GangRequest, sizes: Sizes) -> Leaving | None:
    """The cheapest single gang that is enough; every one that could be is tried."""
    inventory = trial.inventory
    missing = request.whole_devices - inventory.free_devices
    whole = 0 if _roomy(inventory, request) else request.whole_devices
    owners = {clique.owner for clique in inventory.clique_states.values()}
    for gang in sorted(sizes, key=lambda g: (sizes[g], g)):
        if sizes[gang][1] < missing and gang not in owners:
            continue
        gained = _could_free(inventory, gang)
        if sum(gained.values()) < missing or (whole and not _could_hold(inventory, gained, whole)):
            continue
        trial.leave(gang)
        answer = trial.ask(request)
        trial.back(gang)
        if answer is not None:
            return _found((gang,), sizes, answer, trial.sure)
        if trial.work.spent:
            break
    return None


def _roomy(inventory: Inventory, request: GangRequest) -> bool:
    """Whether devices in one clique are not what is short: none such is wanted, or some clique has so many free."""
    locality = request.locality
    if not (locality.required and locality.cliques == 1):
        return True
    wanted = request.whole_devices
    return any(d.free >= wanted for d in inventory.clique_states.values() if d.kind != LOOSE_NODE)


def _could_free(inventory: Inventory, gang: str) -> dict[CliqueKey | None, int]:
    """Clique -> devices there that could be free without the gang, at most; None: those in no clique."""
    allocation = inventory.allocation(gang)
    assert allocation is not None
    gained: dict[CliqueKey | None, int] = {}
    for grant in allocation.held_grants:
        gained[grant.clique] = gained.get(grant.clique, 0) + 1
    for counter, _ in allocation.counters:
        key = exclusive_key(counter)
        if key is not None and key in inventory.clique_states:  # nobody else has anything of it
            gained[key] = gained.get(key, 0) + inventory.clique_states[key].size
    return gained


def _could_hold(inventory: Inventory, gained: dict[CliqueKey | None, int], devices: int) -> bool:
    """Whether a clique could have so many free devices with what is gained there."""
    return any(
        clique in inventory.clique_states and inventory.clique_states[clique].free + n >= devices
        for clique, n in gained.items()
        if clique is not None
    )


def _groups(inventory: Inventory, request: GangRequest, sizes: Sizes) -> Iterator[list[str]]:
    """Gangs to choose from, a group at a time: those of a clique, the emptiest cliques first; else all."""
    if _roomy(inventory, request):
        yield list(sizes)
        return
    wanted = request.whole_devices
    cliques = (d for d in inventory.clique_states.values() if d.kind == CLIQUE and d.size >= wanted)
    for clique in nsmallest(CLIQUES_TRIED, cliques, key=lambda d: (-d.free, d.key)):
        gangs = {g for state in clique.node_states for g in state.tenants}
        yield [g for g in gangs if g in sizes]
    if any(b.resources for b in request.bundles):  # gangs that have no device there may have the CPUs
        yield list(sizes)


def _from(trial: _Trial, request: GangRequest, sizes: Sizes, gangs: list[str]) -> Leaving | None:
    """Gangs leave, the cheapest for what they free first, until the request fits; then those return that can."""
    order = sorted(gangs, key=lambda g: (sizes[g][0], -sizes[g][1], g))
    answer: Allocation | None = None
    wanted = request.whole_devices
    for gang in reversed(order) if len(order) > 200 else order:
        trial.leave(gang)
        if wanted <= trial.inventory.free_devices:
            answer = trial.ask(request)
        if answer is not None or trial.work.spent:
            break
    if answer is not None:
        for gang in sorted(trial.gone, key=lambda g: (sizes[g], g), reverse=True):
            trial.back(gang)
            again = trial.ask(request)
            if again is None:
                trial.leave(gang)
            else:
                answer = again
    left = tuple(sorted(trial.gone))
    trial.all_back()
    return _found(left, sizes, answer, False) if answer is not None else None


def _found(gangs: tuple[str, ...], sizes: Sizes, allocation: Allocation, smallest: bool) -> Leaving:
    devices = sum(sizes[g][1] for g in gangs)
    return Leaving(tuple(sorted(gangs)), devices, max(sizes[g][0] for g in gangs), smallest, allocation)
