"""What whoever draws the map is told of a cluster: all of it at first, and then what has changed since.

Neighbours: `coordinator/view.py` tells it of a coordinator, `of_snapshot` of a file; `page.py` draws from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.standing import PoolStanding, TeamStanding
from ray_dra.translate.map.cells import ASIDE, NodeRow, node_row
from ray_dra.translate.map.gangs import Card, allocation_card


class Cursor(NamedTuple):
    """How far somebody knows a coordinator's changes. `epoch`: of which coordinator; "": nothing is known yet."""

    epoch: str = ""
    nodes: int = 0
    gangs: int = 0


class View(NamedTuple):
    """Changes since a cursor.

    Attributes:
        to: the cursor to ask with next. again: what was known before is void, all is told anew.
        more: there are more changes at once.
        nodes, gone: rows of nodes that have come or changed, and names of those that have gone.
        gangs, ended: cards by id, and ids of gangs that are there no more.
        facts: what is told whole, by what it is; without what has not changed.
    """

    to: Cursor
    again: bool = False
    more: bool = False
    nodes: Sequence[NodeRow] = ()
    gone: Sequence[str] = ()
    gangs: Mapping[str, Card] = {}
    ended: Sequence[str] = ()
    facts: Mapping[str, Any] = {}


NOTHING_SEEN = Cursor()


def all_since(ask: Callable[[Cursor], View], cursor: Cursor) -> View:
    """All that there is to be told, asked for bit by bit, as one."""
    found: View | None = None
    while True:
        view = ask(cursor)
        if found is None or view.again:
            found = view
        else:
            nodes = {row.name: row for row in found.nodes}
            for name in view.gone:
                nodes.pop(name, None)
            new = {row.name for row in view.nodes}
            gangs = {gang: card for gang, card in found.gangs.items() if gang not in view.ended}
            found = View(
                to=view.to,
                again=found.again,
                nodes=list((nodes | {row.name: row for row in view.nodes}).values()),
                gone=[*(name for name in found.gone if name not in new), *view.gone],
                gangs=gangs | dict(view.gangs),
                ended=[*(gang for gang in found.ended if gang not in view.gangs), *view.ended],
                facts={**found.facts, **view.facts},
            )
        if not view.more:
            return found._replace(more=False)
        cursor = view.to


def of_inventory(inventory: Inventory, gangs: Mapping[str, Card], facts: Mapping[str, Any]) -> View:
    """All of an inventory at once."""
    rows = [node_row(inventory, state) for state in sorted(inventory.node_states.values(), key=lambda s: s.key)]
    return View(Cursor("all"), again=True, nodes=rows, gangs=gangs, facts={**facts, **level_names(inventory)})


def level_names(inventory: Inventory) -> dict[str, Any]:
    """What the levels above cliques are called, the lowest first; nothing where no node is in a domain of any."""
    return {"levels": list(inventory.level_labels)} if inventory.leveled else {}


def of_snapshot(inventory: Inventory) -> View:
    """A snapshot's: of its gangs nothing is known but what they hold."""
    cards: dict[str, Card] = {}
    for gang in inventory.gangs:
        allocation = inventory.allocation(gang)
        if allocation is not None and not gang.startswith(ASIDE):
            cards[gang] = allocation_card(allocation)
    return of_inventory(inventory, cards, {})


def plain_teams(teams: Sequence[TeamStanding]) -> list[dict[str, Any]]:
    return [asdict(team) for team in teams]


def plain_pools(pools: Sequence[PoolStanding]) -> list[dict[str, Any]]:
    return [asdict(pool) for pool in pools]
