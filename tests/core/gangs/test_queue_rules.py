"""Random lives of small clusters, each decision of the engine against the rules of docs/queue.md (`queue_rules.py`).

Everybody ends by its guess. Whoever starts is first by the rules, or goes before its turn and delays the first by
nothing; whoever could go, goes; those with notice are the cheapest set; no team has more than its limit; and the first
starts by when it was promised.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from ray_dra.core.gangs.backfill import OFF, Bounds
from ray_dra.core.gangs.consolidation import NO_CONSOLIDATION
from ray_dra.core.gangs.events import Event, GangObserved, NextTurn, QueuesDeclared, ReleaseAsked, Submitted
from ray_dra.core.gangs.gang import Maker
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.preemption import Preemption
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.gangs.team_queues import TeamQueue, TeamQueues
from ray_dra.core.model.locality import Locality
from ray_dra.errors import RayDraError
from tests.core.gangs.queue_rules import OVER, Ask, Held, Scene, Team
from tests.core.gangs.world import World
from tests.core.machines import gang, group_id, rack


class Life:
    """A small cluster, who comes to it, and what is checked of each decision."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.racks: dict[str, dict[str, int]] = {}
        machines = []
        for name in ("a", "b", "c")[: dice.randint(1, 3)]:
            gpus = dice.choice((2, 4))
            nodes = [replace(node, resources={}) for node in rack(name, dice.randint(1, 3), gpus)]
            machines += nodes
            self.racks[name] = {node.name: gpus for node in nodes}
        self.total = sum(gpus for nodes in self.racks.values() for gpus in nodes.values())
        self.settings = Preemption(dice.randint(0, 3), dice.choice((0.0, 3.0, 10.0)), dice.choice((0.0, 2.0, 6.0)))
        self.backfill = dice.random() < 0.85
        self.world = World(
            machines=machines,
            preemption=self.settings,
            backfill=Bounds() if self.backfill else OFF,
            worth=None,
            consolidation=NO_CONSOLIDATION,
            learn=False,
        )
        self.asks: dict[str, Ask] = {}
        self.grace: dict[str, float] = {}
        self.promised: dict[str, float] = {}  # the first, for as long as its turn lasts
        self.teams = self._teams() if dice.random() < 0.7 else None
        self.seen: Counter[str] = Counter()

    def _teams(self) -> dict[str, Team]:
        """Guaranteed together no more than there is."""
        dice, left, teams = self.dice, self.total, dict[str, Team]()
        for name in ("a", "b", "c", "default"):
            guarantee = dice.randint(0, left) if dice.random() < 0.5 else 0
            left -= guarantee
            limit = guarantee + dice.randint(0, self.total) if dice.random() < 0.3 else None
            teams[name] = Team(guarantee, Fraction(dice.choice((0, 1, 1, 2, 3))), limit)
        queues = (
            TeamQueue(
                name, 1000 * team.guarantee, float(team.weight), None if team.limit is None else 1000 * team.limit
            )
            for name, team in teams.items()
        )
        self.world.act(QueuesDeclared(TeamQueues.of(queues)))
        return teams

    def scene(self) -> Scene:
        waiting, held = [], {}
        for name, each in self.world.gangs.items():
            ask, eviction = replace(self.asks[name], preempted=each.preempted), each.eviction
            ask = replace(ask, since=each.history[-1].at)
            if each.waits:
                waiting.append(ask)
            elif each.allocation is not None:
                nodes = Counter(grant.node for grant in each.allocation.grants)
                deadline, by = (eviction.deadline, eviction.by) if eviction is not None else (None, "")
                started, grace = each.started or 0.0, self.grace[name]
                held[name] = Held(ask, nodes, started, each.ends, each.releasing, deadline, by, grace)
        said = self.settings
        now = self.world.now
        return Scene(self.racks, 0, self.teams, waiting, held, now, said.most, said.least_run, said.restart)

    # -- what happens

    def step(self) -> None:
        world, dice = self.world, self.dice
        world.now += 1.0
        for name in list(world.gangs):
            each = world.gangs[name]
            if each.waits:
                leaves = dice.random() < 0.01
            else:
                leaves = dice.random() < (0.01 if each.ends is not None else 0.08)
                leaves = leaves or (each.ends is not None and each.ends <= world.now)
            if leaves:
                world.act(ReleaseAsked(name))
            elif not each.waits:
                state = "CREATED" if each.group is not None else None
                world.act(GangObserved(name, Observed(state, placed_once=state is not None, provisioned=True)))
        self.serve()
        if sum(each.waits for each in world.gangs.values()) < 7:
            for _ in range(dice.randint(0, 2)):
                self.submit()
            self.serve()

    def submit(self) -> None:
        dice, name = self.dice, group_id(f"g{len(self.asks)}")
        size, bundles = dice.choice((1, 1, 2, 4)), dice.choice((1, 1, 2, 2, 3, 4))
        one_clique, required = dice.random() < 0.5, dice.random() < 0.5
        runs_for = float(dice.randint(1, 30)) if dice.random() < 0.8 else None
        team = dice.choice(("a", "b", "c", "")) if self.teams is not None else ""
        priority, preemptible = dice.choice((0, 0, 0, 1, 2)), dice.random() < 0.5
        locality = Locality(cliques=1, required=required, patience=None if required else 0.0) if one_clique else None
        request = gang(*[size] * bundles, name=name, locality=locality, priority=priority)
        arrival, self.grace[name] = self.world.engine.records.next_sequence(), float(dice.randint(1, 4))
        self.asks[name] = Ask(
            name, team, arrival, bundles, size, 0, priority, one_clique, required, preemptible, 0, runs_for
        )
        order = Order(
            replace(request, preemptible=preemptible),
            team=team,
            maker=Maker(),
            on_fault=on_fault("degrade", self.grace[name]),
            runs_for=runs_for,
        )
        try:
            self.turn(Submitted(order), self.asks[name])
        except RayDraError:  # it is too large for the cluster, or for its team
            assert name not in self.world.gangs

    def serve(self) -> None:
        for _ in range(300):
            if not self.turn(NextTurn()):
                return self.check_rest()
        raise AssertionError("the queue comes to no end")

    def turn(self, event: Event, comes: Ask | None = None) -> bool:
        """One decision; whether anything was decided."""
        before, gangs = self.scene(), dict(self.world.gangs)
        decided = bool(self.world.act(event))
        if comes is not None:
            before.waiting.append(comes)
        started = [
            name
            for name, each in self.world.gangs.items()
            if each.allocation is not None and (name not in gangs or gangs[name].allocation is None)
        ]
        assert len(started) <= 1
        for name in started:
            self.check_start(before, self.asks[name])
        told = {n for n, g in self.world.gangs.items() if g.eviction is not None and gangs[n].eviction is None}
        if told:
            self.check_notice(before, told)
        back = {n for n, g in self.world.gangs.items() if g.eviction is None and n in gangs and gangs[n].eviction}
        back = {name for name in back if self.world.gangs[name].allocation is not None}
        if back:
            self.check_taken_back(before, back)
        return decided

    # -- what the rules say of it

    def check_start(self, before: Scene, ask: Ask) -> None:
        first = before.head()
        assert first is not None
        assert before.fits(ask)
        assert before.right(ask) != OVER
        if first.name == ask.name:
            if ask.name in self.promised:
                assert self.world.now <= self.promised[ask.name], "later than promised"
                self.seen["kept"] += 1
            self.promised.clear()  # the next one takes what is left
            return
        self.seen["overtook"] += 1
        assert self.backfill
        assert not before.fits(first)
        assert self.may_pass(before, first, ask)
        after = self.scene()
        if ask.one_clique:
            nodes = after.held[ask.name].nodes
            assert any(nodes.keys() <= rack.keys() for rack in self.racks.values())
        earliest, then = before.start_of(first), after.start_of(first)
        assert earliest is not None, "nobody can tell when the first starts"
        assert then is not None
        assert then <= min(earliest, self.promised.get(first.name, earliest)), "it delays the first"

    def may_pass(self, scene: Scene, first: Ask, ask: Ask) -> bool:
        """As far as their teams go."""
        if ask.runs_for is None or scene.right(ask) == OVER:
            return False
        if scene.teams is None or not scene.same(first.team, ask.team):
            return True
        limit = scene.team(ask.team).limit
        if limit is not None and scene.has(ask.team)[0] + ask.gpus + first.gpus > limit:
            return False
        rest = replace(scene, waiting=[each for each in scene.waiting if each.name != ask.name])
        return scene.right(first) == scene.right(first, [ask]) and rest.head([ask]) == first

    def check_notice(self, before: Scene, told: set[str]) -> None:
        first = before.head()
        assert first is not None
        self.seen["told"] += len(told)
        assert self.settings.most
        assert {each.eviction.by for n, each in self.world.gangs.items() if n in told and each.eviction} == {first.name}
        assert not before.fits(first)
        assert not before.stands(first), "what was told is enough"
        assert self.wanted(before, first) == told

    def check_taken_back(self, before: Scene, back: set[str]) -> None:
        """Who goes on is not needed: because others leave in any case, or since what was told is not enough."""
        first = before.head()
        assert first is not None
        self.seen["taken back"] += len(back)
        found = self.cheapest(before, first)
        assert not back & set(found)
        prices = before.prices(first)
        assert not before.stands(first) or (found and max(prices[name][0] for name in found) == (0,))

    def cheapest(self, scene: Scene, first: Ask) -> tuple[str, ...]:
        strict = first.one_clique and not first.required
        found = scene.victims(first, strict=strict)
        if found is None and strict:
            found = scene.victims(first, strict=False)
        return found or ()

    def wanted(self, scene: Scene, first: Ask) -> set[str]:
        """Who ends for the first, and would not in any case."""
        found = self.cheapest(scene, first)
        prices = scene.prices(first)
        taken = {name for name in found if prices[name][0][0] != 0}
        back = [name for name in taken if prices[name][0][0] == 1]
        told = any(held.by == first.name for held in scene.held.values())
        return taken if told or scene.waits_until(first, back) <= scene.now else set()

    def check_rest(self) -> None:
        """Nothing is left to be decided."""
        scene, records = self.scene(), self.world.engine.records
        first = scene.head()
        assert (records.first.id if records.first is not None else None) == (first.name if first is not None else None)
        if first is None:
            self.promised.clear()
            return
        assert not scene.fits(first), "it fits, and has not started"
        earliest = scene.start_of(first)
        before = self.promised.get(first.name)
        self.promised.clear()
        if self.backfill and earliest is not None:
            by = self.promised[first.name] = min(earliest, before if before is not None else earliest)
            for ask in scene.waiting:
                if ask != first and self.may_pass(scene, first, ask) and scene.fits(ask, strict=True):
                    assert ask.runs_for is not None
                    assert self.world.now + ask.runs_for > by, "it could go before its turn"
        elif before is not None:
            self.promised[first.name] = before
        told = {name for name, held in scene.held.items() if held.by == first.name}
        assert told or not self.settings.most or not self.wanted(scene, first), "it may take somebody"


@pytest.mark.parametrize("seed", range(4))
def test_every_decision_is_by_the_rules(seed: int) -> None:
    seen: Counter[str] = Counter()
    for life in map(Life, range(100 * seed, 100 * seed + 8)):
        for _ in range(60):
            life.step()
        seen += life.seen
    assert seen["overtook"] > 5
    assert seen["kept"] > 10
    assert seen["told"] > 3
