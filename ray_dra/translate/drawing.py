"""Topologies as pictures in plain text, at most 76 columns wide: cliques, their nodes, and each node's GPUs.

Brackets say what NVLink joins, so that no drawing promises more than there is:

    [ 0 1 | 2 3 ]    one NVLink clique; | stands between the GPUs of two CPUs
    0=1  2=3         linked, every two of them, in no clique
    ( 0 1 2 3 )      linked in part: not every two
    0 1              no NVLink

Of more than MOST_DRAWN nodes, `overview.py` draws each clique as one line.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ray_dra.core.model import checked
from ray_dra.core.model.device import Device, DomainId, FabricKind, Health
from ray_dra.core.model.node import Node, natural
from ray_dra.core.model.topology import Topology
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.clique_names import clique_names
from ray_dra.translate.lines import on_one_line, several, shortened, wrapped
from ray_dra.translate.overview import UNWELL, count_text, draw_overview

MAX_MARKS = 1_000_000  # GPUs of a drawn cluster
MOST_DRAWN = 36  # nodes, each on a line of its own: two racks
WIDTH = 76
OTHER_WORK = "*"  # the mark of GPUs that work outside gangs has
_NAME = 30  # most columns of a name
_ENDLESS = 1_000_000  # columns


def draw_topology(topology: Topology, *, held: dict[str, str] | None = None) -> str:
    """Every clique with its nodes, every node with its GPUs, a legend and totals. More than 36 nodes: a line a clique.

    Args:
        held: a mark (one or two letters) by the UUID of a GPU that somebody has. A free GPU shows as its index, one
            that is not well as x.

    Raises:
        InvalidRequest: for what is no topology.
    """
    if not isinstance(topology, Topology):
        raise InvalidRequest(
            "A topology is what ray_dra.topology() returns.",
            place="topology",
            wanted=shown(topology),
            available="topology()",
        )
    marks = checked.table({} if held is None else held, "held", most=MAX_MARKS)
    for uuid, mark in marks.items():
        checked.text(uuid, "a UUID of held")
        checked.text(mark, "a mark of held")
    return draw(topology, marks)


def draw(
    topology: Topology,
    marks: Mapping[str, str],
    holders: Mapping[str, str] | None = None,
    *,
    whole: bool = False,
) -> str:
    """`holders`: who each mark stands for. `whole`: every node of however many, names whole, and the cliques' ids."""
    names = clique_names(topology)
    folded = not whole and len(topology.nodes) > MOST_DRAWN
    if folded:
        lines = draw_overview(topology, marks, names, WIDTH)
    else:
        lines = _draw_nodes(topology, marks, names, whole=whole)
        legend = _legend(lines, topology, marks)
        lines += wrapped("; ".join(legend), WIDTH, "        ", "legend: ") if legend else []
    if holders:
        held_by = ", ".join(f"{mark} {shortened(name, _NAME)}" for mark, name in holders.items())
        lines += wrapped(held_by, WIDTH, "         ", "held by: ")
    return "\n".join([*lines, *wrapped(count_text(topology, marks), WIDTH)])


def mark_names() -> Iterator[str]:
    """Marks of gangs: letters, then two of them; none is x, which is a GPU that is not well."""
    letters = string.ascii_uppercase + string.ascii_lowercase.replace(UNWELL, "")
    for length in itertools.count(1):
        yield from map("".join, itertools.product(letters, repeat=length))


def _draw_nodes(
    topology: Topology, marks: Mapping[str, str], names: Mapping[DomainId, str], *, whole: bool
) -> list[str]:
    boxes = {id for id, c in topology.cliques.items() if c.fabric_kind is FabricKind.BOX and len(c.nodes) == 1}
    racks: dict[DomainId, list[Node]] = {id: [] for id in topology.cliques if id not in boxes}
    alone: list[Node] = []
    loose: list[Node] = []
    for node in topology.nodes.values():
        own = list(dict.fromkeys(d.clique for d in node.devices if d.clique is not None))
        for clique in own:
            if clique in racks:
                racks[clique].append(node)
        if any(clique in boxes for clique in own):
            alone.append(node)
        elif not own:
            loose.append(node)
    name_width = max([len(_cut(node.name, whole)) for node in topology.nodes.values()], default=0)
    cell = max(
        [len(_cell(device, marks)) for node in topology.nodes.values() for device in node.devices],
        default=1,
    )

    def rows(nodes: Iterable[Node], clique: DomainId | None) -> Iterator[str]:
        for node in nodes:
            yield from _row(node, clique, marks, name_width, cell, whole=whole)

    lines: list[str] = []
    for id in sorted(racks, key=lambda id: natural(names[id])):
        gpus = sum(device.clique == id for node in racks[id] for device in node.devices)
        title = f"clique {_cut(names[id], whole)}: {several(len(racks[id]), 'node')}, {several(gpus, 'GPU')}"
        lines.append(f"{title}, id {id}" if whole and names[id] != id else title)
        lines += rows(racks[id], id)
    by_name = sorted(alone, key=lambda node: natural(node.name))
    if by_name:
        lines += ["each box a clique of its own:", *rows(by_name, None)]
    if loose:
        lines += ["in no clique:", *rows(sorted(loose, key=lambda node: natural(node.name)), None)]
    return lines


