"""The rules of docs/queue.md once more, in the simplest words: exact fractions, every set tried, nothing remembered.

Only what a small cluster of whole GPUs needs: racks of nodes, gangs of equal bundles. For `test_queue_rules.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

GUARANTEED, BORROWS, OVER = range(3)
INFINITE = Fraction(10**30)


@dataclass(frozen=True)
class Team:
    guarantee: int = 0
    weight: Fraction = Fraction(1)
    limit: int | None = None


@dataclass(frozen=True)
class Ask:
    """A gang as it asks. `turn`: its place in its team's queue: priority, then front, then arrival."""

    name: str
    team: str
    arrival: int
    bundles: int
    size: int
    cpus: int = 0
    priority: int = 0
    one_clique: bool = False
    required: bool = True
    preemptible: bool = False
    preempted: int = 0
    runs_for: float | None = None
    since: float = 0.0  # when it came into the queue

    @property
    def gpus(self) -> int:
        return self.bundles * self.size

    @property
    def turn(self) -> tuple[int, int, int]:
        return -self.priority, 0 if self.preempted else 1, self.arrival


@dataclass(frozen=True)
class Held:
    """A gang that has devices: how many on each node."""

    ask: Ask
    nodes: Mapping[str, int]
    started: float
    ends: float | None = None
    leaves: bool = False  # it is given back
    deadline: float | None = None  # of its notice that it ends for another gang
    by: str = ""
    grace: float = 0.0


