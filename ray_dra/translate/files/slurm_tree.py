"""Levels above cliques from Slurm's topology.conf: a tree of switches (topology/tree), as Slurm has it or topograph
writes it. Neighbour: `slurm.py` reads blocks, which are cliques.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ray_dra.core.model.clique import label_value
from ray_dra.core.model.node import Node
from ray_dra.errors import InvalidSnapshot, shown
from ray_dra.translate.files.plain import read_file
from ray_dra.translate.files.slurm import MOST_NODES, hostnames, lines, pairs_of
from ray_dra.translate.levels import MOST_LEVELS, TIERS


def read_tree(path: Path) -> dict[str, tuple[str, ...]]:
    """Node -> its switches, the one that it hangs at first.

    Raises:
        InvalidSnapshot: the file cannot be read, or is no tree of switches; says in which line.
    """
    above: dict[str, str] = {}  # switch -> the one above it
    leaf: dict[str, str] = {}  # node -> its switch
    seen: dict[str, str] = {}  # switch -> where it is said
    for number, line in lines(read_file(path)):
        place = f"{path}, line {number}"
        pairs = pairs_of(line)
        name, nodes, below = (pairs.get(key, "") for key in ("switchname", "nodes", "switches"))
        if not name or bool(nodes) == bool(below):
            raise InvalidSnapshot(
                "This is no switch with either nodes or switches below it.",
                place=place,
                wanted="SwitchName=... Nodes=..., or SwitchName=... Switches=...",
                available=shown(line),
            )
        if name in seen:
            raise InvalidSnapshot("The switch is there twice.", place=place, available=shown(name))
        seen[name] = place
        here = leaf if nodes else above
        for each in hostnames(nodes or below, place):
            if each in here:
                raise InvalidSnapshot("It hangs at two switches.", place=place, available=shown(each))
            here[each] = name
        if len(leaf) > MOST_NODES:
            raise InvalidSnapshot("There are too many nodes.", place=place, wanted=f"{MOST_NODES} at most")
    if unknown := sorted(above.keys() - seen.keys()):
        raise InvalidSnapshot("There is no such switch.", place=seen[above[unknown[0]]], available=shown(unknown[0]))
    if not leaf:
        raise InvalidSnapshot("No node hangs at a switch.", place=str(path), wanted="SwitchName=... Nodes=...")
    paths = {switch: _path(switch, above, seen) for switch in sorted(set(leaf.values()))}
    return {node: paths[switch] for node, switch in leaf.items()}


def labels_of(switches: Sequence[str]) -> dict[str, str]:
    """The labels of a node below these switches: topograph's, the value as a label can have it."""
    return {label: label_value(switch) for label, switch in zip(TIERS, switches, strict=False)}


def hung_in(nodes: Sequence[Node], tree: Mapping[str, Sequence[str]], place: str) -> tuple[Node, ...]:
    """The nodes with the labels that the tree gives them. Raises InvalidSnapshot where it has none of them."""
    if not any(node.name in tree for node in nodes):
        raise InvalidSnapshot(
            "The tree has none of the cluster's nodes.",
            place=place,
            wanted=", ".join(node.name for node in nodes[:3]),
            available=", ".join(list(tree)[:3]),
        )
    return tuple(
        replace(node, labels={**node.labels, **labels_of(tree[node.name])}) if node.name in tree else node
        for node in nodes
    )


def _path(switch: str, above: Mapping[str, str], seen: Mapping[str, str]) -> tuple[str, ...]:
    found = [switch]
    while (higher := above.get(found[-1])) is not None:
        if higher in found or len(found) == MOST_LEVELS:
            raise InvalidSnapshot(
                "The switches are no tree, or a higher one than can be.",
                place=seen[higher],
                wanted=f"{MOST_LEVELS} levels at most",
                available=" < ".join([*found, higher]),
            )
        found.append(higher)
    return tuple(found)
