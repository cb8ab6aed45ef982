"""How much placement alone could gain: the product's place against others, with the future known.

Nobody can plan so; it tells what is left for a scorer. From each place that a gang could have, those who wait and
come next are played forward with their true run times, on a sketch of the cluster (free devices of each clique), and
the place is taken after which least GPU time of theirs falls outside of a clique. Ties go to the product's own place.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import count, islice

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import REGULAR, CliqueKey
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy, Score

PLACES = 8  # others than the product's that are tried
AHEAD = 60  # gangs that are played forward from each

Parts = dict[CliqueKey, int]
Next = tuple[float, GangRequest, float]
"""When a gang comes, what it asks for, and how long it runs; seconds."""


class Prefer(Policy):
    """Best fit, but one clique before all others, or after them; parts of gangs go to the roomiest, or the tightest."""

    def __init__(self, preferred: CliqueKey, *, last: bool = False, tightest: bool = False) -> None:
        super().__init__()
        self.preferred, self.last = preferred, last
        self.sign = 1 if tightest else -1

    def clique(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return ((clique.id == self.preferred) is self.last, *super().clique(clique, room, bundles))

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return ((clique.id == self.preferred) is self.last, self.sign * room, clique.free)


class Foresight:
    """See the module; for one replay."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.has: dict[str, Parts] = {}  # gang -> what it was given of each clique
        self.reach = {d.id: _reach(d) for d in inventory.clique_states.values()}
        self.at = {
            (state.name, i): clique
            for state in inventory.node_states.values()
            for clique, members in state.members.items()
            for i in range(state.size)
            if members >> i & 1
        }

    def parts(self, allocation: Allocation) -> Parts:
        """Devices that it has of each clique."""
        found: Parts = {}
        for grant in allocation.grants:
            clique = self.at[grant.node, grant.position]
            found[clique] = found.get(clique, 0) + 1
        return found

    def best(
        self,
        own: Allocation,
        request: GangRequest,
        until: float,
        running: Sequence[tuple[float, str]],
        behind: Iterable[Next],
    ) -> Allocation:
        """The place after which least is lost; asked once for each gang that starts.

        Args:
            own: the product's answer.
            until: when the gang will end, seconds.
            running: when each of the others ends, and its name.
            behind: who waits and who comes next, in order; no more than AHEAD of them are looked at.
        """
        found, parts = own, self.parts(own)
        following = list(islice(behind, AHEAD))
        if following:
            ends = [(end, self.has[gang]) for end, gang in running]
            least = self._lost(parts, [*ends, (until, parts)], following)
            seen = [parts]
            for other in self._others(request, whole=len(parts) == 1):
                its = self.parts(other)
                if its not in seen:
                    seen.append(its)
                    lost = self._lost(its, [*ends, (until, its)], following)
                    if lost < least:
                        found, parts, least = other, its, lost
        self.has[request.gang] = parts
        return found

    def _others(self, request: GangRequest, *, whole: bool) -> Iterable[Allocation]:
        """Within other cliques, the tightest first (`whole`); or with one clique left to others, the roomiest first."""
        cliques = [d for d in self.inventory.clique_states.values() if d.free]
        if whole:
            fitting = [d for d in cliques if d.grade == REGULAR and d.free >= request.device_count]
            ways = [Prefer(d.id) for d in sorted(fitting, key=lambda d: d.free)[:PLACES]]
        else:
            left = sorted(cliques, key=lambda d: -d.free)[:PLACES]
            ways = [Prefer(d.id, last=True, tightest=tightest) for d in left for tightest in (False, True)]
        for way in ways:
            answer = plan(self.inventory, request, policy=way)
            if isinstance(answer, Allocation):
                yield answer

    def _lost(self, parts: Parts, running: list[tuple[float, Parts]], behind: Sequence[Next]) -> float:
        """GPU seconds of those behind that run outside of a clique."""
        free = {d.id: d.free - parts.get(d.id, 0) for d in self.inventory.clique_states.values()}
        left = sum(free.values())
        order = count()
        heap = [(end, next(order), has) for end, has in running]
        heapq.heapify(heap)
        now = lost = 0.0
        for comes, request, runs in behind:
            size = request.device_count
            now = max(now, comes)
            while heap and (left < size or heap[0][0] <= now):
                end, _, has = heapq.heappop(heap)
                now = max(now, end)
                for clique, devices in has.items():
                    free[clique] += devices
                    left += devices
            segment = request.locality.segment or size
            given = self._within(free, size, segment)
            if given is None:
                given = _roomiest(free, size)
                lost += size * runs
            for clique, devices in given.items():
                free[clique] -= devices
            left -= size
            heapq.heappush(heap, (now + runs, next(order), given))
        return lost

    def _within(self, free: Parts, size: int, segment: int) -> Parts | None:
        given: Parts = {}
        for _ in range(size // segment):
            tightest, least = None, self.inventory.devices + 1
            for clique, devices in free.items():
                left = devices - given.get(clique, 0)
                if segment <= left < least and segment <= self.reach[clique]:
                    tightest, least = clique, left
            if tightest is None:
                return None
            given[tightest] = given.get(tightest, 0) + segment
        return given


def _roomiest(free: Parts, size: int) -> Parts:
    given: Parts = {}
    for clique in sorted(free, key=lambda d: -free[d]):
        given[clique] = min(size, free[clique])
        size -= given[clique]
        if not size:
            break
    return given


def _reach(clique: CliqueState) -> int:
    """Most devices of one gang that are all linked when nobody else is here."""
    if clique.fabric or len(clique.node_states) > 1:
        return clique.size
    state = clique.node_states[0]
    members = state.members[clique.id]
    return next((n for n in range(clique.size, 1, -1) if state.graph.how_many(members, n, Connect.REQUIRED)), 1)