@dataclass
class Scene:
    """A moment."""

    racks: Mapping[str, Mapping[str, int]]  # rack -> node -> GPUs
    cpus: int
    teams: Mapping[str, Team] | None
    waiting: list[Ask]
    held: dict[str, Held]
    now: float
    times: int = 3
    least_run: float = 600.0
    restart: float = 600.0

    # -- teams

    def team(self, name: str) -> Team:
        assert self.teams is not None
        name = name or "default"
        if name in self.teams:
            return self.teams[name]
        return Team() if name == "default" else Team(0, Fraction(0), 0)

    def has(self, name: str, more: Iterable[Ask] = ()) -> tuple[int, int]:
        """GPUs and CPUs."""
        mine = [held.ask for held in self.held.values() if self.same(held.ask.team, name)]
        mine += [ask for ask in more if self.same(ask.team, name)]
        return sum(ask.gpus for ask in mine), sum(ask.cpus for ask in mine)

    def same(self, one: str, other: str) -> bool:
        return self.teams is None or (one or "default") == (other or "default")

    @property
    def total(self) -> int:
        return sum(gpus for nodes in self.racks.values() for gpus in nodes.values())

    def right(self, ask: Ask, more: Iterable[Ask] = ()) -> int:
        if self.teams is None:
            return GUARANTEED
        team, (gpus, _) = self.team(ask.team), self.has(ask.team, more)
        if team.limit is not None and gpus + ask.gpus > team.limit:
            return OVER
        return GUARANTEED if gpus + ask.gpus <= team.guarantee else BORROWS

    def beyond(self, name: str, more: Iterable[Ask] = ()) -> Fraction:
        team, (gpus, cpus) = self.team(name), self.has(name, more)
        share = Fraction(gpus, self.total)
        if self.cpus:
            share = max(share, Fraction(cpus, self.cpus))
        over = max(Fraction(0), share - Fraction(team.guarantee, self.total))
        return over / team.weight if team.weight else INFINITE

    def rank(self, ask: Ask, more: Iterable[Ask] = ()) -> tuple[int, Fraction, int]:
        right = self.right(ask, more)
        beyond = self.beyond(ask.team, more) if right == BORROWS else Fraction(0)
        return right, beyond, ask.arrival

    def firsts(self) -> list[Ask]:
        """Of each team, whoever is first in its queue."""
        if self.teams is None:
            return [min(self.waiting, key=lambda ask: ask.turn)] if self.waiting else []
        names = {ask.team or "default" for ask in self.waiting}
        return [min((a for a in self.waiting if self.same(a.team, n)), key=lambda a: a.turn) for n in sorted(names)]

    def head(self, more: Iterable[Ask] = ()) -> Ask | None:
        more = list(more)
        able = [ask for ask in self.firsts() if self.right(ask, more) != OVER]
        return min(able, key=lambda ask: self.rank(ask, more)) if able else None

    # -- places

    def free(self, without: Collection[str] = ()) -> dict[str, dict[str, int]]:
        found = {rack: dict(nodes) for rack, nodes in self.racks.items()}
        for name, held in self.held.items():
            if name in without:
                continue
            for node, gpus in held.nodes.items():
                found[next(r for r, nodes in self.racks.items() if node in nodes)][node] -= gpus
        return found

    def fits(self, ask: Ask, without: Collection[str] = (), *, strict: bool = False) -> bool:
        free = self.free(without)
        rooms = {rack: sum(max(0, gpus) // ask.size for gpus in nodes.values()) for rack, nodes in free.items()}
        if ask.one_clique and (ask.required or strict):
            return max(rooms.values()) >= ask.bundles
        return sum(rooms.values()) >= ask.bundles

    # -- when the first starts, if all guesses hold

    def end_of(self, held: Held) -> float | None:
        if held.leaves:
            return self.now
        if held.deadline is not None and any(ask.name == held.by for ask in self.waiting):
            return max(self.now, held.deadline)
        return held.ends

    def start_of(self, ask: Ask) -> float | None:
        """At the earliest; None: nobody can tell."""
        ends = {name: end for name, held in self.held.items() if (end := self.end_of(held)) is not None}
        for at in sorted({self.now, *(end for end in ends.values() if end > self.now)}):
            if self.fits(ask, [name for name, end in ends.items() if end <= at]):
                return at
        return None

    # -- whom the first may take

    def borrowed(self, name: str) -> set[str]:
        """What a team has borrowed: what does not fit into its guarantee, by the order of its queue."""
        mine = [
            h.ask for h in self.held.values() if self.same(h.ask.team, name) and not h.leaves and h.deadline is None
        ]
        within, found = 0, set()
        for ask in sorted(mine, key=lambda ask: ask.turn):
            if within + ask.gpus <= self.team(name).guarantee:
                within += ask.gpus
            else:
                found.add(ask.name)
        return found

    def prices(self, first: Ask) -> dict[str, tuple[tuple[int, ...], int]]:
        """Whom it may take: how dear each is, and the work that is lost with it. Who ends in any case is cheapest."""
        found: dict[str, tuple[tuple[int, ...], int]] = {}
        owed = self.teams is not None and self.right(first) == GUARANTEED
        others = {h.ask.team or "default" for h in self.held.values() if not self.same(h.ask.team, first.team)}
        most = sorted(others, key=lambda name: (-self.beyond(name), name)) if owed else []
        starts = max((h.deadline for h in self.held.values() if h.by == first.name and h.deadline), default=10.0**9)
        for name, held in self.held.items():
            work = int(sum(held.nodes.values()) * (max(0.0, self.now - held.started) + self.restart))
            ask, old = held.ask, self.now - held.started >= self.least_run
            if held.leaves:
                found[name] = (0,), 0
            elif held.deadline is not None:
                found[name] = (0,), work
            elif held.ends is not None and self.now < held.ends <= self.now + held.grace:
                found[name] = ((0,) if held.ends <= starts else (0, 1)), 0
            elif not old:
                continue
            elif not self.same(ask.team, first.team):
                if owed and name in self.borrowed(ask.team):
                    found[name] = (1, most.index(ask.team or "default")), work
            elif ask.preemptible and ask.priority < first.priority and ask.preempted < self.times:
                found[name] = (2, ask.priority), work
        return found

    def victims(self, first: Ask, *, strict: bool) -> tuple[str, ...] | None:
        """The cheapest set without which it fits: by the dearest of it, the work, devices, gangs, names.

        A larger set costs more, and frees more. So nobody is dearer than the dearest of the fewest classes that are
        enough together; nothing is added to what is enough, nor to what costs more already; and nothing is looked for
        where all that are left are not enough."""
        prices = self.prices(first)
        classes = sorted({rank for rank, _ in prices.values()})
        for dearest in classes:
            names = sorted(name for name, (rank, _) in prices.items() if rank <= dearest)
            if self.fits(first, names, strict=strict):
                return self._cheapest(first, prices, (), names, None, strict=strict)
        return None

    def _cheapest(
        self,
        first: Ask,
        prices: Mapping[str, tuple[tuple[int, ...], int]],
        taken: tuple[str, ...],
        left: list[str],
        best: tuple[str, ...] | None,
        *,
        strict: bool,
    ) -> tuple[str, ...] | None:
        """Of all sets of these that are taken and some of those that are left, or what was best before."""

        def cost(names: tuple[str, ...]) -> tuple[tuple[int, ...], int, int, int, tuple[str, ...]]:
            dearest = max((prices[name][0] for name in names), default=())
            lost, gpus = sum(prices[name][1] for name in names), sum(self.held[name].ask.gpus for name in names)
            return dearest, lost, gpus, len(names), names

        if best is not None and cost(taken)[:-1] > cost(best)[:-1]:
            return best
        if taken and self.fits(first, taken, strict=strict):
            return taken if best is None or cost(taken) < cost(best) else best
        if not left or not self.fits(first, (*taken, *left), strict=strict):
            return best
        best = self._cheapest(first, prices, (*taken, left[0]), left[1:], best, strict=strict)
        return self._cheapest(first, prices, taken, left[1:], best, strict=strict)

    def stands(self, first: Ask) -> bool:
        """Whether what was told for it is enough, with all who will have ended once that is over."""
        over = max(
            (h.deadline for h in self.held.values() if h.by == first.name and h.deadline is not None), default=None
        )
        if over is None:
            return False
        gone = [
            name
            for name, held in self.held.items()
            if held.leaves or held.deadline is not None or (held.ends is not None and held.ends <= over)
        ]
        strict = first.one_clique and not first.required
        if self.fits(first, gone, strict=strict):
            return True
        return strict and self.victims(first, strict=True) is None and self.fits(first, gone)

    def waits_until(self, first: Ask, names: Collection[str]) -> float:
        """When it takes these: it waits for each GPU that other teams give back and it does not need."""
        back = sum(held.ask.gpus for name in names if not self.same((held := self.held[name]).ask.team, first.team))
        return first.since + self.restart * max(0, back - first.gpus) / first.gpus
