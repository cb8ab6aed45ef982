"""Names of cliques for people: `gb200-r0` in place of a UUID of 36 letters. Programs go by the ids."""

from __future__ import annotations

import re
from collections import Counter

from ray_dra.core.model.device import DomainId, FabricKind
from ray_dra.core.model.topology import Topology

_SEPARATOR = re.compile(r"[-._/]+")
_FABRIC = re.compile(r"([0-9a-fA-F]{8})-[0-9a-fA-F-]{27}\.\d+")  # <ClusterUUID>.<CliqueId>


def clique_names(topology: Topology) -> dict[DomainId, str]:
    """A name for each clique, no two alike: the beginning that its nodes' names share where no other node's name has it
    (a rack's nodes are called after their rack), a box's node, or else the id, short where that is clear."""
    beginnings: dict[str, DomainId | None] = {}  # None: nodes of several cliques begin so, or one in none
    for node in topology.nodes.values():
        own = {device.clique for device in node.devices if device.clique is not None}
        only = own.pop() if len(own) == 1 else None
        for beginning in _beginnings(node.name):
            beginnings[beginning] = only if beginnings.setdefault(beginning, only) == only else None
    short = Counter(map(_short, topology.cliques))
    names: dict[DomainId, str] = {}
    for id, clique in topology.cliques.items():
        shared = _shared(clique.nodes)
        if clique.fabric_kind is FabricKind.BOX and len(clique.nodes) == 1:
            names[id] = clique.nodes[0]
        elif shared and beginnings.get(shared) == id:
            names[id] = shared
        else:
            names[id] = _short(id) if short[_short(id)] == 1 else id
    while len(set(names.values())) < len(names):
        counts = Counter(names.values())
        names = {id: name if counts[name] == 1 else id for id, name in names.items()}
    return names


def _beginnings(name: str) -> list[str]:
    """A node's name up to each of its separators, and whole."""
    return [*(name[: found.start()] for found in _SEPARATOR.finditer(name)), name]


def _shared(nodes: tuple[str, ...]) -> str:
    """The longest beginning, up to a separator, of all these names."""
    shared = _beginnings(nodes[0])
    for node in nodes[1:]:
        theirs = set(_beginnings(node))
        shared = [beginning for beginning in shared if beginning in theirs]
    return shared[-1] if shared else ""


def _short(id: DomainId) -> str:
    found = _FABRIC.fullmatch(id)
    return found[1] if found else id
