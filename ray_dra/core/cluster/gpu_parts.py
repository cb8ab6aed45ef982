"""Which parts of a GPU go together, and who has which.

Kubernetes' allocator makes the last choice. Of a part that is made for it, a claim says no more than GPU and profile,
so the allocator chooses the place: within a claim it goes back and tries others until all parts are placed, in the
order of the devices' names; what another claim has stays where it is. So of two claims the one that comes first may
take a place that the other needs: 3g then 4g fails where 4g then 3g does not. A gang's parts of a GPU are one claim,
and they are planned only where every order of the claims that have no devices yet ends well.

A part that is there already is named by its UUID; there the planner chooses, and nothing depends on an order.

Which parts go together is searched for: of GPUs that there are in some hundred steps, of one that publishes what no GPU
has for as long as there are ways to combine its parts. So a question has MOST_STEPS steps, counted the same whether the
answer is remembered or not. Neighbours: `model/parts.py` has the values; `planner/parts.py` asks what fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.model.allocation import Grant
from ray_dra.core.model.parts import Part, PartedGpu, ProfileOrder, profile_order

Wanted = tuple[int, ...]
"""Masks of the parts that will do, one a part that is wanted, in the order in which the claim has them."""
MOST_STEPS = 5_000
"""Of one question; a look at eight parts or fewer is a step. The hardest question about GPUs that there are takes
a twentieth of them (tests/core/cluster/test_gpu_parts_bound.py)."""
PARTS_A_STEP = 8


class Spent:
    """What questions have taken.

    Attributes:
        steps: so many.
        most: `capacity` asks no more once so many are over.
        proven: every no is exact; False: one was given because MOST_STEPS, or `most`, were over.
    """

    __slots__ = ("most", "proven", "steps")

    def __init__(self, most: float = math.inf) -> None:
        self.steps, self.most, self.proven = 0, most, True

    def add(self, steps: int, *, proven: bool) -> None:
        self.steps += steps
        self.proven = self.proven and proven


class _Answer(NamedTuple):
    """`parts`: what a claim gets, None for nothing; `proven`: that is exact; both were found in so many `steps`."""

    parts: Wanted | None
    steps: int
    proven: bool


class PartTable:
    """The parts of GPUs that are alike. Masks have one bit a part, by its place among the GPU's parts.

    Attributes:
        pinned: the parts are there already, and the planner chooses among them.
        everything: mask of all parts.
    """

    def __init__(self, kinds: tuple[tuple[str, int, tuple[tuple[str, int], ...]], ...], counters: tuple[int, ...]):
        """`kinds`: (profile, memory, what it consumes: (counter, amount)) of each part; `counters`: how much there is
        of each, by place; counters are numbered by their places."""
        self.profiles = tuple(profile for profile, _, _ in kinds)
        self.memories = tuple(memory for _, memory, _ in kinds)
        self.everything = (1 << len(kinds)) - 1
        self.pinned = not counters
        # The allocator's order is that of the names; of parts that are there the planner takes the least that will do.
        self._order = sorted(range(len(kinds)), key=lambda at: (self.memories[at] if self.pinned else 0, at))
        self.rank = {at: rank for rank, at in enumerate(self._order)}
        self._consumes = tuple(tuple((int(c), n) for c, n in consumes) for _, _, consumes in kinds)
        self._left: dict[int, tuple[int, ...]] = {0: counters}
        self._fitted: dict[tuple[int, Wanted], _Answer] = {}
        self._ordered: dict[tuple[int, tuple[Wanted, ...]], tuple[bool, int, bool]] = {}  # yes, steps, proven

    def of_profile(self, profile: str) -> int:
        """Mask of the parts of a profile."""
        return sum(1 << at for at, each in enumerate(self.profiles) if each == profile)

    def at_least(self, memory: int) -> int:
        """Mask of the parts with so many bytes: of the smallest profile that has them, or (of parts that are there) all
        that do."""
        enough = [at for at, has in enumerate(self.memories) if has >= memory]
        if self.pinned or not enough:
            return sum(1 << at for at in enough)
        least = min(enough, key=lambda at: (self.memories[at], sum(n for _, n in self._consumes[at]), at))
        return self.of_profile(self.profiles[least])

    def size(self, mask: int) -> int:
        """Orders masks of alternatives: how much the least of them takes of its GPU."""
        return min((sum(n for _, n in self._consumes[at]) or self.memories[at] for at in bits(mask)), default=0)

    def open(self, taken: int, among: int = -1) -> int:
        """Mask of the parts, of these, that could be had beside those that are taken."""
        left = self._counters_left(taken)
        wanted = self.everything & ~taken & among
        return sum(1 << at for at in bits(wanted) if all(left[c] >= n for c, n in self._consumes[at]))

    def first_fit(self, taken: int, wanted: Wanted, spent: Spent | None = None) -> Wanted | None:
        """The parts that the allocator gives one claim: the first that go together, a mask of one for each that is
        wanted. None: none do, or none were found within MOST_STEPS, as `spent` says."""
        key = (taken, wanted)
        found = self._fitted.get(key)
        if found is None:
            if len(self._fitted) > 50_000:
                self._fitted.clear()
            search = _ClaimSearch(self, wanted)
            parts = search.fit(taken, 0, -1)
            found = self._fitted[key] = _Answer(parts, search.steps, parts is not None or search.steps <= MOST_STEPS)
        if spent is not None:
            spent.add(found.steps, proven=found.proven)
        return found.parts

    def every_order(self, taken: int, claims: tuple[Wanted, ...], spent: Spent | None = None) -> bool:
        """Whether all these claims get their parts, whichever comes first. Exact as `first_fit` is."""
        if len(claims) < 2:
            return all(self.first_fit(taken, claim, spent) is not None for claim in claims)
        key = (taken, claims if self.pinned else tuple(sorted(claims)))
        found = self._ordered.get(key)
        if found is None:
            if len(self._ordered) > 50_000:
                self._ordered.clear()
            own = Spent()
            yes = self._each_first(*key, own)
            found = self._ordered[key] = (yes, own.steps, own.proven)
        yes, steps, proven = found
        if spent is not None:
            spent.add(steps, proven=proven)
        return yes

    def _each_first(self, taken: int, claims: tuple[Wanted, ...], spent: Spent) -> bool:
        """`every_order`, claim after claim; equal ones are neighbours. Parts that are there have one order."""
        waiting, seen = [(taken, claims)], set[tuple[int, tuple[Wanted, ...]]]()
        while waiting:
            taken, claims = waiting.pop()
            for at, claim in enumerate(claims):
                if at and (self.pinned or claim == claims[at - 1]):
                    continue
                given = self.first_fit(taken, claim, spent)
                if spent.steps > MOST_STEPS:
                    spent.proven = False
                    return False
                if given is None:
                    return False
                rest = (taken | sum(given), (*claims[:at], *claims[at + 1 :]))
                if rest[1] and rest not in seen:
                    seen.add(rest)
                    waiting.append(rest)
        return True

    def in_order(self, mask: int, after: int) -> list[int]:
        """These parts in the order in which they are tried, from behind the one of rank `after` on."""
        return [at for at in self._order[after + 1 :] if mask >> at & 1]

    def enough(self, taken: int, parts: Sequence[int], count: int) -> bool:
        """Whether no counter says that so many of these parts are too many."""
        left = self._counters_left(taken)
        least: dict[int, int] = dict(self._consumes[parts[0]])
        for at in parts[1:]:
            uses = dict(self._consumes[at])
            least = {counter: min(n, uses[counter]) for counter, n in least.items() if counter in uses}
        return all(count * n <= left[counter] for counter, n in least.items())

    def _counters_left(self, taken: int) -> tuple[int, ...]:
        left = self._left.get(taken)
        if left is None:
            counters = list(self._left[0])
            for at in bits(taken):
                for counter, amount in self._consumes[at]:
                    counters[counter] -= amount
            if len(self._left) > 50_000:
                self._left = {0: self._left[0]}
            left = self._left[taken] = tuple(counters)
        return left


class _ClaimSearch:
    """The parts of one claim, as the allocator looks for them: by going back. `steps` above MOST_STEPS: given up."""

    def __init__(self, table: PartTable, wanted: Wanted) -> None:
        self._table, self._wanted = table, wanted
        self._failed: set[tuple[int, int, int]] = set()
        self._alike = [1] * len(wanted)  # from each on, so many equal ones
        for at in reversed(range(len(wanted) - 1)):
            if wanted[at] == wanted[at + 1]:
                self._alike[at] += self._alike[at + 1]
        self.steps = 0

    def fit(self, taken: int, at: int, after: int) -> Wanted | None:
        """Equal ones ascend, as their order says nothing: the next comes behind the part of rank `after`."""
        if at == len(self._wanted):
            return ()
        if (taken, at, after) in self._failed or self.steps > MOST_STEPS:
            return None
        mask, alike, table = self._wanted[at], self._alike[at], self._table
        self.steps += 1 + mask.bit_count() // PARTS_A_STEP
        parts = table.in_order(table.open(taken, mask), after)
        for n in range(len(parts) - alike + 1):
            rank = table.rank[parts[n]] if alike > 1 else -1
            rest = self.fit(taken | 1 << parts[n], at + 1, rank)
            if rest is not None:
                return (1 << parts[n], *rest)
            if not n and not table.enough(taken, parts, alike):
                break
        self._failed.add((taken, at, after))
        return None


@lru_cache(maxsize=256)
def _table(kinds: tuple[tuple[str, int, tuple[tuple[str, int], ...]], ...], counters: tuple[int, ...]) -> PartTable:
    return PartTable(kinds, counters)


def table_of(gpu: PartedGpu) -> PartTable:
    """One for all GPUs that are alike. A counter that a part consumes and the GPU lacks has nothing left."""
    has = dict(gpu.counters)
    names = sorted({name for part in gpu.parts for name, _ in part.consumes} | has.keys())
    places = {name: str(at) for at, name in enumerate(names)}

    def numbered(part: Part) -> tuple[tuple[str, int], ...]:
        return tuple((places[name], amount) for name, amount in part.consumes)

    kinds = tuple((part.profile, part.memory, numbered(part)) for part in gpu.parts)
    return _table(kinds, tuple(has.get(name, 0) for name in names))


PartsState = tuple[PartTable, int, tuple[Wanted, ...]]
"""The parts of a GPU: which are taken, and what claims want that have none yet."""


MOST_RELEASED = 64
"""More gangs than ever have parts of one GPU at the same time."""


class GpuParts:
    """A GPU of which parts are given out, and who has which.

    Attributes:
        gpu: what it is; at: its place among its node's parted GPUs.
        others: mask of the parts that others than gangs have.
        held: gang -> what its claim wants, and the parts that were planned.
        placed: gang -> the parts that its claim has got.
    """

    __slots__ = ("_released", "_untouched", "at", "gpu", "held", "names", "others", "placed", "table")

    def __init__(self, at: int, gpu: PartedGpu) -> None:
        self.at, self.gpu = at, gpu
        self.table = table_of(gpu)
        self.names = {part.id.device: 1 << i for i, part in enumerate(gpu.parts)}
        self.others = 0
        self.held: dict[str, tuple[Wanted, int]] = {}
        self.placed: dict[str, int] = {}
        self._released: dict[str, tuple[tuple[Wanted, int], int]] = {}  # gang -> what it had here; see `release`
        self._untouched: PartsState = (self.table, 0, ())

    @property
    def broken(self) -> bool:
        """Whether it cannot be given whole: somebody has a part, or it is not offered whole."""
        return self.gpu.position is None or bool(self.others or self.held)

    @property
    def taken(self) -> int:
        """Mask of the parts of which it is known that somebody has them."""
        mask = self.others
        for mine in self.placed.values():
            mask |= mine
        if self.table.pinned:
            for _, planned in self.held.values():
                mask |= planned
        return mask

    @property
    def pending(self) -> tuple[Wanted, ...]:
        """What the claims of gangs want that have nothing yet."""
        if self.table.pinned:
            return ()
        return tuple(wanted for gang, (wanted, _) in self.held.items() if gang not in self.placed)

    @property
    def state(self) -> PartsState:
        """What says all about what fits: the same for GPUs that are alike."""
        if not (self.others or self.held or self.placed):
            return self._untouched
        return self.table, self.taken, tuple(sorted(self.pending))

    def see(self, others: int, placed: Mapping[str, int]) -> None:
        """What the cluster's claims have."""
        self.others, self.placed = others, dict(placed)
        self._released.clear()

    def mask_of(self, names: Iterable[str]) -> int:
        mask = 0
        for name in names:
            mask |= self.names.get(name, 0)
        return mask

    def wanted(self, grants: Iterable[Grant]) -> tuple[Wanted, int]:
        """What the claim for a gang's parts here says, and which were planned; without what the GPU offers no more."""
        found: list[tuple[ProfileOrder, int]] = []
        planned = 0
        for grant in grants:
            assert grant.part is not None
            mask = self.names.get(grant.device.device, 0)
            planned |= mask
            alternatives = self._alternatives(grant.part.profile, mask)
            if alternatives:
                found.append((profile_order(grant.part.profile), alternatives))
        return tuple(mask for _, mask in sorted(found)), planned

    def _alternatives(self, profile: str, planned: int) -> int:
        return planned if self.table.pinned else self.table.of_profile(profile)

    def take_back(self, gang: str, grants: Sequence[Grant]) -> None:
        """A gang has had these parts, whatever the GPU offers by now."""
        self.held[gang] = self.wanted(grants)

    def hold(self, gang: str, grants: Sequence[Grant]) -> None:
        """Raises ValueError where the gangs here could not all have theirs."""
        now = self.wanted(grants)
        before, mask = self._released.pop(gang, (None, 0))
        if before == now and mask:
            self.placed[gang] = mask
        if before != now and not self._together(*now):
            raise ValueError(f"GPU {self.gpu.uuid} has not so many parts left")
        self.held[gang] = now

    def release(self, gang: str) -> None:
        """A gang has nothing here. One that was taken off to try something, and holds the same again before the claims
        are seen anew, has what its claim had got; also where the GPU offers less than its gangs have by now."""
        held, mask = self.held.pop(gang, None), self.placed.pop(gang, 0)
        if held is not None:
            self._released[gang] = held, mask
            if len(self._released) > MOST_RELEASED:
                del self._released[next(iter(self._released))]

    def _together(self, wanted: Wanted, planned: int) -> bool:
        """Whether one more gang could have this beside those that are here."""
        if self.table.pinned and any(planned & other for _, other in self.held.values()):
            return False
        everybody = [wanted, *(each for each, _ in self.held.values())]
        spent = Spent()
        wants = tuple(mask for each in everybody for mask in each)
        return self.table.first_fit(0, wants, spent) is not None or not spent.proven


def fits(state: PartsState, wanted: Wanted, spent: Spent | None = None) -> bool:
    """Whether one more claim gets its parts, whatever the order of those that have nothing yet. A yes is exact; `spent`
    as in `PartTable.first_fit`."""
    table, taken, pending = state
    return table.every_order(taken, (*pending, wanted), spent)


def capacity(state: PartsState, mask: int, most: int, spent: Spent | None = None) -> int:
    """How many parts, each one of a mask's, one more claim gets: at most so many."""
    count, spent = 0, spent or Spent()
    while count < most and fits(state, (mask,) * (count + 1), spent):
        count += 1
        if spent.steps > spent.most:
            spent.proven = False
            break
    return count
