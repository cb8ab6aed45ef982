"""How many workers an elastic training run can have now: as many as lie as its policy says, in whole segments. Pure.

Such a run (Ray Train's controller) asks before it makes a placement group of another size, and gives the one that it
has back first. So what it has counts as free for it, and what it is to get is kept for it in between, and for no other
run of its program: else the next to come would take a part of it, and the run would stand still. Nothing that a gang in
the queue may be waiting for is promised to a run that has something.

Neighbours: `planning.py` says what fits, `kept.py` keeps places; `kept_turns.py` tries a program's gangs on these.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.patience import Worth, patience_of
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.record_sense import MOST_SECONDS
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.team_queues import amounts_of
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.checked import flag, number, text, whole
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.locality import fitted
from ray_dra.core.model.request import MAX_BUNDLES, WHOLE, GangRequest, Strategy, check_request
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest, shown

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class ElasticRun:
    """What an elastic run asks for.

    Attributes:
        request: for the most workers that it may have, a bundle each.
        least: the fewest workers that it may have.
        owner: its Ray job.
        actor: the actor that makes its placement groups, in hex.
        runs_for: seconds for which it runs, by its policy's guess.
        starts: it is about to start its workers, for the first time or after a fault, whatever the answer is; else they
            run, and are started anew only for another number of them.
        team: the queue of a team; "": it names none.
    """

    request: GangRequest
    least: int
    owner: str
    actor: str
    runs_for: float | None = None
    starts: bool = False
    team: str = ""


def check_run(run: object) -> ElasticRun:
    """The same, if everything in it is what it should be; for those that came out of another process.

    Raises:
        InvalidRequest: it is not; names the field.
    """
    if not isinstance(run, ElasticRun):
        raise InvalidRequest("This is no elastic run.", place="run", wanted=shown(run))
    check_request(run.request)
    whole(run.least, "least", least=0, most=MAX_BUNDLES)
    text(run.owner, "owner")
    text(run.actor, "actor", empty=True)
    text(run.team, "queue", empty=True)
    flag(run.starts, "starts")
    if run.runs_for is not None:
        number(run.runs_for, "runs_for", least=0.0, most=MOST_SECONDS)
    return run


class Elastic:
    """See the module."""

    def __init__(self, records: Records, planning: Planning, worth: Worth | None) -> None:
        """`worth`: what a clique is worth to a gang that says how long it runs."""
        self.records, self.planning, self._worth = records, planning, worth

    def groups_of(self, run: ElasticRun) -> list[Gang]:
        """Its placement groups that have devices."""
        found = (gang for gang, _ in self.records.holders())
        return [g for g in found if g.ordinary is not None and g.ordinary.actor == run.actor and g.owner == run.owner]

    def workers(self, run: ElasticRun, well: Collection[str], now: float) -> int:
        """How many workers it can have now; 0 where these are fewer than its least. `well`: its placement groups that
        are whole, which a run whose workers run need not leave for anything that may pass by itself."""
        own = self.groups_of(run) if run.actor else []
        has = [grant for gang in own if gang.holds is not None for grant in gang.holds.grants]
        has += self.records.kept.grants_of(run.owner, run.actor)
        sizes = self._within_limit(run, own)
        found = self._as_if_free(own, run, lambda: self._largest(run, sizes, has))
        size = len(found.bundles) if found is not None else 0
        keeps = max((len(gang.request.bundles) for gang in own if gang.id in well and not run.starts), default=0)
        if size <= keeps or any(gang.quota is not None for gang in own):  # a queue outside may not pay for more
            return max(keeps, min(size, max((len(gang.request.bundles) for gang in own), default=size)))
        if found is not None and has:
            self._keep(run, own, found, now)
        return size

    def _within_limit(self, run: ElasticRun, own: list[Gang]) -> list[int]:
        """The sizes with which its team is within its limit, as if the run had nothing: a group of more would wait."""
        order, sizes = self.records.team_order, _sizes(run)
        queue = order.queue(run.team)
        if queue is None or queue.limit is None:
            return sizes
        mine = sum(self.records.amounts(each).gpus for each in own if order.team(each.team) == order.team(run.team))
        promised = self.records.kept.promised(lambda team: order.team(team) == order.team(run.team), run.actor)
        left = queue.limit - (order.has(run.team).gpus - mine) - WHOLE * promised
        return _up_to(left, sizes, lambda size: amounts_of(_smaller(run.request, size)).gpus)

    def _largest(self, run: ElasticRun, sizes: list[int], has: Collection[Grant]) -> Allocation | None:
        """Where others wait for their turn, a run that has something stays on the nodes of that, and gets no more."""
        if not has or self.records.first is None:
            return self._largest_of(sizes, run, self.planning.plan)
        states = self.planning.inventory.node_states
        nodes = [name for name in dict.fromkeys(grant.node for grant in has) if name in states]
        part = self.planning.inventory.part(nodes)
        of_its_own = _up_to(len(has), sizes, lambda size: _smaller(run.request, size).device_count)
        found = self._largest_of(of_its_own, run, lambda request, *, strict: plan(part, request, strict=strict))
        return found or self._largest_of(sizes, run, self.planning.plan)  # in its turn

    def _largest_of(self, sizes: list[int], run: ElasticRun, place: Callable[..., Answer]) -> Allocation | None:
        """Of these sizes, by halving: where one fits, so do those before it. A run that would wait for what it prefers
        has a size that lies so, if there is one."""
        request = run.request
        waits = patience_of(request.locality, run.runs_for, self._worth).most > 0
        for strict in (True, False) if waits else (False,):
            found, low, high = None, 0, len(sizes)
            while low < high:
                middle = (low + high) // 2
                answer = place(_smaller(request, sizes[middle]), strict=strict)
                if isinstance(answer, Allocation):
                    found, low = answer, middle + 1
                else:
                    high = middle
            if found is not None:
                return found
        return None

    def _as_if_free(self, own: list[Gang], run: ElasticRun, find: Callable[[], _Found]) -> _Found:
        """What `find` finds as if the run had nothing, and nothing were kept for it."""
        inventory = self.planning.inventory
        held = [gang.holds for gang in own if gang.holds is not None]
        for allocation in held:
            inventory.release(allocation.gang)
        try:
            return self.records.kept.without(run.owner, run.actor, find)
        finally:
            for allocation in held:
                inventory.hold(allocation)

    def _keep(self, run: ElasticRun, own: list[Gang], found: Allocation, now: float) -> None:
        """What it has stays its program's own once it has given it back; what comes to it is its program's at once."""
        until, more = now + KEPT_SECONDS, f"more/{run.actor}"
        devices = {grant.device for grant in found.grants}
        taken: set[DeviceId] = set()
        for gang in own:
            mine = {grant.device for grant in gang.holds.grants} if gang.holds is not None else set()
            taken |= mine
            if not devices.isdisjoint(mine):
                self.records.notes[gang.id].comes_back = until
        self.records.kept.let_go(more)
        taken |= {grant.device for grant in self.records.kept.grants_of(run.owner, run.actor)}
        placed = [Placed(p.node, tuple(g for g in p.grants if g.device not in taken)) for p in found.bundles]
        comes = tuple(each for each in placed if each.grants)
        if comes:
            self.records.kept.keep(run.owner, Allocation(more, comes), until, actor=run.actor, team=run.team)


def _sizes(run: ElasticRun) -> list[int]:
    """The numbers of workers that it may have, in order."""
    segment, most = run.request.locality.segment, len(run.request.bundles)
    sizes = range(max(1, run.least), most + 1)
    return [size for size in sizes if segment is None or size <= segment or not size % segment]


def _up_to(most: int, sizes: list[int], amount: Callable[[int], int]) -> list[int]:
    """Those of the sizes, which are in order, that come to no more than `most`. Few are tried: each takes a while."""
    return sizes[: bisect_right(sizes, most, key=amount)]


def _smaller(request: GangRequest, size: int) -> GangRequest:
    one_node = request.strategy is Strategy.STRICT_PACK
    locality = fitted(request.locality, size, one_node=one_node)
    return replace(request, bundles=request.bundles[:size], locality=locality)
