"""A node's NVLink graph, in networkx: which GPUs hang together, and how well.

GPUs are ("gpu", position in the reading), switches ("switch", PCI address). Not on the planner's hot path: the
inventory gets the finished matrix. networkx is imported when a graph is made: it is slow to load, and a gang's worker
starts without one where the fabric names the clique.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

from ray_dra.core.model.node import Links
from ray_dra.ports.nvml import NodeReading

if TYPE_CHECKING:
    import networkx as nx

Vertex = tuple[str, str]
Graph: TypeAlias = "nx.Graph[Vertex]"


def nvlink_graph(reading: NodeReading) -> Graph:
    """The graph of active links; the weight of an edge is the number of links.

    On NVSwitch systems the far end of a link is the switch, not the peer. Where the driver hides the
    far ends (virtual machines), GPUs that NVML calls NVLink peers are joined with the smaller of
    their link counts.
    """
    import networkx as nx

    graph: Graph = nx.Graph()
    by_bus = {gpu.bus: at for at, gpu in enumerate(reading.gpus) if gpu.bus is not None}
    hidden: dict[int, int] = {}
    for at, gpu in enumerate(reading.gpus):
        graph.add_node(("gpu", str(at)))
        ends: Counter[Vertex] = Counter()
        for link in gpu.links:
            if link is None or not link.active:
                continue
            if link.remote == "switch" and link.remote_bus is not None:
                ends["switch", link.remote_bus] += 1
            elif link.remote == "gpu" and link.remote_bus in by_bus:
                ends["gpu", str(by_bus[link.remote_bus])] += 1
            elif link.remote is None:
                hidden[at] = hidden.get(at, 0) + 1
        for end, count in ends.items():
            graph.add_edge(("gpu", str(at)), end, weight=count)
    for a, b in combinations(sorted(hidden), 2):
        if reading.p2p and reading.p2p[a][b]:
            graph.add_edge(("gpu", str(a)), ("gpu", str(b)), weight=min(hidden[a], hidden[b]), hidden=True)
    return graph


def link_matrix(graph: Graph, count: int) -> Links:
    """Links between each two of `count` GPUs; over switches, the smaller of what both have to shared ones."""
    matrix = [[0] * count for _ in range(count)]
    for i, j in combinations(range(count), 2):
        a, b = ("gpu", str(i)), ("gpu", str(j))
        links = graph[a][b]["weight"] if graph.has_edge(a, b) else 0
        shared = [s for s in set(graph[a]) & set(graph[b]) if s[0] == "switch"]
        links += sum(min(graph[a][s]["weight"], graph[b][s]["weight"]) for s in shared)
        matrix[i][j] = matrix[j][i] = links
    return tuple(tuple(row) for row in matrix)


def switched(graph: Graph) -> frozenset[int]:
    """The GPUs of the largest group that switches connect all to all; empty where there is none.

    Only such a group is a clique of its own: on a DGX-1 or on bridged pairs, GPUs are linked one by
    one and connectivity is a request on devices.
    """
    import networkx as nx

    groups = []
    for component in nx.connected_components(graph):
        gpus = frozenset(int(name) for role, name in component if role == "gpu")
        by_switch = any(role == "switch" for role, _ in component)
        by_hidden = len(gpus) > 1 and all(
            graph.has_edge(("gpu", str(a)), ("gpu", str(b))) and graph[("gpu", str(a))][("gpu", str(b))].get("hidden")
            for a, b in combinations(sorted(gpus), 2)
        )
        if (len(gpus) > 2 and by_hidden) or (len(gpus) > 1 and by_switch):
            groups.append(gpus)
    return max(groups, key=lambda g: (len(g), -min(g)), default=frozenset())
