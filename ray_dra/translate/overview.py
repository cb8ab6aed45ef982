"""Large topologies as pictures: a line a clique with a letter a node, equal lines folded, and totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ray_dra.core.model.device import DomainId, FabricKind, Health
from ray_dra.core.model.node import Node, natural
from ray_dra.core.model.topology import Topology
from ray_dra.translate.lines import several, shortened, wrapped

UNWELL = "x"
FREE, PARTLY = ".", "+"
_NAME = 20  # most columns of a clique's name
_HEADER = f"{'nodes':>6} {'GPUs':>7} {'free':>7} {'held':>7} {'out':>5}  "
_MOST_BARS = 3  # lines of letters; of more nodes they are counted


class Counts(NamedTuple):
    """GPUs by who has them; `out`: nobody can, for they are not well or their node is not ready."""

    free: int
    held: int
    out: int


def counts(nodes: Iterable[Node], marks: Mapping[str, str]) -> Counts:
    free = held = out = 0
    for node in nodes:
        for device in node.devices:
            if device.health is not Health.OK or not node.ready:
                out += 1
            elif marks.get(device.uuid or ""):
                held += 1
            else:
                free += 1
    return Counts(free, held, out)


def count_text(topology: Topology, marks: Mapping[str, str]) -> str:
    """The totals, as a sentence."""
    found = counts(topology.nodes.values(), marks)
    where = f"{several(len(topology.nodes), 'node')}, {several(len(topology.cliques), 'clique')}"
    out = f", {found.out:,} out (not well, or their node is not ready)" if found.out else ""
    return f"{several(topology.device_count, 'GPU')} on {where}: {found.free:,} free, {found.held:,} held{out}"


def draw_overview(topology: Topology, marks: Mapping[str, str], names: Mapping[DomainId, str], width: int) -> list[str]:
    """A line a clique; boxes that are a clique of their own each, and nodes in no clique, are a line by their kind."""
    groups: dict[str, list[Node]] = {}
    for node in topology.nodes.values():
        clique = topology.cliques.get(node.clique or "")
        if clique is None:
            name = "in no clique"
        elif clique.fabric_kind is FabricKind.BOX and len(clique.nodes) == 1:
            name = f"boxes of {several(len(node.devices), 'GPU')}"
        else:
            name = shortened(names[clique.id], _NAME)
        groups.setdefault(name, []).append(node)
    name_width = max([len(name) for name in groups], default=0)
    lines = [f"{'clique':<{name_width}} {_HEADER}a letter a node"]
    before: tuple[str, list[str]] | None = None
    same: list[str] = []
    for name in sorted(groups, key=lambda name: ("in" in name.split(), "boxes" in name.split(), natural(name))):
        found = counts(groups[name], marks)
        gpus = sum(map(len, (node.devices for node in groups[name])))
        head = f"{len(groups[name]):>6,} {gpus:>7,} {found.free:>7,} {found.held:>7,} {found.out:>5,}  "
        bar = _bar([_letter(node, marks) for node in groups[name]], width - name_width - 1 - len(head))
        if before is not None and before == (head, bar):
            same.append(name)
            continue
        lines += _like_it(same)
        same, before = [], (head, bar)
        lines.append(f"{name:<{name_width}} {head}{bar[0] if bar else ''}".rstrip())
        lines += [" " * (name_width + 1 + len(head)) + each for each in bar[1:]]
    legend = f"legend: {FREE} free; a gang's letter: all of the node is its; {PARTLY} part of it is held; "
    return [*lines, *_like_it(same), *wrapped(legend + f"{UNWELL} not ready, or a GPU not well", width, "        ", "")]


def _like_it(same: Sequence[str]) -> list[str]:
    """What stands for lines that are equal to the one above."""
    if not same:
        return []
    return [
        f"  so {'is' if len(same) == 1 else 'are'} {same[0]}" + (f" to {same[-1]} ({len(same):,})" if same[1:] else "")
    ]


def _letter(node: Node, marks: Mapping[str, str]) -> str:
    if not node.ready or any(device.health is not Health.OK for device in node.devices):
        return UNWELL
    holders = {marks.get(device.uuid or "", "") for device in node.devices} or {""}
    if holders == {""}:
        return FREE
    only = holders.pop()
    return only if not holders and len(only) == 1 else PARTLY


def _bar(letters: Sequence[str], width: int) -> list[str]:
    text = "".join(letters)
    width = max(width, 10)
    if len(text) <= _MOST_BARS * width:
        return [text[at : at + width] for at in range(0, len(text), width)]
    return wrapped("  ".join(f"{letter} {text.count(letter):,}" for letter in sorted(set(text))), width)
