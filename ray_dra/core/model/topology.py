"""All nodes of a cluster, and the cliques that their devices form. An immutable value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from ray_dra.core.model.clique import Clique
from ray_dra.core.model.device import DomainId, FabricKind
from ray_dra.core.model.html_table import html_table
from ray_dra.core.model.node import Node, node_order
from ray_dra.core.model.wording import counted


@dataclass(frozen=True)
class Topology:
    """All nodes of a cluster, by name. Equal whatever the order the nodes came in."""

    nodes: Mapping[str, Node]

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Topology:
        return cls(MappingProxyType({n.name: n for n in sorted(nodes, key=node_order)}))

    @cached_property
    def cliques(self) -> Mapping[DomainId, Clique]:
        members: dict[DomainId, dict[str, int]] = {}
        kinds: dict[DomainId, FabricKind] = {}
        for node in self.nodes.values():
            for device in node.devices:
                if device.clique is not None:
                    count = members.setdefault(device.clique, {})
                    kinds.setdefault(device.clique, device.fabric_kind)
                    count[node.name] = count.get(node.name, 0) + 1
        return MappingProxyType(
            {
                clique: Clique(clique, tuple(counts), sum(counts.values()), kinds[clique])
                for clique, counts in sorted(members.items())
            }
        )

    @property
    def device_count(self) -> int:
        return sum(len(node.devices) for node in self.nodes.values())

    def __repr__(self) -> str:
        counts = ((len(self.nodes), "node"), (self.device_count, "GPU"), (len(self.cliques), "clique"))
        return f"Topology({', '.join(counted(number, what) for number, what in counts)})"

    def _repr_html_(self) -> str:
        """For notebooks: a row a clique."""
        rows = [[c.id, c.fabric_kind.value, str(len(c.nodes)), str(c.devices)] for c in self.cliques.values()]
        alone = [node for node in self.nodes.values() if any(device.clique is None for device in node.devices)]
        if alone:
            loose = sum(device.clique is None for node in alone for device in node.devices)
            rows.append(["in no clique", "", str(len(alone)), str(loose)])
        return html_table(repr(self), ("clique", "kind", "nodes", "GPUs"), rows)
