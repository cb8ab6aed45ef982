"""Who holds what: the planner reads an `Inventory`, which is the index with the holds of all gangs.

A `NodeState` is a node as the planner sees it, a `CliqueState` a clique, a `CliqueOrder` sorted lists of cliques, the
`Index` (`index.py`) all of them. Every change (a hold, a release, a node that joins, a device that turns unhealthy)
touches only the nodes it names and their cliques; nothing is rebuilt and no request scans all devices.
Single-threaded; its owner is the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.gpu_parts import GpuParts
from ray_dra.core.cluster.index import Index
from ray_dra.core.cluster.node_state import OTHERS, CliqueKey, InClique, NodeState, exclusive_key, members_of
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.imex import NO_LIMITS, Limits
from ray_dra.core.model.node import Node, node_order
from ray_dra.core.model.request import WHOLE
from ray_dra.core.model.topology import Topology


@dataclass(slots=True)
class _Hold:
    """What a gang has.

    Attributes:
        masks: of whole devices, by node.
        imex_nodes: nodes in its IMEX domains.
        exclusive: cliques it has to itself.
        resources, shares, parts: whether it has any, on some node, there or away.
    """

    allocation: Allocation
    masks: dict[NodeState, int]
    imex_nodes: tuple[NodeState, ...]
    exclusive: tuple[CliqueKey, ...]
    resources: bool
    shares: bool
    parts: bool


class Inventory(Index):
    """All nodes and cliques, and who holds what.

    Invariant: a device is in the hold of at most one gang, and shares of one add up to at most the
    whole; `hold` raises ValueError rather than break it. A gang that shares its own devices holds them whole.
    """

    def __init__(
        self,
        topology: Topology | Iterable[Node] = (),
        limits: Limits = NO_LIMITS,
        level_labels: tuple[str, ...] = (),
    ) -> None:
        self._holds: dict[str, _Hold] = {}
        self._exclusive: dict[CliqueKey, str] = {}
        self._away: dict[str, dict[str, None]] = {}  # node that is not there -> gangs that have something on it
        self._pooled: dict[str, dict[str, None]] = {}  # gang that holds a pool -> gangs with shares of it
        self._emptied: Inventory | None = None
        self._besides: dict[str, Allocation] = {}  # gang -> what goes with its hold, under a name of its own
        self.keeps_spares: tuple[int, frozenset[str]] = 0, frozenset()  # a clique's, and nodes that are so besides
        self._planned: tuple[Allocation, dict[NodeState, int], int] | None = None
        self.others_domains: frozenset[str] = frozenset()  # nodes in IMEX domains of others than gangs
        super().__init__(topology, limits, level_labels)

    # -- who holds what

    @property
    def gangs(self) -> tuple[str, ...]:
        return tuple(self._holds)

    def allocation(self, gang: str) -> Allocation | None:
        hold = self._holds.get(gang)
        return hold.allocation if hold else None

    def owner_of(self, device: DeviceId) -> str | None:
        """The gang that has the device."""
        for state in self.node_states.values():
            position = next((i for i, d in enumerate(state.node.devices) if d.id == device), None)
            if position is not None:
                return next((gang for gang, mask in state.tenants.items() if mask >> position & 1), None)
        return None

    def has_gangs(self, node: str) -> bool:
        """Whether a gang has something on a node, be it there or away."""
        state = self.node_states.get(node)
        return bool(self._away.get(node) if state is None else state.tenants)

    def hold(self, allocation: Allocation) -> None:
        """Mark the allocation's devices and resources as held.

        Raises:
            ValueError: the gang holds something already, a device is held by another gang or has not so much left,
                or a clique or IMEX domain is another's. Nothing is held then.
        """
        if allocation.gang in self._holds:
            raise ValueError(f"gang {allocation.gang} holds devices already")
        if allocation.pool:
            self._hold_in_pool(allocation)
            return
        moved: dict[InClique, None] = {}
        self.refresh(self._take(allocation, moved), moved)
        if allocation.gang in self._besides:
            self.hold(self._besides[allocation.gang])

    def hold_all(self, allocations: Iterable[Allocation]) -> None:
        """`hold` for many gangs, none in a pool, with the index brought up to date once."""
        before: dict[NodeState, int] = {}
        moved: dict[InClique, None] = {}
        try:
            for allocation in allocations:
                if allocation.gang in self._holds:
                    raise ValueError(f"gang {allocation.gang} holds devices already")
                _keep_first(before, self._take(allocation, moved))
                if allocation.gang in self._besides:
                    _keep_first(before, self._take(self._besides[allocation.gang], moved))
        finally:
            self.refresh(before, moved)

    def _take(self, allocation: Allocation, moved: dict[InClique, None]) -> dict[NodeState, int]:
        """All of `hold` but the index: node -> what was free before. Cliques that changed otherwise go to `moved`."""
        gang = allocation.gang
        planned, self._planned = self._planned, None
        if planned is not None and planned[0] is allocation and planned[2] == self.changes:
            # Straight from `plan`, and nothing has changed since: the devices are free, and where they are is at hand.
            masks, shares, parts = planned[1], False, False
            away: list[str] = []
            resources = bool(allocation.bundles[0].resources)
        else:
            masks, away, shares, parts, resources = self._look_up(allocation)
        used, exclusive = self._check_counters(allocation, masks) if allocation.counters else ((), ())
        if shares:
            self._check_shares(allocation, masks)
        if parts:
            self._hold_parts(allocation, masks)
        self._holds[gang] = _Hold(allocation, masks, used, exclusive, resources, shares, parts)
        before = NodeState.take(gang, masks)
        self.held_devices += sum(map(int.bit_count, masks.values()))
        if resources:
            self._use(allocation, +1.0)
        if shares:
            self._share(allocation, +1)
        if parts:
            self._break(allocation, +1)
        for node in away:
            self._away.setdefault(node, {})[gang] = None
        if used:
            if self.others_domains:
                self._set_imex([state for state in used if state.imex_gang == OTHERS], None, moved)
            self._set_imex(used, gang, moved)
        for clique_id in exclusive:
            self._exclusive[clique_id] = gang
            if clique_id in self.clique_states:
                self._own(self.clique_states[clique_id], gang, before)
        return before

    def hold_besides(self, gang: str, more: Allocation | None) -> None:
        """What goes with a gang's hold from here on, under a name of its own: it is held and released with that. None:
        nothing."""
        before = self._besides.pop(gang, None)
        if before is not None:
            self.release(before.gang)
        if more is not None:
            self._besides[gang] = more
            if gang in self._holds:
                self.hold(more)

    def has_besides(self, gang: str) -> bool:
        """Whether something goes with its hold."""
        return gang in self._besides

    @property
    def besides(self) -> frozenset[str]:
        """The names of what goes with others' holds."""
        return frozenset(more.gang for more in self._besides.values())

    def _hold_in_pool(self, allocation: Allocation) -> None:
        """Shares of devices that another gang holds: nothing of them changes for anybody who is not in the pool.

        Raises:
            ValueError: that gang has no such device, or not so much of it is left.
        """
        left = self.pool_left(allocation.pool)
        for grant in allocation.grants:
            at = grant.node, grant.device
            left[at] = left.get(at, 0) - (grant.amount or WHOLE)
            if left[at] < 0:
                raise ValueError(f"pool {allocation.pool} has not so much of a device on {grant.node} left")
        resources = any(placed.resources for placed in allocation.bundles)
        masks = {state: 0 for node in allocation.nodes if (state := self.node_states.get(node)) is not None}
        self._holds[allocation.gang] = _Hold(allocation, masks, (), (), resources, shares=False, parts=False)
        before = NodeState.take(allocation.gang, masks)
        for node in allocation.nodes:
            if node not in self.node_states:
                self._away.setdefault(node, {})[allocation.gang] = None
        if resources:
            self._use(allocation, +1.0)
        self._pooled.setdefault(allocation.pool, {})[allocation.gang] = None
        self.refresh(before, {})

    def in_pool(self, pool: str) -> list[Allocation]:
        """What gangs have of the devices that this one holds."""
        return [self._holds[gang].allocation for gang in self._pooled.get(pool, ())]

    def pool_left(self, pool: str) -> dict[tuple[str, DeviceId], int]:
        """Thousandths that are left of each device that a pool holds."""
        hold = self._holds.get(pool)
        left: dict[tuple[str, DeviceId], int] = {}
        for grant in hold.allocation.grants if hold is not None else ():
            if grant.own:
                left[grant.node, grant.device] = WHOLE - (grant.amount or 0)
        for allocation in self.in_pool(pool):
            for grant in allocation.grants:
                left[grant.node, grant.device] = left.get((grant.node, grant.device), 0) - (grant.amount or 0)
        return left

    def remember(self, allocation: Allocation, masks: dict[NodeState, int]) -> None:
        """What `plan` found, so that holding it next need not look everything up again."""
        self._planned = (allocation, masks, self.changes)

    def _look_up(self, allocation: Allocation) -> tuple[dict[NodeState, int], list[str], bool, bool, bool]:
        """(whole devices by node, nodes that are not there, whether there are shares, parts, and other resources).

        Raises ValueError where a device is held by another gang, or by two bundles.
        """
        node_states = self.node_states
        masks: dict[NodeState, int] = {}
        away: list[str] = []
        shares = parts = False
        resources = False
        own: list[tuple[NodeState, Grant]] = []  # shares of devices that are the gang's alone
        for placed in allocation.holdings:
            state = node_states.get(placed.node)
            grants = placed.grants
            if placed.resources:
                resources = True
            if state is None:
                away.append(placed.node)
                shares = shares or _is_share(placed)
                parts = parts or bool(grants and grants[0].part is not None)
                continue
            mask = state.known.get(-id(grants))
            if mask is None:  # not made by `plan` on this inventory: read back from a record
                if grants and grants[0].own:
                    own.append((state, grants[0]))
                    masks.setdefault(state, 0)
                    continue
                if grants and (grants[0].amount is not None or grants[0].part is not None):
                    shares = shares or grants[0].amount is not None
                    parts = parts or grants[0].part is not None
                    masks.setdefault(state, 0)
                    continue
                mask = state.mask_of(grants)
            taken = state.held
            if state in masks:
                taken |= masks[state]
                masks[state] |= mask
            else:
                masks[state] = mask
            if taken & mask:
                raise ValueError(f"devices on {state.name} are held by another gang")
        if own:
            _add_own(own, masks)
        return masks, away, shares, parts, resources

    def release(self, gang: str) -> None:
        """Give back what the gang holds; harmless where it holds nothing."""
        if gang not in self._holds:
            return
        moved: dict[InClique, None] = {}
        self.refresh(self._give_back(gang, moved), moved)
        if gang in self._besides:
            self.release(self._besides[gang].gang)

    def release_all(self, gangs: Iterable[str]) -> None:
        """`release` for many gangs, with the index brought up to date once."""
        before: dict[NodeState, int] = {}
        moved: dict[InClique, None] = {}
        for gang in gangs:
            if gang in self._holds:
                _keep_first(before, self._give_back(gang, moved))
                if gang in self._besides:
                    _keep_first(before, self._give_back(self._besides[gang].gang, moved))
        self.refresh(before, moved)

    def _give_back(self, gang: str, moved: dict[InClique, None]) -> dict[NodeState, int]:
        """All of `release` but the index; returns and `moved` as of `_take`."""
        hold = self._holds.pop(gang)
        allocation = hold.allocation
        if allocation.pool and (members := self._pooled.get(allocation.pool)) is not None:
            members.pop(gang, None)
            if not members:
                del self._pooled[allocation.pool]
        before = NodeState.give_back(gang, hold.masks)
        self.held_devices -= sum(map(int.bit_count, hold.masks.values()))
        if hold.resources:
            self._use(allocation, -1.0)
        if hold.shares:
            self._share(allocation, -1)
        if hold.parts:
            self._break(allocation, -1)
            self._release_parts(allocation)
        if self._away:
            for placed in allocation.holdings:
                self._away.get(placed.node, {}).pop(gang, None)
        if hold.imex_nodes:
            self._leave_imex(hold.imex_nodes, moved)
        for clique_id in hold.exclusive:
            self._exclusive.pop(clique_id, None)
            if clique_id in self.clique_states and self.clique_states[clique_id].owner == gang:
                self._own(self.clique_states[clique_id], None, before)
        return before

    def _check_counters(
        self, allocation: Allocation, masks: Mapping[NodeState, int]
    ) -> tuple[tuple[NodeState, ...], tuple[CliqueKey, ...]]:
        """Nodes that join the gang's IMEX domains, and cliques it has exclusively; ValueError for what is another's."""
        if len(allocation.counters) == len(masks):  # as `plan` makes them: one a node, in the same order
            same = [
                state
                for state, counter in zip(masks, allocation.counters, strict=True)
                if counter is state.imex_counter
            ]
            if len(same) == len(masks) and all(state.imex_gang is None for state in same):
                return tuple(same), ()
        by_counter = {state.imex_counter[0]: state for state in masks}
        used = []
        exclusive = []
        for counter, _ in allocation.counters:
            if counter[1] == "imex":
                state = by_counter.get(counter)
                if state is not None:
                    # A domain of others may have come since it was planned; that does not undo this gang's claim.
                    if state.imex_gang not in (None, OTHERS):
                        raise ValueError(f"node {state.name} is in the IMEX domain of another gang")
                    used.append(state)
            elif (clique_id := exclusive_key(counter)) is not None:
                # Work of others may have come in since it was planned, or a lost node may be back with a gang that has
                # something there; neither undoes this gang's claim. Nor does it matter whether a node of the clique is
                # there yet: gangs of records are held before the first look.
                if clique_id in self._exclusive:
                    raise ValueError(f"clique {counter[0]} is another gang's alone")
                exclusive.append(clique_id)
        return tuple(used), tuple(exclusive)

    def _own(self, clique: CliqueState, gang: str | None, before: dict[NodeState, int]) -> None:
        """A gang has a clique to itself; None: nobody. The clique's nodes are noted in `before`."""
        clique.own(gang)
        for state in clique.node_states:
            before.setdefault(state, state.free)
            members = state.members[clique.id]
            if gang is None:
                state.reopen(members)
            else:
                state.close(members)

    def _set_imex(self, node_states: Iterable[NodeState], gang: str | None, moved: dict[InClique, None]) -> None:
        for clique, bits in NodeState.join_imex(gang, node_states).items():
            clique.flip_imex(bits)
            moved[clique] = None

    def _leave_imex(self, node_states: Sequence[NodeState], moved: dict[InClique, None]) -> None:
        """A gang leaves its IMEX domain; nodes that have one of others meanwhile are in that from here on."""
        self._set_imex(node_states, None, moved)
        if self.others_domains:
            self._set_imex([state for state in node_states if state.name in self.others_domains], OTHERS, moved)

    def set_others_domains(self, names: frozenset[str]) -> None:
        """The nodes that are in IMEX domains of others than gangs: no gang's domain can have one of them."""
        before, self.others_domains = self.others_domains, names
        moved: dict[InClique, None] = {}
        changed: dict[NodeState, int] = {}
        for name in before ^ names:
            state = self.node_states.get(name)
            if state is not None and state.imex_gang == (None if name in names else OTHERS):
                self._set_imex((state,), OTHERS if name in names else None, moved)
                changed[state] = state.free
        if changed:
            self.refresh(changed, moved)

    def _use(self, allocation: Allocation, sign: float) -> None:
        node_states = self.node_states
        for placed in allocation.holdings:
            if placed.resources:
                state = node_states.get(placed.node)
                if state is not None:
                    state.use(placed.resources, sign)

    def _check_shares(self, allocation: Allocation, masks: Mapping[NodeState, int]) -> None:
        wanted: dict[tuple[NodeState, int], int] = {}
        for state, position, amount in self._share_grants(allocation):
            at = (state, position)
            wanted[at] = wanted.get(at, 0) + amount
            if (state.held | masks.get(state, 0)) >> position & 1:
                raise ValueError(f"a device on {state.name} is held by another gang")
            if state.shares.get(position, 0) + wanted[at] > WHOLE:
                raise ValueError(f"a device on {state.name} has not so much left")

    def _share_grants(self, allocation: Allocation) -> list[tuple[NodeState, int, int]]:
        """(node, position, thousandths) of every share."""
        found = []
        for placed in allocation.bundles:
            state = self.node_states.get(placed.node)
            if state is not None and _is_share(placed):
                for grant in placed.grants:
                    mask = state.mask_of((grant._replace(amount=None),))
                    if mask:
                        found.append((state, mask.bit_length() - 1, grant.amount or 0))
        return found

    def _share(self, allocation: Allocation, sign: int) -> None:
        for state, position, amount in self._share_grants(allocation):
            state.share(position, sign * amount)

    # -- parts of GPUs

    def set_parts(self, name: str, others: Mapping[str, int], placed: Mapping[str, Mapping[str, int]]) -> None:
        """What the cluster's claims have of the parts of a node's GPUs: UUID of a GPU -> mask of the parts that others
        than gangs have, and gang -> of those that it has got. A GPU of which others have a part is busy, too
        (`set_others`)."""
        for gpu in self.node_states[name].parts:
            got = {gang: mask for gang, by_gpu in placed.items() if (mask := by_gpu.get(gpu.gpu.uuid, 0))}
            gpu.see(others.get(gpu.gpu.uuid, 0), got)
        self.touch(self.node_states[name])

    def _gpus_of(self, allocation: Allocation) -> dict[tuple[NodeState, GpuParts], list[Grant]]:
        """(node, GPU) -> the parts that a gang has of it, where they are there."""
        found: dict[tuple[NodeState, GpuParts], list[Grant]] = {}
        for placed in allocation.bundles:
            state = self.node_states.get(placed.node)
            for grant in placed.grants if state is not None else ():
                if state is None or grant.part is None:
                    continue
                for gpu in state.parts:
                    if gpu.gpu.uuid == grant.part.parent:
                        found.setdefault((state, gpu), []).append(grant)
        return found

    def _hold_parts(self, allocation: Allocation, masks: Mapping[NodeState, int]) -> None:
        """All of them, or none: raises ValueError where a GPU has not so many left, or is held whole."""
        try:
            for (state, gpu), grants in self._gpus_of(allocation).items():
                at = gpu.gpu.position
                if at is not None and (state.held | masks.get(state, 0)) >> at & 1:
                    raise ValueError(f"a GPU of {state.name} is held whole by another gang")
                gpu.hold(allocation.gang, grants)
        except ValueError:
            self._release_parts(allocation)
            raise

    def _break(self, allocation: Allocation, sign: int) -> None:
        """A GPU of which a gang has a part is shared, with nothing left of it as a whole."""
        for state, gpu in self._gpus_of(allocation):
            if gpu.gpu.position is not None:
                state.share(gpu.gpu.position, sign * WHOLE)

    def _release_parts(self, allocation: Allocation) -> None:
        for _, gpu in self._gpus_of(allocation):
            gpu.release(allocation.gang)

    # -- nodes that come, change and go

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
                self._share(Allocation(gang, on_node), +1)
            if hold.parts:
                for (_, gpu), grants in self._gpus_of(Allocation(gang, on_node)).items():
                    gpu.take_back(gang, grants)
                self._break(Allocation(gang, on_node), +1)
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


