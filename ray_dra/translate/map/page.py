"""The page's state, as JSON has it, and what changes of it: what the browser draws from.

The state is a dict of tables, whose rows are replaced or removed one by one, and of facts, which are replaced whole.
`PageState.take` brings it up to date with a View and returns the difference; `applied` puts a difference onto a state,
as the browser does: applied(state before, difference) is the state after.

Nodes are drawn in racks: a rack is a clique over several nodes, or so many boxes or nodes without a clique as stand
well in one column. Racks in one domain of a level above cliques stand together. Neighbours: `view.py` has
what comes in, `cells.py` and `gangs.py` its parts.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray_dra.core.model.device import Device, DeviceId, DomainId, FabricKind
from ray_dra.core.model.node import Node, natural
from ray_dra.core.model.topology import Topology
from ray_dra.translate.clique_names import clique_names
from ray_dra.translate.map.cells import FREE, HELD, OTHERS, SHARED, STATES, Cell, NodeRow
from ray_dra.translate.map.gangs import Card, queue_order
from ray_dra.translate.map.view import View

State = dict[str, Any]
TABLES = ("nodes", "gangs")
STACKED = 18  # boxes, or nodes in no clique, in one column
_Group = tuple[str, bool, bool]  # clique or node, whether it is a node in no clique, whether these are spares


class PageState:
    """See the module. `state` is for reading."""

    def __init__(self) -> None:
        self._rows: dict[str, NodeRow] = {}
        self._gpus: Counter[str] = Counter()  # by state
        self._groups: dict[_Group, list[int]] = {}  # GPUs, free ones, ones that somebody has
        self._names: dict[DomainId, str] = {}
        self.state: State = {"nodes": {}, "gangs": {}, "racks": [], "queue": [], "figures": self._figures()}

    @property
    def names(self) -> Mapping[DomainId, str]:
        """What cliques are called."""
        return self._names

    def take(self, view: View) -> State:
        """The state after these changes; returns what has changed of it."""
        nodes: dict[str, Any] = {}
        gangs: dict[str, Any] = {}
        moved = False  # whether nodes are in other places than before
        if view.again:
            kept = {row.name for row in view.nodes}
            gone = [name for name in self._rows if name not in kept]
            ended = [gang for gang in self.state["gangs"] if gang not in view.gangs]
        else:
            gone, ended = [name for name in view.gone if name in self._rows], list(view.ended)
        for name in gone:
            self._count(self._rows.pop(name), -1)
            nodes[name], moved = None, True
        for row in view.nodes:
            before = self._rows.get(row.name)
            if before == row:
                continue
            if before is not None:
                self._count(before, -1)
            self._count(row, +1)
            self._rows[row.name] = row
            moved = moved or before is None or _place(before) != _place(row)
            nodes[row.name] = plain_row(row)
        known: dict[str, Card] = self.state["gangs"]
        gangs |= {gang: None for gang in ended if gang in known}
        gangs |= {gang: card for gang, card in view.gangs.items() if known.get(gang) != card}
        change: State = {**({"nodes": nodes} if nodes else {}), **({"gangs": gangs} if gangs else {})}
        for name, value in view.facts.items():
            if name not in self.state or self.state[name] != value:
                change[name] = value
        if moved:
            self._names = clique_names(self._topology())
            self._put(change, "racks", self._racks())
            self._put(change, "cliques", dict(sorted(self._names.items())))
        if nodes:
            self._put(change, "figures", self._figures())
        if gangs:
            cards = {gang: card for gang, card in {**known, **gangs}.items() if card is not None}
            self._put(change, "queue", queue_order(cards, cards))
        self.state = applied(self.state, change)
        return change

    def say(self, name: str, value: Any) -> State:
        """One fact from here on; returns what has changed."""
        change: State = {}
        self._put(change, name, value)
        self.state = applied(self.state, change)
        return change

    def _put(self, change: State, name: str, value: Any) -> None:
        if name not in self.state or self.state[name] != value:
            change[name] = value

    # -- figures, as `core.cluster.figures` has them

    def _count(self, row: NodeRow, sign: int) -> None:
        for cell in row.cells:
            if not cell.whole:
                continue
            self._gpus[cell.state] += sign
            group = self._groups.setdefault(_group(row, cell), [0, 0, 0])
            group[0] += sign
            group[1] += sign * (cell.state == FREE)
            group[2] += sign * (cell.state in (HELD, SHARED, OTHERS))
            if not group[0]:
                del self._groups[_group(row, cell)]

    def _figures(self) -> State:
        cliques = dict.fromkeys(("free", "partly", "full"), 0)
        largest = broken = 0
        for (_, loose, _), (_, free, used) in self._groups.items():
            largest = max(largest, free)
            kind = "full" if not free else "partly" if used else "free"
            broken += free if kind == "partly" else 0
            if not loose:
                cliques[kind] += 1
        free_gpus = self._gpus[FREE]
        return {
            "gpus": {state: self._gpus[state] for state in STATES},
            "nodes": len(self._rows),
            "cliques": cliques,
            "largest": largest,
            "fragmentation": min(1.0, broken / free_gpus) if free_gpus else 0.0,
        }

    # -- racks

    def _topology(self) -> Topology:
        return Topology.of(_outline(row) for row in self._rows.values())

    def _racks(self) -> list[State]:
        """Racks in the order in which they are drawn: those of several nodes, boxes, nodes without a clique; within
        each, by the domains that they are in, the highest level first. `above`: these, the lowest first."""
        members: dict[DomainId, list[NodeRow]] = {}
        boxes: list[NodeRow] = []
        loose: list[NodeRow] = []
        for row in self._rows.values():
            clique = next((cell.clique for cell in row.cells if cell.clique is not None), None)
            if clique is None:
                loose.append(row)
            elif any(cell.clique == clique and cell.box for cell in row.cells):
                boxes.append(row)
            else:
                members.setdefault(clique, []).append(row)
        named = [(self._names.get(clique, clique), clique, rows) for clique, rows in members.items()]
        named.sort(key=lambda each: (_path(_above(each[2])), natural(each[0])))
        racks = [_rack(name, "rack", clique, rows) for name, clique, rows in named]
        for kind, title, rows in (("boxes", "boxes", boxes), ("loose", "in no clique", loose)):
            columns = _columns(rows)
            many = len(columns) > 1
            racks += [
                _rack(f"{title} {at}" if many else title, kind, "", column) for at, column in enumerate(columns, 1)
            ]
        return racks


def applied(state: State, change: State) -> State:
    """The state with a change; the state itself stays as it is."""
    after = dict(state)
    for name, value in change.items():
        if name not in TABLES:
            after[name] = value
            continue
        table = dict(after.get(name, {}))
        for key, row in value.items():
            if row is None:
                table.pop(key, None)
            else:
                table[key] = row
        after[name] = table
    return after


def merged(one: State, other: State) -> State:
    """Both changes as one, the second after the first."""
    both = copy.copy(one)
    for name, value in other.items():
        both[name] = {**both[name], **value} if name in TABLES and name in both else value
    return both


def plain_row(row: NodeRow) -> State:
    """A node for JSON; what is as it usually is, is left out."""
    found: State = {"gpus": [_plain_cell(at, cell) for at, cell in enumerate(row.cells)]}
    for name, value, usual in (
        ("product", row.product, ""),
        ("ready", row.ready, True),
        ("why", row.why, ""),
        ("spare", row.spare, False),
        ("imex", row.imex_gang, ""),
        ("imex_member", row.imex_member, ""),
    ):
        if value != usual:
            found[name] = value
    return found


def _plain_cell(at: int, cell: Cell) -> Any:
    """The state alone where nothing else is to be said, as of nearly all that are free."""
    more: State = {}
    if cell.gang:
        more["gang"] = cell.gang
    if cell.number != at:
        more["number"] = cell.number
    if cell.sick:
        more["sick"] = cell.sick
    if cell.clique is None:
        more["loose"] = True
    if not cell.whole:
        more["parted"] = True
    if cell.uses:
        more["uses"] = [
            {
                "gang": use.gang,
                **({"share": use.share / 1000} if use.share else {}),
                **({"parts": list(use.parts)} if use.parts else {}),
            }
            for use in cell.uses
        ]
    return {"state": cell.state, **more} if more else cell.state


def _group(row: NodeRow, cell: Cell) -> _Group:
    return cell.clique or row.name, cell.clique is None, row.spare


def _place(row: NodeRow) -> tuple[Any, ...]:
    """What says in which rack a node stands, and what its clique is called."""
    return row.order, row.above, [(cell.clique, cell.box) for cell in row.cells]


def _rack(name: str, kind: str, clique: DomainId, rows: Sequence[NodeRow]) -> State:
    above = _above(rows)
    rack: State = {"name": name, "kind": kind, "clique": clique, "nodes": _in_order(rows)}
    return {**rack, "above": list(above)} if any(above) else rack


def _above(rows: Sequence[NodeRow]) -> tuple[str | None, ...]:
    """The domains that all of these nodes are in; None for a level in which they are not all in one."""
    levels = max((len(row.above) for row in rows), default=0)
    found = []
    for level in range(levels):
        domains = {row.above[level] if row.above else None for row in rows}
        found.append(domains.pop() if len(domains) == 1 else None)
    return tuple(found)


def _path(above: Sequence[str | None]) -> list[tuple[bool, Any]]:
    """Sorts what is near together; who is in no domain of a level comes after those that are."""
    return [(not domain, natural(domain or "")) for domain in reversed(above)] or [(True, natural(""))]


def _columns(rows: Sequence[NodeRow]) -> list[list[NodeRow]]:
    """So many as stand well in one column, of the same domains."""
    known = {row.name: row for row in rows}
    columns: list[list[NodeRow]] = []
    for row in sorted((known[name] for name in _in_order(rows)), key=lambda row: _path(row.above)):
        if not columns or len(columns[-1]) == STACKED or columns[-1][0].above != row.above:
            columns.append([])
        columns[-1].append(row)
    return columns


def _in_order(rows: Iterable[NodeRow]) -> list[str]:
    def place(row: NodeRow) -> tuple[int, str]:
        return (row.order if row.order is not None else 1 << 30), natural(row.name)

    return [row.name for row in sorted(rows, key=place)]


def _outline(row: NodeRow) -> Node:
    """As much of a node as its clique's name depends on."""
    cliques = dict.fromkeys((cell.clique, cell.box) for cell in row.cells)
    devices = tuple(
        Device(
            DeviceId("", row.name, str(at)),
            None,
            None,
            domains=(clique,) if clique is not None else (),
            fabric_kind=FabricKind.BOX if box else FabricKind.MULTI_NODE,
        )
        for at, (clique, box) in enumerate(cliques)
    )
    return Node(row.name, devices, order=row.order)
