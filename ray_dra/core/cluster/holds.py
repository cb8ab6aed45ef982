"""Who holds what: the index with the holds of all gangs, the pools that some of them are, and others' IMEX domains.

Neighbours: `index.py`, on top of which this lies; `portions.py`, what of a hold is less than a device; `inventory.py`,
what becomes of holds as nodes come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.index import Index
from ray_dra.core.cluster.node_state import OTHERS, CliqueKey, InClique, NodeState, exclusive_key
from ray_dra.core.cluster.portions import add_own, break_gpus, check_shares, hold_parts, is_share, release_parts, share
from ray_dra.core.model.allocation import Allocation, Grant
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.imex import NO_LIMITS, Limits
from ray_dra.core.model.node import Node
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


class Holds(Index):
    """The index, and who holds what of it.

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
        self._besides: dict[str, Allocation] = {}  # gang -> what goes with its hold, under a name of its own
        self.keeps_spares: tuple[int, frozenset[str]] = 0, frozenset()  # a clique's, and nodes that are so besides
        self._planned: tuple[Allocation, dict[NodeState, int], int] | None = None
        self.others_domains: frozenset[str] = frozenset()  # nodes in IMEX domains of others than gangs
        self.others_called: Mapping[str, str] = {}  # of these, by node: whose domain it is, where somebody is known
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
            check_shares(self.node_states, allocation, masks)
        if parts:
            hold_parts(self.node_states, allocation, masks)
        self._holds[gang] = _Hold(allocation, masks, used, exclusive, resources, shares, parts)
        before = NodeState.take(gang, masks)
        self.held_devices += sum(map(int.bit_count, masks.values()))
        if resources:
            self._use(allocation, +1.0)
        if shares:
            share(self.node_states, allocation, +1)
        if parts:
            break_gpus(self.node_states, allocation, +1)
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
                shares = shares or is_share(placed)
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
            add_own(own, masks)
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
            share(self.node_states, allocation, -1)
        if hold.parts:
            break_gpus(self.node_states, allocation, -1)
            release_parts(self.node_states, allocation)
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

    def set_others_domains(self, names: frozenset[str], called: Mapping[str, str] = {}) -> None:
        """The nodes that are in IMEX domains of others than gangs: no gang's domain can have one of them. `called`: by
        node, whose domain it is, for people."""
        before, self.others_domains = self.others_domains, names
        called_before, self.others_called = self.others_called, called
        moved: dict[InClique, None] = {}
        changed: dict[NodeState, int] = {}
        for name in before ^ names:
            state = self.node_states.get(name)
            if state is not None and state.imex_gang == (None if name in names else OTHERS):
                self._set_imex((state,), OTHERS if name in names else None, moved)
                changed[state] = state.free
        if changed:
            self.refresh(changed, moved)
        elif not self.node_states.keys().isdisjoint(before ^ names):
            self.changes += 1  # of a gang's nodes: whether its workers can be made anew there
        for name in names & before:
            state = self.node_states.get(name)
            if state is not None and called.get(name) != called_before.get(name):
                self.touch(state)

    def _use(self, allocation: Allocation, sign: float) -> None:
        node_states = self.node_states
        for placed in allocation.holdings:
            if placed.resources:
                state = node_states.get(placed.node)
                if state is not None:
                    state.use(placed.resources, sign)

    def set_parts(self, name: str, others: Mapping[str, int], placed: Mapping[str, Mapping[str, int]]) -> None:
        """What the cluster's claims have of the parts of a node's GPUs: UUID of a GPU -> mask of the parts that others
        than gangs have, and gang -> of those that it has got. A GPU of which others have a part is busy, too
        (`set_others`)."""
        for gpu in self.node_states[name].parts:
            got = {gang: mask for gang, by_gpu in placed.items() if (mask := by_gpu.get(gpu.gpu.uuid, 0))}
            gpu.see(others.get(gpu.gpu.uuid, 0), got)
        self.touch(self.node_states[name])


def _keep_first(before: dict[NodeState, int], more: Mapping[NodeState, int]) -> None:
    """Add what was free on nodes that have not changed yet."""
    for state, free in more.items():
        before.setdefault(state, free)
