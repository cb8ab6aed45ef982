"""The gangs' records in memory, with all that is looked up of them: the queue, names, placement groups, what is held.

Pure. The store has the same records, and is written first (`coordinator/executor.py`); only then a record changes here,
and with it what its gang holds of the inventory. `changes.check_change` refuses what no record may do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, MutableMapping

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.changes import check_change
from ray_dra.core.gangs.gang import Gang, owner_ended
from ray_dra.core.gangs.kept import KEPT_SECONDS, KeptPlaces
from ray_dra.core.gangs.own_spares import OwnSpares
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.pool_index import PoolIndex
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.record_checks import same, validate_gang
from ray_dra.core.gangs.runtime_notes import RuntimeNotes
from ray_dra.core.gangs.set_index import SetIndex, cliques_of, set_of
from ray_dra.core.gangs.stages import VERIFIED
from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.team_queues import CPU, MEMORY, NOTHING, Amounts, Entitlement, TeamQueues, amounts_of
from ray_dra.core.gangs.turn import Turn, turn_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.request import WHOLE, GangRequest


class Records:
    """See the module.

    Attributes:
        gangs: by id, in order of arrival. notes: by id.
        changed: the gangs whose records have changed, until somebody takes note and clears it. touched: the same, for
            somebody else; None: nobody asks.
        sets: the sets of ordinary placement groups that they are of. pools: the named pools, and who waits for shares.
        team_order: those that wait, in the order of the queue, and what each team has.
        groups: the placement groups that are ours, those included that a gang has left, and the gang of each.
        kept: places that are kept for programs after a fault.
        phases: how many gangs were last seen in each phase. stages: how many are in each stage of `stages.StageTimes`.
        guesses: how many gangs have said how long they run. preemptible, movable: how many may be preempted,
            and moved.
        evicted: those that have notice that they end for another gang.

    Invariants: what is kept beside `gangs` is what a scan of them would give; the inventory holds the allocations of
    the records, the places kept, and no others. `validate` checks both.
    """

    def __init__(self, inventory: Inventory, begins: Progress) -> None:
        """`begins`: the progress of a gang whose devices were just held."""
        self.inventory, self.begins = inventory, begins
        self.gangs: dict[str, Gang] = {}
        self.notes: dict[str, RuntimeNotes] = {}
        self.changed: set[str] = set()
        self.touched: dict[str, None] | None = None
        self.groups: dict[str, str] = {}
        self.phases: Counter[Phase] = Counter()
        self.stages: Counter[str | None] = Counter()
        self.guesses = self.preemptible = self.movable = 0
        self.evicted: dict[str, None] = {}
        self.team_order = TeamOrder()
        self._amounts: dict[str, tuple[GangRequest, Amounts]] = {}  # by gang: what its request counts
        self._counted: tuple[int, int] | None = None  # by which nodes and devices the cluster's amounts were summed up
        self._owners: dict[str, dict[str, None]] = {}  # of gangs in the queue, or in one outside
        self._past: dict[str, None] = {}  # gangs with an allocation, in a queue outside, or that are given back
        self._quotas: dict[str, None] = {}  # gangs that are paid from a queue outside
        self._with_spares: dict[str, None] = {}  # gangs for whose repairs free nodes are held
        self._besides: dict[str, None] = {}  # gangs that go with another
        self._names: dict[tuple[str, str], str] = {}  # (namespace, name) -> the live gang that has it
        self.sets = SetIndex()
        self.pools = PoolIndex(self.gangs, self.notes, inventory)
        self._last = 0
        self.kept = KeptPlaces(inventory)
        self.own_spares = OwnSpares(inventory)

    # -- changes

    def put(self, gang: Gang, now: float) -> None:
        """A record as it is from here on; what it holds is held.

        Raises:
            ForbiddenChange: no record may change so.
            ValueError: it claims what another gang holds. Nothing is changed in either case.
        """
        check_change(self.gangs.get(gang.id), gang)
        self._put(gang, now)

    def restore(self, gang: Gang, now: float) -> None:
        """A record of the store, after a start; in order of arrival. Raises ValueError as `put` does."""
        self._put(gang, now)
        quota, notice = gang.quota, gang.notice
        if quota is not None and notice is not None and notice.reason.startswith(f"{quota.queue}: "):
            self.notes[gang.id].evicted = now, notice.reason  # so it is until the queue is heard again

    def _put(self, gang: Gang, now: float) -> None:
        before = self.gangs.get(gang.id)
        held = before.allocation if before is not None else None
        changes = before is not None and (before.reshape is not None or gang.reshape is not None)
        if gang.allocation is not held or changes:
            self._hold_instead(before.holds if before is not None else None, gang)
        if before is not None:
            self._unlist(before)
        self.gangs[gang.id] = gang
        self._note(gang.id)
        self._list(gang)
        notes = self.notes.get(gang.id)
        if notes is None:
            self.notes[gang.id] = RuntimeNotes(now, self.begins)
            return
        if gang.allocation is not held:
            notes.progress = self.begins
        if before is None or gang.allocation is not held or gang.group != before.group:
            notes.since = now  # its time counts anew

    def drop(self, gang_id: str, *, keep_until: float | None = None) -> None:
        """The end of a gang; what it held is free, or kept for its program for a while."""
        self._note(gang_id)
        gang = self.gangs.pop(gang_id, None)
        self._amounts.pop(gang_id, None)
        if gang is None:
            return
        check_change(gang, None)
        self._unlist(gang)
        notes = self.notes.pop(gang_id, None)
        self.own_spares.let_go(gang_id)
        self.inventory.release(gang_id)
        if keep_until is not None and gang.allocation is not None:
            resizes = notes is not None and notes.comes_back > keep_until - KEPT_SECONDS
            actor = gang.ordinary.actor if gang.ordinary is not None and resizes else ""
            self.kept.keep(gang.owner, gang.allocation, keep_until, actor=actor, team=gang.team)

    # -- the queue

    def next_sequence(self) -> int:
        return self._last + 1

    @property
    def first(self) -> Gang | None:
        """The gang whose turn it is, ordinary placement groups apart."""
        turn = self.team_order.first
        return self.gangs[turn[2]] if turn is not None else None

    def behind_first(self, most: int) -> list[Gang]:
        """At most so many of those that wait behind the first, in their order."""
        return [self.gangs[gang_id] for _, _, gang_id in self.team_order.after_first(most)]

    @property
    def waiting(self) -> bool:
        """Whether any gang is in the queue."""
        order = self.team_order
        return self.pools.awaited or any(True for ordinary in (False, True) for _ in order.turns(ordinary=ordinary))

    def ordinary_after(self, passed: MutableMapping[str, Turn]) -> Gang | None:
        """The ordinary placement group that is next after these turns, by team, unless a gang that holds it up comes
        first."""
        turn = self.team_order.next_ordinary(passed)
        return self.gangs[turn[2]] if turn is not None else None

    def ahead(self, gang: Gang) -> int:
        """How many gangs wait before this one, and hold it up."""
        if gang.request.in_pool:
            return len(self.pools.before(gang))
        order = self.team_order
        return order.ahead(gang.team, turn_of(gang), self.amounts(gang) if order.declared else NOTHING)

    def first_before(self, gang: Gang) -> Gang | None:
        """The first of those who wait before a gang: of its team or pool, where these hold it up, or of all."""
        if gang.request.in_pool:
            before = self.pools.before(gang)
            return self.gangs[before[0][2]] if before else None
        own = self.team_order.first_of(gang.team) if self.team_order.declared else None
        return self.gangs[own[2]] if own is not None and own < turn_of(gang) else self.first

    # -- queues of teams

    def amounts(self, gang: Gang) -> Amounts:
        """What a gang counts in its team's queue: with what it keeps beside its shape, and while it changes that, the
        larger of the two."""
        if gang.request.in_pool:
            return NOTHING
        change = gang.reshape
        if change is not None:
            return max(_with_kept(each.request, each.allocation) for each in (change.leaves, change.comes))
        if gang.allocation is not None and gang.allocation.kept is not None:
            return _with_kept(gang.request, gang.allocation)
        request, found = self._amounts.get(gang.id, (None, NOTHING))
        if request is not gang.request:
            found = amounts_of(gang.request)
            if gang.id in self.gangs:
                self._amounts[gang.id] = gang.request, found
        return found

    def declare(self, queues: TeamQueues) -> None:
        """The queues of teams from here on."""
        if queues != self.team_order.queues:
            self.team_order.declare(queues)
            self.count_cluster()

    def count_cluster(self) -> None:
        """Sum up what there is for the teams, where nodes or devices have come or gone."""
        order, nodes = self.team_order, self.inventory.node_states
        counted = len(nodes), self.inventory.devices
        if not order.queues or (counted == self._counted and order.total.gpus):
            return
        self._counted = counted
        each = [state.node.resources for state in nodes.values()]
        cpus, memory = (sum(resources.get(name, 0.0) for resources in each) for name in (CPU, MEMORY))
        order.resize(Amounts(WHOLE * self.inventory.devices, cpus, memory))

    def waiting_of(self, owner: str) -> Collection[str]:
        """A program's gangs in the queue, or in one outside."""
        return self._owners.get(owner, {}).keys()

    def orphans(self, jobs: Collection[str], ended_actors: Collection[str] = ()) -> list[Gang]:
        """Gangs in a queue whose program has ended."""
        return [g for g in self._without_job(jobs) if not g.detached and owner_ended(g, jobs, ended_actors)]

    def kept_by_actors(self, jobs: Collection[str]) -> set[str]:
        """The actors that keep ordinary placement groups which no job keeps."""
        past = [g for g in self._past_queue() if g.ordinary is not None and not g.releasing]
        kept = [g for g in past if g.ordinary is not None and (g.ordinary.outlives_job or g.owner not in jobs)]
        found = self._without_job(jobs) + kept
        return {g.ordinary.actor for g in found if g.ordinary is not None and g.ordinary.actor and not g.detached}

    def _without_job(self, jobs: Collection[str]) -> list[Gang]:
        """Gangs in a queue that no job keeps there."""
        gone = (owned for owner, owned in self._owners.items() if owner and owner not in jobs)
        found = [self.gangs[gang_id] for owned in gone for gang_id in owned]
        ordinary = [self.gangs[gang_id] for _, _, gang_id in self.team_order.turns(ordinary=True)]
        return found + [g for g in ordinary if g.owner in jobs and g.ordinary is not None and g.ordinary.outlives_job]

    # -- gangs that go with another

    def partner_of(self, gang: Gang) -> Gang | None:
        """The gang that this one goes with; None where it goes with none, or that one has ended or is given back."""
        found = self.gangs.get(gang.beside.gang) if gang.beside is not None else None
        return found if found is not None and not found.releasing else None

    def left_alone(self) -> list[Gang]:
        """Gangs that end with another, which has ended."""
        found = (self.gangs[gang_id] for gang_id in self._besides)
        return [g for g in found if g.beside is not None and g.beside.ends and self.partner_of(g) is None]

    # -- sets of ordinary placement groups

    def cliques_near(self, gang: Gang, batch: int) -> frozenset[DomainId]:
        """The cliques in which others of its set have devices; of a set that is a gang, others of this batch. Of a gang
        that goes with another, that one's."""
        if gang.beside is not None and gang.beside.near and (partner := self.partner_of(gang)) is not None:
            return cliques_of(partner)
        part_of = set_of(gang)
        if part_of is None:
            return frozenset()
        own = cliques_of(gang) if gang.id in self.gangs and batch == gang.batch else frozenset()
        return self.sets.cliques_near(part_of, batch, own)

    # -- spares of single gangs

    def keep_spares(self) -> None:
        """Hold free nodes for the gangs that asked for spares: not beyond a team's limit, and not while somebody of a
        higher priority waits."""
        if not self._with_spares:
            return
        first, order, kept = self.first, self.team_order, dict[str, int]()

        def may(gang: Gang, devices: int) -> bool:
            team = order.team(gang.team)
            if order.entitlement(gang.team, Amounts(WHOLE * (kept.get(team, 0) + devices))) is Entitlement.OVER_LIMIT:
                return False
            kept[team] = kept.get(team, 0) + devices
            return True

        least = first.request.priority if first is not None else -math.inf
        gangs = [self.gangs[gang_id] for gang_id in self._with_spares]
        self.own_spares.look([g for g in gangs if g.request.priority >= least and not g.releasing], may)

    # -- those past it

    def with_quota(self) -> list[Gang]:
        """Gangs that are paid from a queue outside."""
        return [self.gangs[gang_id] for gang_id in self._quotas]

    def past_queue(self) -> list[Gang]:
        """Gangs with an allocation, in a queue outside, or that are given back; the earliest first."""
        return sorted(self._past_queue(), key=lambda g: g.sequence)

    def wanted(self) -> list[Allocation]:
        """The allocations for which workers are to be there; what is made for any other is undone."""
        return [
            gang.allocation
            for gang in self._past_queue()
            if gang.allocation is not None and not self.notes[gang.id].ending
        ]

    def changing_claims(self) -> dict[str, Allocation]:
        """GPUs that no claim has for a while, by gang: of those whose workers are made anew for another shape, and what
        gangs keep that no worker has."""
        found: dict[str, Allocation] = {}
        for gang in self._past_queue():
            change, held = gang.reshape, gang.allocation
            if gang.releasing or held is None:
                continue
            if change is not None and change.gpus:
                found[gang.id] = change.holds
            elif held.kept is not None and held.kept.guarded:
                found[gang.id] = Allocation(gang.id, held.kept.placed)
        return found

    def holders(self) -> Iterable[tuple[Gang, Allocation]]:
        """The gangs that hold devices."""
        return ((gang, gang.allocation) for gang in self._past_queue() if gang.allocation is not None)

    def same_team(self, one: Gang, other: Gang) -> bool:
        """Whether they wait in the same order: priorities say nothing to other teams."""
        return self.team_order.team(one.team) == self.team_order.team(other.team)

    def leaving(self) -> list[Gang]:
        """Gangs that have notice that they end for another one."""
        return [self.gangs[gang_id] for gang_id in self.evicted]

    @property
    def expects_proofs(self) -> bool:
        """Whether workers of a gang are about to prove what they have, in the store, which tells nobody of it."""
        return self.stages[VERIFIED] > 0 or self.phases[Phase.REPAIRING] > 0

    # -- by name and group

    def named(self, name: str, namespace: str) -> str | None:
        """The live gang that has a name."""
        return self._names.get((namespace, name)) if name else None

    def of_group(self, group: str) -> Gang | None:
        """The gang whose present placement group it is."""
        gang = self.gangs.get(self.groups.get(group, ""))
        return gang if gang is not None and gang.group == group else None

    # -- inside

    def _note(self, gang_id: str) -> None:
        self.changed.add(gang_id)
        if self.touched is not None:
            self.touched[gang_id] = None

    def _hold_instead(self, held: Allocation | None, gang: Gang) -> None:
        holds = gang.holds
        if holds == held:
            return
        if holds is None:
            self.own_spares.let_go(gang.id)
        else:
            self.own_spares.give(gang.id, {placed.node for placed in holds.holdings})
        self.inventory.release(gang.id)
        try:
            if holds is not None:
                self.inventory.hold(holds)
        except ValueError:
            if held is not None:
                self.inventory.hold(held)
            raise

    def _past_queue(self) -> list[Gang]:
        return [self.gangs[gang_id] for gang_id in self._past]

    def _list(self, gang: Gang) -> None:
        self._last = max(self._last, gang.sequence)
        if not gang.waits:
            self._past[gang.id] = None
        elif not gang.request.in_pool:
            ordinary = gang.ordinary is not None
            self.team_order.wait(gang.team, turn_of(gang), self.amounts(gang), ordinary=ordinary)
        self.pools.put(gang)
        if gang.allocation is not None and not gang.request.in_pool:
            self.team_order.hold(gang.id, gang.team, self.amounts(gang))
        if gang.waits or gang.unpaid:
            self._owners.setdefault(gang.owner, {})[gang.id] = None
        if gang.quota is not None:
            self._quotas[gang.id] = None
        if gang.eviction is not None and not gang.releasing:
            self.evicted[gang.id] = None
        if gang.beside is not None and not gang.releasing:
            self._besides[gang.id] = None
        if gang.spares:
            self._with_spares[gang.id] = None
        if gang.name and not gang.releasing:
            self._names[gang.namespace, gang.name] = gang.id
        for group in gang.groups:
            self.groups[group] = gang.id
        if (part_of := set_of(gang)) is not None:
            self.sets.count(gang, part_of, 1)
        self._count(gang, 1)

    def _unlist(self, gang: Gang) -> None:
        self.pools.drop(gang)
        if gang.waits and not gang.request.in_pool:
            self.team_order.leave(turn_of(gang), ordinary=gang.ordinary is not None)
        self.team_order.let_go(gang.id)
        if gang.waits or gang.unpaid:
            owned = self._owners[gang.owner]
            del owned[gang.id]
            if not owned:
                del self._owners[gang.owner]
        self._past.pop(gang.id, None)
        self._quotas.pop(gang.id, None)
        self._besides.pop(gang.id, None)
        self._with_spares.pop(gang.id, None)
        self.evicted.pop(gang.id, None)
        if self._names.get((gang.namespace, gang.name)) == gang.id:
            del self._names[gang.namespace, gang.name]
        for group in gang.groups:
            self.groups.pop(group, None)
        if (part_of := set_of(gang)) is not None:
            self.sets.count(gang, part_of, -1)
        self._count(gang, -1)

    def _count(self, gang: Gang, by: int) -> None:
        self.stages[gang.times.stage] += by
        self.guesses += by * (gang.runs_for is not None)
        self.preemptible += by * gang.request.preemptible
        self.movable += by * gang.movable
        if gang.history:
            self.phases[gang.history[-1].to] += by

    # -- invariants

    def _validate_teams(self, waiting: Collection[Gang]) -> None:
        order = self.team_order
        for ordinary in (False, True):
            of_kind = [g for g in waiting if not g.request.in_pool and (g.ordinary is not None) is ordinary]
            teams = sorted({order.team(g.team) for g in of_kind})
            by_team = [sorted(turn_of(g) for g in of_kind if order.team(g.team) == team) for team in teams]
            same("queue", sorted(order.turns(ordinary=ordinary)), sorted(turn for turns in by_team for turn in turns))
            if not ordinary:
                same("first of teams", [order.first_of(team) for team in teams], [turns[0] for turns in by_team])
        has: dict[str, int] = {}
        for gang in self.gangs.values():
            if gang.allocation is not None and not gang.request.in_pool:
                team = order.team(gang.team)
                has[team] = has.get(team, 0) + self.amounts(gang).gpus
        same("what teams have", {team: amounts.gpus for team, amounts in order.teams.items()}, has)

    def validate(self) -> None:
        """Raises AssertionError where an invariant does not hold. Scans everything: for tests."""
        gangs = list(self.gangs.values())
        waiting = [g for g in gangs if g.waits]
        same("order of arrival", [g.sequence for g in gangs], sorted(g.sequence for g in gangs))
        self._validate_teams(waiting)
        self.pools.validate()
        in_queues = [g for g in gangs if g.waits or g.unpaid]
        same("owners", {o: set(ids) for o, ids in self._owners.items()}, _by_owner(in_queues))
        same("gangs with spares", set(self._with_spares), {g.id for g in gangs if g.spares})
        same("gangs that go with another", set(self._besides), {g.id for g in gangs if g.beside and not g.releasing})
        same("evicted", set(self.evicted), {g.id for g in gangs if g.eviction is not None and not g.releasing})
        same("preemptible", self.preemptible, sum(g.request.preemptible for g in gangs))
        same("movable", self.movable, sum(g.movable for g in gangs))
        same("quotas", set(self._quotas), {g.id for g in gangs if g.quota is not None})
        same("past the queue", set(self._past), {g.id for g in gangs if not g.waits})
        same("names", self._names, {(g.namespace, g.name): g.id for g in gangs if g.name and not g.releasing})
        same("placement groups", self.groups, {group: g.id for g in gangs for group in g.groups})
        self.sets.validate(gangs)
        same("phases", +self.phases, Counter(g.history[-1].to for g in gangs if g.history))
        same("stages", +self.stages, Counter(g.times.stage for g in gangs))
        same("guesses", self.guesses, sum(g.runs_for is not None for g in gangs))
        same("notes", self.notes.keys(), self.gangs.keys())
        same(
            "what is held",
            {gang: self.inventory.allocation(gang) for gang in self.inventory.gangs},
            {g.id: g.holds for g in gangs if g.holds is not None} | self.kept.holding() | self.own_spares.holding(),
        )
        given: dict[object, tuple[str, bool]] = {}  # device -> a gang that has it, and whether all of it
        for gang in gangs:
            validate_gang(gang)
            for grant in gang.holds.held_grants if gang.holds is not None and not gang.holds.pool else ():
                other, whole = given.setdefault(grant.device, (gang.id, grant.alone))
                if other != gang.id and (whole or grant.alone):
                    raise AssertionError(f"{grant.device} is given twice, to {other} and to {gang.id}")


def _with_kept(request: GangRequest, held: Allocation) -> Amounts:
    """What a gang counts, with what it keeps beside its shape."""
    kept = held.kept.placed if held.kept is not None else ()
    gpus = WHOLE * sum(len(placed.grants) for placed in kept)
    cpus, memory = (sum(placed.resources.get(name, 0.0) for placed in kept) for name in (CPU, MEMORY))
    return amounts_of(request).plus(Amounts(gpus, cpus, memory))


def _by_owner(waiting: Iterable[Gang]) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for gang in waiting:
        found.setdefault(gang.owner, set()).add(gang.id)
    return found
