"""Where a gang of parts of GPUs lies: exact for each GPU, fewest GPUs broken for it, then fewest cliques.

A GPU is broken when a part of it is given out, since it cannot be had whole then; and with it a clique of which nobody
had anything. So parts first fill GPUs that are broken already, the fullest first. Equal bundles are counted: each GPU
holds so many, and the fewest whole ones that hold most are broken. Bundles that differ are packed by exact
search (`packing.py`), GPUs being the bins. What fits on one GPU, beside all that others have there,
`cluster/gpu_parts.py` says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from ray_dra.core.cluster.clique_state import LOOSE_NODE
from ray_dra.core.cluster.gpu_parts import GpuParts, PartsState, PartTable, Spent, capacity, fits
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import EPSILON, NodeState
from ray_dra.core.model.allocation import Grant, Placed, make
from ray_dra.core.model.device import Device
from ray_dra.core.model.locality import Gpus
from ray_dra.core.model.parts import GrantedPart, PartCriteria, profile_order
from ray_dra.core.model.request import Bundle, GangRequest, Strategy
from ray_dra.core.model.selector import labels_match
from ray_dra.core.planner.packing import Bins, BinType, Contents, pack
from ray_dra.core.planner.placement import NOTHING, Layout
from ray_dra.core.planner.work import Work

NO_LIMIT = 1 << 30
MOST_PARTS = 64
"""More than any GPU can be given out in."""
Answer = TypeVar("Answer")


class Open(NamedTuple):
    """A GPU of which parts can be given."""

    state: NodeState
    gpu: GpuParts
    parts: PartsState
    whole: bool  # nobody has any of it

    @property
    def order(self) -> tuple[str, int]:
        return self.state.key, self.gpu.at


class Choice(NamedTuple):
    """So many bundles on a GPU: of each class in an order of theirs."""

    open: Open
    contents: Contents


class PartsSearch:
    """What a request for parts may use of an inventory, and what fits where.

    Attributes:
        classes: the distinct bundles, the largest parts first; counts: how many there are of each.
        gpus: GPUs of which some bundle could have a part, by node.
        planned: what is wanted and foreseen on GPUs that are alike.
        proven: what did not fit on a GPU does not; False: the steps were over before that was certain.
    """

    def __init__(self, inventory: Inventory, request: GangRequest, work: Work) -> None:
        self.inventory, self.request, self.work = inventory, request, work
        self.classes = sorted(dict.fromkeys({id(b): b for b in request.bundles}.values()), key=_size)
        self.counts = tuple(request.bundles.count(bundle) for bundle in self.classes)
        self.one_a_gpu = request.locality.gpus is Gpus.SPREAD
        self._masks: dict[tuple[int, PartTable], int] = {}
        self._capacities: dict[tuple[int, PartsState], int] = {}
        self._fits: dict[tuple[PartsState, tuple[int, ...]], bool] = {}
        self.proven = True
        self._idle: dict[object, bool] = {}
        self._criteria = [bundle.criteria for bundle in self.classes]
        self.planned: dict[tuple[PartsState, Contents], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.gpus: dict[NodeState, list[Open]] = {}
        for state in inventory.node_states.values():
            if state.parts and self._may_use(state):
                found = [
                    Open(state, gpu, gpu.state, not gpu.broken)
                    for gpu in state.in_parts()
                    if any(self.accepts(c, state, gpu) for c in range(len(self.classes)))
                ]
                if found:
                    self.gpus[state] = found

    def _may_use(self, state: NodeState) -> bool:
        request = self.request
        return (
            state.node.ready
            and state.name not in request.exclude
            and (request.preemptible or not state.node.spare)
            and any(not b.labels or labels_match(b.labels, state.node.labels) for b in self.classes)
        )

    def accepts(self, c: int, state: NodeState, gpu: GpuParts) -> bool:
        """Whether a bundle of class `c` may have a part of this GPU."""
        bundle = self.classes[c]
        if bundle.labels and not labels_match(bundle.labels, state.node.labels):
            return False
        if not self.mask(c, gpu.table):
            return False
        criteria = self._criteria[c]
        return criteria is None or criteria.accepts(_device(state, gpu))

    def mask(self, c: int, table: PartTable) -> int:
        """The parts that will do for class `c`."""
        found = self._masks.get((c, table))
        if found is None:
            part = self.classes[c].part
            assert part is not None
            found = self._masks[c, table] = parts_like(part, table)
        return found

    def capacity(self, c: int, open_: Open) -> int:
        """How many bundles of class `c` alone a GPU holds."""
        key = (c, open_.parts)
        found = self._capacities.get(key)
        if found is None:
            mask, most = self.mask(c, open_.gpu.table), 1 if self.one_a_gpu else MOST_PARTS
            found = self._capacities[key] = self._asked(lambda spent: capacity(open_.parts, mask, most, spent), 0)
        return found

    def fits(self, open_: Open, contents: Contents) -> bool:
        """Whether a GPU holds so many of each class together."""
        if sum(contents) > (1 if self.one_a_gpu else MOST_PARTS):
            return False
        for c, n in enumerate(contents):
            if n and not self.accepts(c, open_.state, open_.gpu):
                return False
        key = (open_.parts, self.wanted(open_, contents))
        found = self._fits.get(key)
        if found is None:
            found = self._fits[key] = self._asked(lambda spent: fits(*key, spent), False)
        return found

    def _asked(self, question: Callable[[Spent], Answer], otherwise: Answer) -> Answer:
        """The answer of GPUs that are alike, at the plan's cost; without any steps left, none."""
        if self.work.spent:
            self.proven = False
            return otherwise
        spent = Spent(self.work.left)
        answer = question(spent)
        self.work.left -= spent.steps
        self.proven = self.proven and spent.proven
        return answer

    def idle_clique(self, open_: Open) -> object:
        """The clique that would be broken with this GPU; None where there is none, or it is broken."""
        at = open_.gpu.gpu.position
        for id_, members in open_.state.members.items() if at is not None else ():
            if at is not None and members >> at & 1:
                clique = self.inventory.clique_states[id_]
                if id_ not in self._idle:
                    self._idle[id_] = clique.kind != LOOSE_NODE and clique.idle
                return id_ if self._idle[id_] else None
        return None

    def wanted(self, open_: Open, contents: Contents) -> tuple[int, ...]:
        """The masks of the claim, in its order: that of the profiles."""
        masks = [self.mask(c, open_.gpu.table) for c, n in enumerate(contents) for _ in range(n)]
        return tuple(sorted(masks, key=lambda mask: profile_order(_profile(open_.gpu.table, mask))))

    def resources_hold(self, state: NodeState, contents: Iterable[Contents]) -> bool:
        """Whether what a node has besides GPUs is enough for so many bundles of each class."""
        used: dict[str, float] = {}
        for held in contents:
            for c, n in enumerate(held):
                for name, amount in self.classes[c].resources.items():
                    used[name] = used.get(name, 0.0) + n * amount
        return all(amount <= state.left(name) + EPSILON for name, amount in used.items())

    def by_resources(self, state: NodeState, c: int = 0) -> int:
        """How many bundles of class `c` a node's other resources are enough for."""
        most = NO_LIMIT
        for name, amount in self.classes[c].resources.items():
            if amount > 0:
                most = min(most, math.floor((state.left(name) + EPSILON) / amount))
        return most


