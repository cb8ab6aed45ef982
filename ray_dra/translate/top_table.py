"""Who uses how much: gangs, cliques or nodes with what of their GPUs is whose. What `ray-dra top` shows.

A GPU's state is the one that the map and the metrics have of it (`map/cells.py`), so that the numbers agree.
Neighbours: `gang_table.py`, `pool_table.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.node import natural
from ray_dra.core.model.request import WHOLE
from ray_dra.translate.gang_table import MOST_CLIQUES, ListedGang, Names, age, asked_at
from ray_dra.translate.lines import several
from ray_dra.translate.map.cells import (
    ASIDE,
    FREE,
    HELD,
    KEPT,
    LEFT_OUT,
    NOBODY,
    OTHERS,
    SHARED,
    STATES,
    UNHEALTHY,
    node_row,
)

GANG_HEADERS: tuple[str, ...] = (
    "GANG",
    "PHASE",
    "GPUS",
    "SHARES",
    "PARTS",
    "ASIDE",
    "NODES",
    "CLIQUES",
    "OWNER",
    "AGE",
)
WIDE_GANG_HEADERS: tuple[str, ...] = (*GANG_HEADERS, "POOL", "PRIORITY", "NAMESPACE", "ID")
COUNTED = (FREE, HELD, SHARED, KEPT, OTHERS)
OUT = (UNHEALTHY, LEFT_OUT)
SAID = {OTHERS: "of other work", LEFT_OUT: "left out"}
NO_CLIQUE = "in no clique"
MOST_GANGS = 3  # in a row; the wide one names all
USED = (HELD, SHARED, OTHERS)


@dataclass(slots=True)
class GangUse:
    """What a gang has: whole GPUs, shares in thousandths of one, parts; `aside`: GPUs that are kept for it besides, its
    own spares and its place after a fault."""

    gang: str
    gpus: int = 0
    shares: int = 0
    parts: int = 0
    aside: int = 0
    nodes: set[str] = field(default_factory=set)
    cliques: dict[DomainId, None] = field(default_factory=dict)
    pool: str = ""


@dataclass(slots=True)
class PlaceUse:
    """What is whose of a clique (None: of GPUs that are in none) or a node. `gpus`: by state. `parted`: GPUs that are
    given out in parts alone, and count in no state; `parted_used`: those of which somebody has a part."""

    place: str
    clique: DomainId | None
    nodes: set[str] = field(default_factory=set)
    gpus: Counter[str] = field(default_factory=Counter)
    parted: int = 0
    parted_used: int = 0
    gangs: dict[str, None] = field(default_factory=dict)

    @property
    def all(self) -> int:
        return self.gpus.total()

    @property
    def used(self) -> float:
        """The part of its GPUs that gangs or others have, whole or in part."""
        return sum(self.gpus[state] for state in USED) / self.all if self.all else 0.0


def gang_uses(allocations: Iterable[Allocation], called: Mapping[str, str]) -> list[GangUse]:
    """Of each gang that has anything; who has most comes first. `called`: gangs' names by their ids."""
    found: dict[str, GangUse] = {}
    for allocation in allocations:
        gang = owner_of(allocation.gang)
        use = found.setdefault(gang, GangUse(gang))
        use.pool = use.pool or allocation.pool
        for grant in allocation.held_grants:
            use.nodes.add(grant.node)
            if grant.clique is not None:
                use.cliques[grant.clique] = None
            if grant.part is not None:
                use.parts += 1
            elif grant.amount is not None:
                use.shares += grant.amount
            elif allocation.gang != gang:
                use.aside += 1
            else:
                use.gpus += 1
    return sorted(
        found.values(),
        key=lambda use: (
            -WHOLE * (use.gpus + use.aside) - use.shares,
            -use.parts,
            natural(called.get(use.gang, use.gang)),
        ),
    )


def owner_of(holder: str) -> str:
    """The gang of a hold: what is kept for a gang besides its devices is held under a name of its own."""
    return next((holder.removeprefix(each) for each in ASIDE if holder.startswith(each)), holder)


def place_uses(inventory: Inventory, names: Names, *, by_node: bool) -> list[PlaceUse]:
    """Of each clique and of the GPUs in none, or of each node; what is used most comes first."""
    found: dict[str | None, PlaceUse] = {}
    for state in inventory.node_states.values():
        row = node_row(inventory, state)
        if by_node:
            found[row.name] = PlaceUse(row.name, state.node.clique, {row.name})
        for cell in row.cells:
            key = row.name if by_node else cell.clique
            use = found.setdefault(key, PlaceUse(names.get(cell.clique or "", cell.clique or NO_CLIQUE), cell.clique))
            use.nodes.add(row.name)
            holders = [each.gang for each in cell.uses] + [cell.gang] * (cell.gang != NOBODY)
            use.gangs |= {owner_of(holder): None for holder in holders if holder != NOBODY}
            if cell.whole:
                use.gpus[cell.state] += 1
            else:
                use.parted += 1
                use.parted_used += bool(cell.uses)
    return sorted(found.values(), key=lambda use: (-use.used, use.clique is None and not by_node, natural(use.place)))