def _row(
    node: Node, clique: DomainId | None, marks: Mapping[str, str], name_width: int, cell: int, *, whole: bool
) -> Iterator[str]:
    """A node under the title of a clique (None: of no clique, or of its box). Its GPUs outside every clique are shown
    once, with its first."""
    own = list(dict.fromkeys(d.clique for d in node.devices if d.clique is not None))
    here = own if clique is None else [clique]
    tokens: list[str] = []

    def text(position: int) -> str:
        return _cell(node.devices[position], marks).rjust(cell)

    for each in here:
        inside = [p for p, d in enumerate(node.devices) if d.clique == each]
        tokens += ["[", *_with_cpus(node, [((p,), text(p)) for p in inside]), "]"]
    if clique is None or clique == own[0]:
        outside = [p for p, d in enumerate(node.devices) if d.clique is None]
        tokens += _with_cpus(node, [(group, _joined(node, group, text)) for group in _linked_groups(node, outside)])
    if node.parted:
        tokens.append(f"+ {several(len(node.parted), 'GPU')} in parts")
    head = f"  {_cut(node.name, whole):<{name_width}}  "
    width = _ENDLESS if whole else WIDTH
    yield from wrapped(" ".join(tokens) or "no GPUs", width, " " * len(head), head)
    if not node.ready:
        yield from wrapped(f"({node.reason or 'not ready'})", width, " " * len(head))


def _with_cpus(node: Node, groups: Sequence[tuple[Sequence[int], str]]) -> list[str]:
    """The texts of groups of GPUs, with a stroke between neighbours of two CPUs."""
    found: list[str] = []
    before: int | None = None
    for positions, text in groups:
        if before is not None and node.devices[before].numa != node.devices[positions[0]].numa:
            found.append("|")
        found.append(text)
        before = positions[-1]
    return found


def _linked_groups(node: Node, positions: Sequence[int]) -> list[tuple[int, ...]]:
    """These GPUs by what NVLink joins, directly or over others; one without links is a group of its own."""
    left, groups = list(positions), []
    while left:
        group, border = {left[0]}, [left[0]]
        while border:
            reached = [p for p in left if p not in group and _links(node, border[-1], p)]
            border.pop()
            group.update(reached)
            border += reached
        groups.append(tuple(sorted(group)))
        left = [p for p in left if p not in group]
    return groups


def _joined(node: Node, group: tuple[int, ...], text: Callable[[int], str]) -> str:
    whole = all(_links(node, a, b) for a, b in itertools.combinations(group, 2))
    outward = any(_links(node, p, q) for p in group for q in range(len(node.devices)) if q not in group)
    if whole and not outward:
        return "=".join(map(text, group))
    return " ".join(["(", *_with_cpus(node, [((p,), text(p)) for p in group]), ")"])


def _links(node: Node, a: int, b: int) -> int:
    return node.links[a][b] if node.links else 0


def _cell(device: Device, marks: Mapping[str, str]) -> str:
    if device.health is not Health.OK:
        return UNWELL
    return marks.get(device.uuid or "") or ("-" if device.index is None else str(device.index))


def _cut(name: str, whole: bool) -> str:
    return on_one_line(name) if whole else shortened(name, _NAME)


def _legend(lines: Sequence[str], topology: Topology, marks: Mapping[str, str]) -> list[str]:
    """What of the notation stands in these lines."""
    rows = [line for line in lines if line.startswith("  ")]
    devices = [device for node in topology.nodes.values() for device in node.devices]
    free = any(_cell(device, marks) == str(device.index) for device in devices)
    told = [
        ("[ ] one NVLink clique", any("[ " in row for row in rows)),
        ("0=1 linked", any("=" in row for row in rows)),
        ("( ) linked in part", any("( " in row for row in rows)),
        ("outside of brackets: no NVLink", any(_bare(node) for node in topology.nodes.values())),
        ("| between CPUs", any("|" in row for row in rows)),
        ("numbers: free GPUs", free),
        (f"{UNWELL}: not well", any(device.health is not Health.OK for device in devices)),
        (f"{OTHER_WORK}: other work", OTHER_WORK in marks.values()),
    ]
    return [text for text, there in told if there]


def _bare(node: Node) -> bool:
    """Whether a GPU of it has no NVLink."""
    return any(
        device.clique is None and not any(_links(node, p, q) for q in range(len(node.devices)))
        for p, device in enumerate(node.devices)
    )