def _keep_first(before: dict[NodeState, int], more: Mapping[NodeState, int]) -> None:
    """Add what was free on nodes that have not changed yet."""
    for state, free in more.items():
        before.setdefault(state, free)


def _is_share(placed: Placed) -> bool:
    """Whether a bundle has a share of a device that other gangs may have shares of, too."""
    return bool(placed.grants) and placed.grants[0].amount is not None and not placed.grants[0].own


def _add_own(own: Iterable[tuple[NodeState, Grant]], masks: dict[NodeState, int]) -> None:
    """To `masks` the devices that a gang has whole and gives its bundles in shares. Raises ValueError where somebody
    else has something of one, or the shares are more than a whole."""
    amounts: dict[tuple[NodeState, int], int] = {}
    for state, grant in own:
        if mask := state.mask_of((grant,)):
            amounts[state, mask] = amounts.get((state, mask), 0) + (grant.amount or 0)
    for (state, mask), amount in amounts.items():
        if (state.held | masks[state]) & mask or mask.bit_length() - 1 in state.shares:
            raise ValueError(f"a device on {state.name} is held by another gang")
        if amount > WHOLE:
            raise ValueError(f"a device on {state.name} has not so much left")
        masks[state] |= mask


def _same_place(state: NodeState, node: Node) -> bool:
    """Whether the node's devices, cliques and links are what they were."""
    before = state.node
    return (
        len(before.devices) == len(node.devices)
        and before.links == node.links
        and before.ancestors == node.ancestors
        and before.counters == node.counters
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