def place_parts(inventory: Inventory, request: GangRequest, work: Work) -> Layout:
    """The layout of a gang of parts, or why there is none: not at all, or not within the bound."""
    search = PartsSearch(inventory, request, work)
    proven = True
    ways: tuple[bool, ...] = (request.strategy is Strategy.STRICT_SPREAD,)
    if request.strategy is Strategy.SPREAD:
        ways = (True, False)
    for one_a_node in ways:
        choices: list[Choice] | None
        if request.locality.gpus is Gpus.SAME:
            choices = _one_gpu(search, one_a_node)
        elif request.strategy is Strategy.STRICT_PACK:
            choices, sure = _one_node(search)
            proven = proven and sure
        elif len(search.classes) == 1:
            choices = choose_equal(search, search.gpus, one_a_node=one_a_node)
        else:
            choices, sure = _unequal(search, search.gpus, one_a_node)
            proven = proven and sure
        if choices is not None:
            return Layout(_placed(search, choices))
    return NOTHING if proven and search.proven else Layout(None, proven=False)


# -- equal bundles


def choose_equal(
    search: PartsSearch, gpus: Iterable[NodeState], *, one_a_node: bool = False, wanted: int | None = None
) -> list[Choice] | None:
    """Equal bundles on the fewest GPUs that are not broken yet. `wanted`: how many bundles; None for all."""
    left = search.counts[0] if wanted is None else wanted
    caps = {state: min(search.by_resources(state), 1 if one_a_node else NO_LIMIT) for state in gpus}
    found: list[Choice] = []
    broken = [(search.capacity(0, o), o.order, o) for state in caps for o in search.gpus[state] if not o.whole]
    for n, _, open_ in sorted(broken):
        n = min(n, left, caps[open_.state])
        if n > 0:
            caps[open_.state] -= n
            left -= n
            found.append(Choice(open_, (n,)))
    if not left:
        return found
    gains: dict[int, list[Open]] = {}  # so many more bundles -> the whole GPUs that give them
    for state, cap in caps.items():
        capacities = sorted(
            ((search.capacity(0, o), -o.gpu.at, o) for o in search.gpus[state] if o.whole), reverse=True
        )
        for n, _, open_ in capacities:
            if (gain := min(n, cap)) > 0:
                cap -= gain
                gains.setdefault(gain, []).append(open_)
    opened: set[object] = set()
    for gain in sorted(gains, reverse=True):
        for open_ in _fewest_cliques(search, gains[gain], -(-left // gain), opened):
            n = min(gain, left)
            left -= n
            found.append(Choice(open_, (n,)))
        if not left:
            return found
    return None


def _fewest_cliques(search: PartsSearch, gpus: list[Open], count: int, opened: set[object]) -> Iterator[Open]:
    """So many of these GPUs, or all, on as few more cliques as can be of which nobody has anything. `opened`: those
    that the gang has broken; what is chosen is added."""
    by_clique: dict[object, list[Open]] = {}
    for open_ in sorted(gpus, key=lambda o: (o.state.free.bit_count(), o.order)):
        key = search.idle_clique(open_)
        by_clique.setdefault(None if key in opened else key, []).append(open_)
    for open_ in by_clique.pop(None, [])[:count]:
        count -= 1
        yield open_
    sizes = sorted((len(members), str(key), key) for key, members in by_clique.items())
    while count and sizes:
        at = next((i for i, (size, _, _) in enumerate(sizes) if size >= count), len(sizes) - 1)
        _, _, key = sizes.pop(at)
        opened.add(key)
        for open_ in by_clique[key][:count]:
            count -= 1
            yield open_


def _one_gpu(search: PartsSearch, one_a_node: bool) -> list[Choice] | None:
    """All bundles on one GPU: the fullest that holds them."""
    if one_a_node and len(search.request.bundles) > 1:
        return None
    best: tuple[tuple[object, ...], Open] | None = None
    for state, gpus in search.gpus.items():
        if not search.resources_hold(state, [search.counts]):
            continue
        for open_ in gpus:
            if search.fits(open_, search.counts):
                rest = search.capacity(0, open_)
                rank = (open_.whole, search.idle_clique(open_) is not None, rest, state.free.bit_count(), open_.order)
                if best is None or rank < best[0]:
                    best = rank, open_
    return None if best is None else [Choice(best[1], search.counts)]


def _one_node(search: PartsSearch) -> tuple[list[Choice] | None, bool]:
    best: tuple[tuple[object, ...], list[Choice]] | None = None
    proven = True
    for state in search.gpus:
        if len(search.classes) == 1:
            choices = choose_equal(search, [state])
        else:
            choices, sure = _unequal(search, [state], False)
            proven = proven and sure
        if choices is None:
            continue
        whole = [c.open for c in choices if c.open.whole]
        cliques = {key for open_ in whole if (key := search.idle_clique(open_)) is not None}
        rank = (len(whole), len(cliques), state.free.bit_count(), state.key)
        if best is None or rank < best[0]:
            best = rank, choices
    return (None if best is None else best[1]), proven


# -- bundles that differ


def _unequal(search: PartsSearch, nodes: Iterable[NodeState], one_a_node: bool) -> tuple[list[Choice] | None, bool]:
    """The best packing found, and whether a no, or that no fewer GPUs would do, is proven."""
    alike: dict[tuple[object, ...], list[Open]] = {}
    by_node = one_a_node or any(bundle.resources for bundle in search.classes)
    for state in nodes:
        for open_ in search.gpus[state]:
            accepted = tuple(search.accepts(c, state, open_.gpu) for c in range(len(search.classes)))
            idle = search.idle_clique(open_) is not None
            key = (open_.whole, idle, accepted, open_.parts, state if by_node else None)
            alike.setdefault(key, []).append(open_)
    groups = [sorted(group, key=lambda o: (o.state.free.bit_count(), o.order)) for group in alike.values()]
    keys = list(alike)
    groups_in_order = sorted(range(len(groups)), key=lambda i: (keys[i][0], keys[i][1], groups[i][0].order))
    ranks = {i: rank for rank, i in enumerate(groups_in_order)}
    types = [
        BinType(i, len(group), (int(bool(keys[i][0])), int(bool(keys[i][1])), ranks[i]))
        for i, group in enumerate(groups)
    ]
    remembered: dict[tuple[int, Contents], bool] = {}

    def holds(bin_type: int, contents: Contents) -> bool:
        found = remembered.get((bin_type, contents))
        if found is None:
            found = remembered[bin_type, contents] = search.fits(groups[bin_type][0], contents)
        return found

    def allowed(most: int, bins: Bins) -> bool:
        broken = 0
        here: dict[NodeState, list[Contents]] = {}
        for (bin_type, contents), n in bins.items():
            if any(contents):
                broken += n if groups[bin_type][0].whole else 0
                if by_node:
                    here.setdefault(groups[bin_type][0].state, []).extend([contents] * n)
        if broken > most:
            return False
        if one_a_node and any(sum(map(sum, held)) > 1 for held in here.values()):
            return False
        return all(search.resources_hold(state, held) for state, held in here.items())

    best, most, proven = None, sum(search.counts), True
    while True:
        packing = pack(search.counts, types, holds, search.work, allowed=partial(allowed, most))
        if packing.bins is None:
            proven = packing.proven
            break
        best = packing.bins
        most = sum(groups[bin_type][0].whole for bin_type, _ in best) - 1
        if most < 0:
            break
    if best is None:
        return None, proven
    opened: set[object] = set()
    used = Counter(bin_type for bin_type, _ in best)
    chosen = {i: iter(list(_fewest_cliques(search, groups[i], n, opened))) for i, n in used.most_common()}
    return [Choice(next(chosen[bin_type]), contents) for bin_type, contents in best], proven


# -- from GPUs to bundles


def _placed(search: PartsSearch, choices: Sequence[Choice]) -> tuple[Placed, ...]:
    """Bundles of a class lie in topology order."""
    waiting: list[list[int]] = [[] for _ in search.classes]
    class_of = {bundle: c for c, bundle in enumerate(search.classes)}
    one = len(search.classes) == 1
    for index in reversed(range(len(search.request.bundles))):
        waiting[0 if one else class_of[search.request.bundles[index]]].append(index)
    found: dict[int, Placed] = {}
    for open_, contents in sorted(choices, key=lambda choice: choice.open.order):
        if one:  # most gangs
            placed = search.classes[0].resources
            for part in _planned(search, open_, contents)[1]:
                grant = _grant(open_, part.bit_length() - 1)
                found[waiting[0].pop()] = make(Placed, (open_.state.name, (grant,), placed))
            continue
        for mask, part in zip(*_planned(search, open_, contents), strict=True):
            c = next(c for c, n in enumerate(contents) if n and search.mask(c, open_.gpu.table) == mask and waiting[c])
            contents = tuple(n - (i == c) for i, n in enumerate(contents))
            grant = _grant(open_, part.bit_length() - 1)
            found[waiting[c].pop()] = make(Placed, (open_.state.name, (grant,), search.classes[c].resources))
    return tuple(found[index] for index in range(len(found)))


def _planned(search: PartsSearch, open_: Open, contents: Contents) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(what is wanted, the parts that will be given, as far as can be foreseen)."""
    key = (open_.parts, contents)
    found = search.planned.get(key)
    if found is None:
        found = search.planned[key] = _foreseen(open_.parts, search.wanted(open_, contents))
    return found


def _foreseen(parts: PartsState, wanted: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    table, taken, pending = parts
    for claim in pending:
        taken |= sum(table.first_fit(taken, claim) or ())
    given = table.first_fit(taken, wanted)
    assert given is not None, "the planner chose a GPU that does not hold it"
    return wanted, given


def _grant(open_: Open, at: int) -> Grant:
    gpu = open_.gpu.gpu
    part = gpu.parts[at]
    granted = make(GrantedPart, (part.profile, gpu.uuid))
    return make(Grant, (open_.state.name, open_.gpu.at, part.id, part.uuid, None, None, None, granted, False))


def parts_like(part: PartCriteria, table: PartTable) -> int:
    """Mask of a GPU's parts that will do."""
    return table.of_profile(part.profile) if part.profile else table.at_least(part.memory)


def _profile(table: PartTable, mask: int) -> str:
    """Of the first of these parts."""
    return table.profiles[(mask & -mask).bit_length() - 1]


def _device(state: NodeState, gpu: GpuParts) -> Device:
    """The GPU as what is asked of devices is compared with."""
    at = gpu.gpu.position
    if at is not None:
        return state.node.devices[at]
    return Device(gpu.gpu.parts[0].id, None, gpu.gpu.uuid, attributes=gpu.gpu.attributes)


def _size(bundle: Bundle) -> tuple[object, ...]:
    part = bundle.part
    assert part is not None
    memory = sorted(bundle.resources.items())
    return profile_order(part.profile), -part.memory, memory, sorted(bundle.labels.items()), repr(bundle.devices)
