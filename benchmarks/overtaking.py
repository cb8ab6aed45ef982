"""Who starts before its turn in a replay: asked of core as the coordinator asks (core/gangs/backfill.py, promise.py).

What was found is kept while nothing changes: jobs of one size ask for the same, so that a look at 100 of them is a few
plans. Neighbour: `replay.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import Bounds, Reservation, before_its_turn, expected_end, passed, reservations
from ray_dra.core.gangs.patience import Answer, Patience
from ray_dra.core.gangs.promise import Promised, kept, outdone
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy


class Asks(Protocol):
    """A job, as far as it matters here."""

    @property
    def gpus(self) -> int: ...
    @property
    def expected(self) -> float: ...


J = TypeVar("J", bound=Asks)


@dataclass(frozen=True, slots=True)
class Waiting(Generic[J]):
    """A job in the queue, what it asks for, and for how long it waits for its clique."""

    job: J
    request: GangRequest
    patience: Patience


class Overtaking(Generic[J]):
    """See the module. `ends`: when each gang that runs has ended, as its user guesses; the caller keeps it."""

    memory: type[dict[object, Any]] = dict

    def __init__(self, inventory: Inventory, ends: Mapping[str, float], bounds: Bounds, policy: Policy | None) -> None:
        self._inventory, self._ends, self._bounds, self._policy = inventory, ends, bounds, policy
        self._promised: Promised | None = None
        self._first = ""
        self._found_for: object = None
        self._places: tuple[Reservation, ...] = ()
        self._looked: dict[object, None] = self.memory()  # what was a no
        self._answers: dict[object, Answer] = self.memory()
        # What jobs had at the last look, and what those have got since that have overtaken.
        self._holders: dict[str, Allocation] = {}

    def known(self, now: float) -> list[tuple[float, str]]:
        """When running gangs will have ended, the earliest of them."""
        return nsmallest(self._bounds.ends, ((expected_end(end, now), name) for name, end in self._ends.items()))

    def look(
        self,
        queue: Sequence[Waiting[J]],
        now: float,
        since: float | None,
        may: Callable[[Waiting[J]], bool] = lambda _: True,
    ) -> Iterator[tuple[Waiting[J], Allocation]]:
        """Those behind the first of the queue that start now. The caller holds each before it asks for the next. `may`:
        whether one may start before the first, whatever devices there are."""
        first = queue[0] if queue else None
        for waiting in list(islice(queue, 1, 1 + self._bounds.waiting)):
            if first is None or waiting.job.gpus > self._inventory.free_devices or not may(waiting):
                continue
            if not self._reserved(first, now, since):
                return
            until = now + waiting.job.expected
            asked = waiting.job.gpus, tuple(each.at < until for each in self._places)
            if asked in self._looked:
                continue
            place = partial(self._place_without, waiting)
            answer = before_its_turn(self._inventory, self._places, until, place)
            if answer is None:
                self._looked[asked] = None
                continue
            self._holders[answer.gang] = answer
            yield waiting, answer
            self._answers.clear()  # the others that were a no are so all the more, and what is reserved is free yet
            self._places = passed(self._places, answer)
            if self._promised is not None:
                self._promised = replace(self._promised, places=passed(self._promised.places, answer))
            self._found_for = self._key(first, now, since)

    def _key(self, first: Waiting[J], now: float, since: float | None) -> object:
        return first.request.gang, since, self._inventory.changes, tuple(self.known(now))

    def _reserved(self, first: Waiting[J], now: float, since: float | None) -> bool:
        key = self._key(first, now, since)
        if key != self._found_for:
            self._found_for = key
            self._looked.clear()
            self._answers.clear()
            waited = now - since if since is not None else None
            place = partial(_place, self._inventory, first.request, self._policy)
            known, patience = self.known(now), first.patience
            found = reservations(self._inventory, first.request, known, now, waited, place, patience)
            if first.request.gang != self._first or self._outdone(found):
                self._first, self._promised = first.request.gang, None
            self._holders = self._held()
            self._promised, self._places = kept(self._promised, found, partial(self._overrun, now))
        return bool(self._places)

    def _held(self) -> dict[str, Allocation]:
        return {name: held for name in self._ends if (held := self._inventory.allocation(name)) is not None}

    def _outdone(self, found: tuple[Reservation, ...]) -> bool:
        """Whether what was promised is taken by those who have started since the last look without overtaking: at once,
        since they come before the first."""
        if self._promised is None:
            return False
        started = (held for name, held in self._held().items() if self._holders.get(name) != held)
        return outdone(self._inventory, self._promised, found, started)

    def _overrun(self, now: float, places: tuple[Reservation, ...]) -> bool:
        return any(self._ends.get(gang, now + 1.0) <= now for each in places for gang in each.after)

    def _place_without(self, waiting: Waiting[J], nodes: frozenset[str]) -> Answer:
        asked = waiting.job.gpus, nodes
        found = self._answers.get(asked)
        if found is None:
            request = replace(waiting.request, exclude=waiting.request.exclude | nodes) if nodes else waiting.request
            found = self._answers[asked] = _place(self._inventory, request, self._policy, strict=True)
        return found._replace(gang=waiting.request.gang) if isinstance(found, Allocation) else found


def _place(inventory: Inventory, request: GangRequest, policy: Policy | None, strict: bool) -> Answer:
    return plan(inventory, request, policy=policy, strict=strict, explain=False)
