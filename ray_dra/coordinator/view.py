"""What whoever draws the map is told: what has changed since it last asked. Costs nothing while nobody asks.

Nodes and gangs each have a log of changes; whoever asks says up to where it knows them. What the inventory and the
records note down (`touched`) is put into the logs when somebody asks. Of a gang, more than its record can change: what
its workers are at, its place in the queue. So some of the gangs are looked at anew each time, in rotation, those that
wait or are on their way first.

Neighbours: `status.py` says what may be known of a gang; `translate/map/` has what is told.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from ray_dra.coordinator.status import Statuses
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.records import Records
from ray_dra.core.model.checked import whole
from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.clock import Clock
from ray_dra.translate.map.cells import node_row
from ray_dra.translate.map.gangs import Card, gang_card
from ray_dra.translate.map.view import Cursor, View, level_names

MOST_NODES, MOST_GANGS = 500, 100  # in one answer, and noted for one: the coordinator has others to serve
MOST_LOOKED_AT = 10  # gangs, of which nothing is noted down
MOST_GONE = 1_000  # nodes, and gangs, of which it is remembered that they have gone
FACTS_SECONDS = 5.0
LAST = 2**63 - 1
STEADY = Phase.READY


class Told(NamedTuple):
    """What of a log is new to somebody, who asks next with `to`; `more`: at once."""

    keys: list[str]
    to: int
    more: bool


class ChangeLog:
    """Which things have changed, in order; each is listed once, where it changed last.

    `era`: counts how often what has gone was forgotten; who knows things of an earlier one has to begin anew.
    """

    def __init__(self) -> None:
        self.era = 0
        self._last: dict[str, int] = {}  # thing -> its last change
        self._log: list[tuple[int, str]] = []  # superseded entries included
        self._gone: set[str] = set()
        self._changes = 0

    def note(self, key: str, *, gone: bool = False) -> None:
        self._changes += 1
        self._last[key] = self._changes
        self._log.append((self._changes, key))
        self._gone.discard(key)
        if gone:
            self._gone.add(key)
            if len(self._gone) > MOST_GONE:
                self.era += 1
                for each in self._gone:
                    del self._last[each]
                self._gone.clear()
        if len(self._log) > 2 * len(self._last) + MOST_GONE:
            self._log = sorted((at, key) for key, at in self._last.items())

    def since(self, known: int, most: int) -> Told:
        """At most so many of the things that have changed since."""
        last = self._last
        at = bisect_right(self._log, known, key=lambda entry: entry[0])
        new = ((change, key) for change, key in islice(self._log, at, None) if last.get(key) == change)
        found = list(islice(new, most + 1))
        more = len(found) > most
        return Told([key for _, key in found[:most]], found[most - 1][0] if more else self._changes, more)


class Views:
    """See the module. `epoch`: no other coordinator has it, an earlier one of the same cluster neither; `facts`: what
    is told whole."""

    def __init__(
        self,
        epoch: str,
        inventory: Inventory,
        records: Records,
        statuses: Statuses,
        facts: Callable[[], Mapping[str, Any]],
        clock: Clock,
    ) -> None:
        self._epoch, self._inventory, self._records, self._statuses = epoch, inventory, records, statuses
        self._facts, self._clock = facts, clock
        self._nodes = ChangeLog()
        self._gangs = ChangeLog()
        self._seen: dict[str, tuple[Any, ...]] = {}  # of each node that is in the log: what its row depends on
        self._cards: dict[str, Card] = {}
        self._moving: dict[str, None] = {}  # gangs that are not steady
        self._turn = 0  # in the rotation
        self._told: Mapping[str, Any] = {}
        self._facts_due = 0.0

    def since(self, cursor: Cursor) -> View:
        """What has changed since. Where `more` is left, there is more to be asked for at once.

        Raises:
            InvalidRequest: this is no cursor.
        """
        if not isinstance(cursor, Cursor) or not isinstance(cursor.epoch, str):
            raise InvalidRequest("This is no cursor.", place="cursor", wanted=shown(cursor))
        known = (
            whole(cursor.nodes, "cursor.nodes", least=0, most=LAST),
            whole(cursor.gangs, "cursor.gangs", least=0, most=LAST),
        )
        left = self._note_nodes() + self._note_gangs()
        epoch = f"{self._epoch}.{self._nodes.era}.{self._gangs.era}"
        again = cursor.epoch != epoch
        nodes_known, gangs_known = (0, 0) if again else known
        nodes, gangs = self._nodes.since(nodes_known, MOST_NODES), self._gangs.since(gangs_known, MOST_GANGS)
        states = self._inventory.node_states
        if left:  # what is told now is noted, or a node that then is as it was noted before would not be told again
            for name in nodes.keys:
                self._note_node(name)
        return View(
            to=Cursor(epoch, nodes.to, gangs.to),
            again=again,
            more=nodes.more or gangs.more or left > 0,
            nodes=[node_row(self._inventory, states[name]) for name in nodes.keys if name in states],
            gone=[name for name in nodes.keys if name not in states],
            gangs={gang: self._cards[gang] for gang in gangs.keys if gang in self._cards},
            ended=[gang for gang in gangs.keys if gang not in self._cards],
            facts=self._facts_now(),
        )

    # -- inside

    def _note_nodes(self) -> int:
        """How many are left to be noted."""
        touched = self._inventory.touched
        if touched is None:
            touched = self._inventory.touched = dict.fromkeys(self._inventory.node_states.values())
        for _ in range(min(MOST_NODES, len(touched))):
            state, _ = touched.popitem()
            self._note_node(state.name)
        return len(touched)

    def _note_node(self, name: str) -> None:
        there = self._inventory.node_states.get(name)
        if there is None:
            if self._seen.pop(name, None) is not None:
                self._nodes.note(name, gone=True)
            return
        looks = _looks(there, self._inventory.others_called.get(name, ""))
        if looks is None or self._seen.get(name) != looks:  # a plan that was tried has touched it, too
            self._seen[name] = looks or ()
            self._nodes.note(name)

    def _note_gangs(self) -> int:
        """How many are left to be noted."""
        gangs, touched = self._records.gangs, self._records.touched
        if touched is None:
            touched = self._records.touched = dict.fromkeys(gangs)
        some = [touched.popitem()[0] for _ in range(min(MOST_GANGS, len(touched)))]
        changed = [gang for gang in some if gang in gangs]
        for gang in some:
            if gang not in gangs and self._cards.pop(gang, None) is not None:
                self._moving.pop(gang, None)
                self._gangs.note(gang, gone=True)
        for gang in dict.fromkeys([*changed, *(gang for gang in self._rotation() if gang in gangs)]):
            status = self._statuses.of(gangs[gang])
            card = gang_card(status, gangs[gang].team)
            if self._cards.get(gang) != card:
                self._cards[gang] = card
                self._moving.pop(gang, None)
                if status.phase is not STEADY:
                    self._moving[gang] = None
                self._gangs.note(gang)
        return len(touched)

    def _rotation(self) -> Iterable[str]:
        """Some of the gangs that are there: half of them of those that are not steady, if there are any."""
        self._turn += 1
        for gangs in (list(self._moving), list(self._cards)):
            count = MOST_LOOKED_AT // 2
            start = self._turn * count % max(1, len(gangs))
            yield from islice((*gangs[start:], *gangs[:start]), count)

    def _facts_now(self) -> Mapping[str, Any]:
        if self._clock() >= self._facts_due:
            self._facts_due = self._clock() + FACTS_SECONDS
            self._told = {**self._facts(), **level_names(self._inventory)}
        return self._told


def _looks(state: NodeState, imex_member: str) -> tuple[Any, ...] | None:
    """All that a node's row depends on, as far as that can be compared at once; None where shares or parts are held."""
    if state.parts or state.shares or not all(state.tenants.values()):
        return None
    return state.node, state.held, state.busy, state.free, state.imex_gang, imex_member, tuple(state.tenants.items())
