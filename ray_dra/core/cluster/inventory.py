"""What the planner reads: all nodes and cliques, with what is free and who holds what, while nodes come, change and go.

A `NodeState` is a node as the planner sees it, a `CliqueState` a clique, a `CliqueOrder` sorted lists of cliques, the
`Index` (`index.py`) all of them; `Holds` (`holds.py`) adds who has what. Every change (a hold, a release, a node that
joins, a device that turns unhealthy) touches only the nodes it names and their cliques; nothing is rebuilt and no
request scans all devices. Single-threaded; its owner is the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray_dra.core.cluster.holds import Holds
from ray_dra.core.cluster.node_state import OTHERS, InClique, NodeState, members_of
from ray_dra.core.cluster.portions import break_gpus, gpus_of, share
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.node import Node, node_order


class Inventory(Holds):
    """All nodes and cliques, and who holds what."""

    _emptied: Inventory | None = None

    def put_node(self, node: Node) -> None:
        """A node joins, or is what it was with another health, label or link."""
        self._emptied = None
        state = self.node_states.get(node.name)
        if state is None:
            self._join(NodeState(node))
            return
        if state.node is node:
            return
        if _same_place(state, node) and all(state.node.labels.get(n) == node.labels.get(n) for n in self.level_labels):
            # The devices are where they were: only what is free can have changed.
            before = {state: state.free}
            state.see(node)
            self.refresh(before, {})
            return
        self._leave(state)
        made = NodeState(node)
        made.see_others(state.busy, state.used_by_others)
        self._join(made)

    def drop_node(self, name: str) -> None:
        """A node has left; the gangs on it keep their hold on paper until they are released."""
        state = self.node_states.get(name)
        if state is not None:
            self._emptied = None
            self._leave(state)

    def _join(self, state: NodeState) -> None:
        self.node_states[state.name] = state
        if state.name in self.others_domains:
            NodeState.join_imex(OTHERS, (state,))
        self._take_back(state)
        self._insert(state, self._exclusive)

    def _take_back(self, state: NodeState) -> None:
        """What gangs hold on a node that was away, or whose devices are numbered anew."""
        for gang in self._away.pop(state.name, ()):
            hold = self._holds[gang]
            on_node = tuple(p for p in hold.allocation.holdings if p.node == state.name)
            mask = 0
            for placed in on_node:
                state.use(placed.resources, +1.0)
                if placed.grants and (placed.grants[0].amount is None or placed.grants[0].own):
                    mask |= state.mask_of(placed.grants)
            if not hold.allocation.pool:
                share(self.node_states, Allocation(gang, on_node), +1)
            if hold.parts:
                for (_, gpu), grants in gpus_of(self.node_states, Allocation(gang, on_node)).items():
                    gpu.take_back(gang, grants)
                break_gpus(self.node_states, Allocation(gang, on_node), +1)
            NodeState.take(gang, {state: mask})
            self.held_devices += mask.bit_count()
            hold.masks[state] = mask
            if any(c == state.imex_counter for c in hold.allocation.counters):
                NodeState.join_imex(gang, (state,))
                hold.imex_nodes = (*hold.imex_nodes, state)

    def _leave(self, state: NodeState) -> None:
        for gang, mask in state.tenants.items():
            hold = self._holds[gang]
            del hold.masks[state]
            hold.imex_nodes = tuple(s for s in hold.imex_nodes if s is not state)
            self._away.setdefault(state.name, {})[gang] = None
            self.held_devices -= mask.bit_count()
        self._remove(state)

    def emptied(self) -> Inventory:
        """The same nodes with nothing held and nothing used: what could ever be placed here."""
        if self._emptied is None:
            nodes = (state.node for state in self.node_states.values())
            self._emptied = Inventory(nodes, self.limits, self.level_labels)
        return self._emptied

    def part(self, names: Iterable[str]) -> Inventory:
        """These nodes alone, with what is free on them now, and in the IMEX domains that they are in; nothing changes
        with this inventory."""
        node_states = [self.node_states[name] for name in names]
        moved: dict[InClique, None] = {}
        made = Inventory((state.node for state in node_states), self.limits, self.level_labels)
        for state in node_states:
            used = {
                name: state.used.get(name, 0.0) + state.used_by_others.get(name, 0.0) for name in state.node.resources
            }
            made.set_others(state.name, (1 << state.size) - 1 & ~state.free, used)
            if state.parts:
                everything = {gpu.gpu.uuid: gpu.table.everything for gpu in state.parts}
                made.set_parts(state.name, everything, {})  # no gang with parts is planned on some nodes alone
            if state.imex_gang is not None:
                made._set_imex((made.node_states[state.name],), state.imex_gang, moved)
        made.refresh({}, moved)
        return made


def _same_place(state: NodeState, node: Node) -> bool:
    """Whether the node's devices, cliques and links are what they were."""
    before = state.node
    return (
        len(before.devices) == len(node.devices)
        and before.links == node.links
        and before.ancestors == node.ancestors
        and before.parted == node.parted
        and before.unshared == node.unshared
        and all(
            (a.id, a.uuid, a.index, a.kind, a.fabric_kind) == (b.id, b.uuid, b.index, b.kind, b.fabric_kind)
            and (a.attributes, a.capacity) == (b.attributes, b.capacity)
            for a, b in zip(before.devices, node.devices, strict=True)
        )
        and state.members == members_of(node)
        and state.key == node_order(node)
    )
