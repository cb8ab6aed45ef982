"""Where a gang goes, on what there is: workers that are there, new ones on Kubernetes' nodes, or a no."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.cluster.spares import chosen_spares
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.gangs.own_spares import OwnSpares
from ray_dra.core.gangs.pools import Pool, Pools
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.model.shortfall import CLUSTER, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan

Answer = Allocation | Unsatisfiable


class Planning:
    """See the module. Holds nothing. `ready_made`: nodes whose workers are there, tried before new ones are made."""

    def __init__(
        self,
        inventory: Inventory,
        known: KnownNodes,
        ready_made: Collection[str],
        pool_named: Callable[[str], Pool | None] = lambda name: None,
        own_spares: OwnSpares | None = None,
    ) -> None:
        self.own_spares = own_spares if own_spares is not None else OwnSpares(inventory)
        self.inventory, self.known, self.ready_made = inventory, known, ready_made
        self._spares_by: object = None  # by what the known cluster's spares were chosen
        self.pools = Pools(inventory, pool_named)

    def plan(self, request: GangRequest, epoch: int = 0, *, strict: bool = False, explain: bool = True) -> Answer:
        """On workers that are there, if they will do, before new ones are made. `strict`, `explain`: as in
        `core.plan`."""
        if request.in_pool:
            return self.pools.plan(request, epoch)
        no = too_few(self.inventory, request)
        if no is not None:
            return no
        there = self._on_raylets(request, epoch, strict=strict)
        return (
            there if there is not None else plan(self.inventory, request, epoch=epoch, strict=strict, explain=explain)
        )

    def elsewhere(self, held: Allocation, place: Callable[[], Answer]) -> Answer:
        """What `place` finds for a gang that holds devices, as if it held none, nor spares."""
        self.inventory.release(held.gang)
        try:
            return place()
        finally:
            self.inventory.hold(held)

    def taken(self, held: Allocation | None) -> bool:
        """Whether others' work has one of these devices."""
        states = self.inventory.node_states
        grants = held.grants if held is not None else ()
        whole = (g for g in grants if g.part is None)
        return any(g.node in states and states[g.node].busy >> g.position & 1 for g in whole)

    def other_devices(self, request: GangRequest, held: Allocation, epoch: int) -> Allocation | None:
        """Other devices of the nodes that a gang is on, for each bundle on its own node; None where none are free, or
        a node is gone."""
        if not self.inventory.node_states.keys() >= set(held.nodes):
            return None
        self.inventory.release(held.gang)
        try:
            placed = list(held.bundles)
            for node in dict.fromkeys(held.nodes):
                here = [at for at, bundle in enumerate(held.bundles) if bundle.node == node]
                bundles = tuple(request.bundles[at] for at in here)
                there = Locality(connect=request.locality.connect)
                part = replace(request, bundles=bundles, locality=there, strategy=Strategy.PACK)
                answer = plan(self.inventory.part([node]), part, epoch=epoch)
                if not isinstance(answer, Allocation):
                    return None
                for at, bundle in zip(here, answer.bundles, strict=True):
                    placed[at] = bundle
            return held._replace(epoch=epoch, bundles=tuple(placed))
        finally:
            self.inventory.hold(held)

    def own_gpus(self, held: Allocation) -> tuple[Placed, ...] | None:
        """The GPUs of which a gang has something, whole, one Placed for each node; None where one is not there, is not
        offered whole, or somebody else has something of it."""
        masks: dict[NodeState, int] = {}
        for grant in held.held_grants:
            state = self.inventory.node_states.get(grant.node)
            mask = _whole_of(state, grant, held.gang) if state is not None else 0
            if state is None or not mask:
                return None
            masks[state] = masks.get(state, 0) | mask
        return tuple(Placed(state.name, state.granted(mask)) for state, mask in masks.items())

    def others_on(self, held: Allocation) -> str:
        """A GPU of which a gang has something, and somebody else has now, too; "" for none."""
        for grant in held.held_grants:
            state = self.inventory.node_states.get(grant.node)
            parts = state.parts if state is not None and grant.part is not None else ()
            gpu = next((gpu for gpu in parts if grant.part is not None and gpu.gpu.uuid == grant.part.parent), None)
            if gpu is not None and (gpu.others or {*gpu.held, *gpu.placed} - {held.gang}):
                return f"GPU {gpu.gpu.uuid} of node {grant.node}"
        return ""

    def on_own(
        self,
        held: Allocation,
        request: GangRequest,
        offered: Mapping[str, Mapping[str, float]] | None = None,
        gpus: Collection[Placed] = (),
    ) -> Answer:
        """The devices that a gang holds, planned anew, as if they were all there is.

        Args:
            offered: node -> the resources besides devices that its workers have; None: what is free on the node, with
                what the gang has there.
            gpus: the gang's GPUs as `own_gpus` has them, to be had whole, in parts or in shares; none: those that it
                has whole.
        """
        whole = self.inventory
        names = [name for name in dict.fromkeys(placed.node for placed in held.holdings) if name in whole.node_states]
        own = {name: whole.node_states[name].tenants.get(held.gang, 0) for name in names}
        own |= {placed.node: whole.node_states[placed.node].mask_of(placed.grants) for placed in gpus}
        before = whole.allocation(held.gang)
        whole.release(held.gang)
        try:
            part = whole.part(names)
        finally:
            if before is not None:
                whole.hold(before)
        for name, state in part.node_states.items():
            used = dict(state.used_by_others)
            if offered is not None:
                has = offered.get(name, {})
                used = {r: max(0.0, amount - has.get(r, 0.0)) for r, amount in state.node.resources.items()}
            part.set_others(name, state.busy | ((1 << state.size) - 1 & ~own[name]), used)
            if gpus and state.parts:
                others = {
                    gpu.gpu.uuid: gpu.table.everything
                    for gpu in state.parts
                    if gpu.gpu.position is None or not own[name] >> gpu.gpu.position & 1
                }
                part.set_parts(name, others, {})
        return plan(part, request)

    def explained(self, request: GangRequest) -> Answer:
        """The same; after a no also what is nearest to a yes."""
        if request.in_pool:
            return self.pools.plan(request)
        there = self._on_raylets(request, 0, strict=False)
        changes = self.inventory.changes
        try:
            return there if there is not None else plan_and_explain(self.inventory, request)
        finally:
            self.inventory.changes = changes  # who was tried out of the way is back

    def never(self, request: GangRequest, now: float) -> Unsatisfiable | None:
        """A no for all nodes known lately, with nobody there: to wait cannot help. None where some have not been read
        yet."""
        if request.in_pool:
            return self.pools.never(request)
        if self.known.unread:
            return None
        answer = self._ever(request)
        if isinstance(answer, Unsatisfiable) and self.known.look(now):
            answer = self._ever(request)  # something has come since the last look
        return answer if isinstance(answer, Unsatisfiable) else None

    def _ever(self, request: GangRequest) -> Answer:
        self._keep_spares_ever()
        return too_few(self.known.cluster, request) or plan(self.known.cluster, request)

    def _keep_spares_ever(self) -> None:
        """Where nodes of each clique are kept as spares, they will be once nobody is there, whoever is there now."""
        (count, besides), cluster = self.inventory.keeps_spares, self.known.cluster
        if self._spares_by == (cluster.changes, count, besides) or (self._spares_by is None and not count):
            return
        states = [state for state in cluster.node_states.values() if state.name not in besides]
        kept = chosen_spares(states, count) if count else frozenset[str]()
        for state in states:
            if state.node.spare is not (state.name in kept):
                cluster.put_node(replace(state.node, spare=not state.node.spare))
        self._spares_by = cluster.changes, count, besides

    def _on_raylets(self, request: GangRequest, epoch: int, *, strict: bool) -> Allocation | None:
        """On GPU workers that the RayCluster has besides gangs' own. Whole cliques are not theirs to give."""
        if request.locality.exclusive:
            return None
        names = [name for name in self.ready_made if name in self.inventory.node_states]
        answer = plan(self.inventory.part(names), request, epoch=epoch, strict=strict, explain=False) if names else None
        return answer if isinstance(answer, Allocation) else None


def _whole_of(state: NodeState, grant: Grant, gang: str) -> int:
    """The mask of the GPU of which a gang has this grant; 0 where others have, or may have, something of it."""
    if grant.part is None:
        return state.mask_of((grant,)) if grant.amount is None or grant.own else 0
    gpu = next((gpu for gpu in state.parts if gpu.gpu.uuid == grant.part.parent), None)
    if gpu is None or gpu.gpu.position is None or gpu.others or {*gpu.held, *gpu.placed} - {gang}:
        return 0
    return 1 << gpu.gpu.position


def too_few(inventory: Inventory, request: GangRequest) -> Unsatisfiable | None:
    """A no by the numbers of devices alone, before anything is searched for; None where they say nothing."""
    wanted = request.whole_devices
    if wanted <= inventory.devices:
        return None
    return Unsatisfiable(request.gang, (short(ShortfallKind.DEVICES, CLUSTER, wanted, inventory.devices),))