def gangs_by(
    column: str, uses: Iterable[GangUse], gangs: Mapping[str, ListedGang], called: Mapping[str, str]
) -> list[GangUse]:
    """`gang_uses` by "nodes", "age" (the longest there first) or "name"; by "gpus" they are as they come."""

    def age_of(use: GangUse) -> float:
        asked = asked_at(gangs[use.gang]) if use.gang in gangs else None
        return math.inf if asked is None else asked

    keys: dict[str, Callable[[GangUse], Any]] = {
        "nodes": lambda use: -len(use.nodes),
        "age": age_of,
        "name": lambda use: natural(called.get(use.gang, use.gang)),
    }
    return sorted(uses, key=keys[column]) if column in keys else list(uses)


def places_by(column: str, uses: Iterable[PlaceUse]) -> list[PlaceUse]:
    """`place_uses` by "free", "gpus", "nodes" or "name"; by "used" they are as they come."""
    keys: dict[str, Callable[[PlaceUse], Any]] = {
        "free": lambda use: -use.gpus[FREE],
        "gpus": lambda use: -use.all,
        "nodes": lambda use: -len(use.nodes),
        "name": lambda use: natural(use.place),
    }
    return sorted(uses, key=keys[column]) if column in keys else list(uses)


def gang_use_row(
    use: GangUse, status: ListedGang | None, names: Names, called: Mapping[str, str], now: float, *, wide: bool
) -> list[str]:
    """The cells under GANG_HEADERS, or under WIDE_GANG_HEADERS. `status`: None, of a snapshot, which has no times."""
    asked = asked_at(status) if status is not None else None
    cliques = sorted((names.get(clique, clique) for clique in use.cliques), key=natural)
    cells = [
        called.get(use.gang, use.gang),
        status.phase.value if status is not None else "",
        str(use.gpus),
        f"{use.shares / WHOLE:g}",
        str(use.parts),
        str(use.aside),
        str(len(use.nodes)),
        _listed(cliques, None if wide else MOST_CLIQUES),
        status.owner if status is not None else "",
        "" if asked is None else age(now - asked),
    ]
    if wide:
        cells += [called.get(use.pool, use.pool)]
        cells += [str(status.priority), status.namespace] if status is not None else ["", ""]
        cells += [use.gang]
    return cells


def place_headers(*, by_node: bool, wide: bool = False) -> tuple[str, ...]:
    """Of the wide table: GPUs that are out are told apart."""
    first = ("NODE", "CLIQUE") if by_node else ("CLIQUE", "NODES")
    states = [state.replace("_", " ").upper() for state in (*COUNTED, *(OUT if wide else ("out",)))]
    return (*first, "GPUS", "USED", *states, "IN PARTS", "GANGS")


def place_use_row(
    use: PlaceUse, names: Names, called: Mapping[str, str], *, by_node: bool, wide: bool = False
) -> list[str]:
    """The cells under `place_headers`."""
    clique = "" if use.clique is None else names.get(use.clique, use.clique)
    out = [use.gpus[state] for state in OUT]
    gangs = sorted((called.get(gang, gang) for gang in use.gangs), key=natural)
    return [
        *([use.place, clique] if by_node else [use.place, str(len(use.nodes))]),
        str(use.all),
        f"{use.used:.0%}",
        *(str(use.gpus[state]) for state in COUNTED),
        *map(str, out if wide else [sum(out)]),
        f"{use.parted_used} of {use.parted}" if use.parted else "",
        _listed(gangs, None if wide else MOST_GANGS),
    ]


def totals(uses: Iterable[PlaceUse]) -> str:
    """All GPUs by their states, as one line: those of which there are any, and the free ones."""
    counts: Counter[str] = Counter()
    for use in uses:
        counts += use.gpus
    shown = [state for state in (*COUNTED, *OUT) if counts[state] or state == FREE]
    said = [f"{counts[state]:,} {SAID.get(state, state)}" for state in shown]
    return f"{several(counts.total(), 'GPU')}: {', '.join(said)}"


def plain_gang_use(use: GangUse, status: ListedGang | None, names: Names, called: Mapping[str, str]) -> dict[str, Any]:
    """A gang for programs; what a snapshot does not know is None."""
    return {
        "name": called.get(use.gang, use.gang),
        "id": use.gang,
        "phase": status.phase.value if status is not None else None,
        "gpus": use.gpus,
        "shares": use.shares / WHOLE,
        "parts": use.parts,
        "aside": use.aside,
        "nodes": sorted(use.nodes, key=natural),
        "cliques": [{"id": clique, "name": names.get(clique, clique)} for clique in use.cliques],
        "pool": use.pool,
        "owner": status.owner if status is not None else None,
        "asked_at": asked_at(status) if status is not None else None,
    }


def plain_place_use(use: PlaceUse, names: Names, called: Mapping[str, str], *, by_node: bool) -> dict[str, Any]:
    """A clique, or a node, for programs."""
    clique = None if use.clique is None else {"id": use.clique, "name": names.get(use.clique, use.clique)}
    return {
        **({"node": use.place, "clique": clique} if by_node else {"clique": clique, "nodes": len(use.nodes)}),
        "gpus": use.all,
        "used": use.used,
        **{state: use.gpus[state] for state in STATES},
        "in_parts": use.parted,
        "in_parts_used": use.parted_used,
        "gangs": [{"id": gang, "name": called.get(gang, gang)} for gang in use.gangs],
    }


def _listed(names: Sequence[str], most: int | None) -> str:
    if most is not None and len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return ",".join(names)
