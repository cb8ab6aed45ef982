"""Pools: GPUs that one gang holds, and of which other gangs have shares. Where those go, and how much is left.

A pool is a gang like any other: it is planned, made, and given back as one, and has a share of each of its GPUs for
itself. Gangs with shares of it hold no device, and end when it does. Neighbours: `planning.py` asks where a gang goes,
`records.py` says which gang a pool is; `cluster/holds.py` has what of it is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.device_selector import MEMORY
from ray_dra.core.model.gpu_sharing import GpuSharing, PoolTerms, SharingKind
from ray_dra.core.model.request import WHOLE, GangRequest
from ray_dra.core.model.shortfall import Place, PlaceKind, Shortfall, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan

Answer = Allocation | Unsatisfiable


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as it is.

    Attributes:
        gang: the gang that holds it.
        ready: whether its GPUs are set to be shared, so that others can have shares of those that are well.
        without: nodes on which its worker is gone, and with it the claim of the GPUs there.
        whole: nothing of it is lost.
    """

    name: str
    gang: str
    sharing: GpuSharing
    ready: bool
    without: frozenset[str] = frozenset()
    whole: bool = True

    @property
    def terms(self) -> PoolTerms:
        return self.sharing.pool or PoolTerms()


class Pools:
    """See the module. `named`: the pool of a name, if there is one."""

    def __init__(self, inventory: Inventory, named: Callable[[str], Pool | None]) -> None:
        self.inventory, self.named = inventory, named

    def plan(self, request: GangRequest, epoch: int = 0) -> Answer:
        """Shares of the pool's GPUs for a gang."""
        pool = self.named(request.pool)
        held = self.inventory.allocation(pool.gang) if pool is not None else None
        if pool is None or held is None or not pool.ready:
            return self._no(request, 0, "it is not ready" if pool is not None else "there is no such pool")
        wrong = self._against_terms(request, pool)
        if wrong is not None:
            return wrong
        return self._place(request, pool, held, self.inventory.in_pool(pool.gang), epoch)

    def never(self, request: GangRequest) -> Unsatisfiable | None:
        """A no whoever else leaves the pool; None where it may fit once, or nobody knows the pool's GPUs yet."""
        pool = self.named(request.pool)
        held = self.inventory.allocation(pool.gang) if pool is not None else None
        if pool is None:
            return self._no(request, 0, "there is no such pool")
        wrong = self._against_terms(request, pool)
        if wrong is not None or held is None or not (pool.ready and pool.whole):
            return wrong
        answer = self._place(request, pool, held, (), 0)
        return answer if isinstance(answer, Unsatisfiable) else None

    def _against_terms(self, request: GangRequest, pool: Pool) -> Unsatisfiable | None:
        """A no by what a gang may have of the pool."""
        wanted, most = _amount(request), pool.terms.per_gang
        return self._no(request, most, "a gang has no more of it") if most and wanted > most else None

    def _place(
        self, request: GangRequest, pool: Pool, held: Allocation, others: Iterable[Allocation], epoch: int
    ) -> Answer:
        """The pool's GPUs as an inventory of their own, with what others have of them, and the gang planned there."""
        whole = self.inventory
        names = [name for name in dict.fromkeys(held.nodes) if name in whole.node_states and name not in pool.without]
        part = whole.part(names)
        least = 1
        for name, state in part.node_states.items():
            there = whole.node_states[name]
            own = there.tenants.get(pool.gang, 0)
            everything = (1 << state.size) - 1
            part.set_others(name, (there.busy & own) | (everything & ~own), dict(state.used_by_others))
            least = max(least, _least(state, own, pool.sharing))
        for number, allocation in enumerate((held, *others)):
            shares = [
                Placed(grant.node, (grant._replace(amount=max(grant.amount or WHOLE, least), own=False),))
                for grant in allocation.grants
                if grant.node in part.node_states and part.node_states[grant.node].mask_of((grant,))
            ]
            part.hold(Allocation(str(number), tuple(shares)))
        small = min((bundle.share for bundle in request.bundles if bundle.share is not None), default=WHOLE)
        if small < least:
            why = f"{pool.sharing} serves so few on a GPU that a share has at least {least / WHOLE:g}"
            return self._no(request, least, why)
        answer = plan(part, request, epoch=epoch)
        if isinstance(answer, Allocation):
            return answer._replace(pool=pool.gang)
        left = [amount for state in part.node_states.values() for amount in _left(state)]
        less = "" if pool.whole else f"; of its {len(held.bundles)} GPUs some are lost"
        why = f"at most {max(left, default=0) / WHOLE:g} of one GPU, {len(left)} in all{less}"
        return self._no(request, sum(left), why)

    def _no(self, request: GangRequest, available: int, why: str) -> Unsatisfiable:
        where = Place(PlaceKind.POOL, request.pool)
        return Unsatisfiable(request.gang, (short(ShortfallKind.POOL, where, _amount(request), available, reason=why),))


def program_may_have(pool: Pool, has: int, request: GangRequest) -> Shortfall | None:
    """Why a program that has so much of the pool may not have this besides; None where it may."""
    most, wanted = pool.terms.per_program, _amount(request)
    if not most or has + wanted <= most:
        return None
    why = f"a program has {most / WHOLE:g} GPUs of it at most, and this one has {has / WHOLE:g}"
    where = Place(PlaceKind.POOL, request.pool)
    return short(ShortfallKind.POOL, where, wanted, max(0, most - has), reason=why)


def amount_of(allocation: Allocation) -> int:
    """Thousandths of GPUs that a gang has."""
    return sum(grant.amount or WHOLE for grant in allocation.grants)


def _amount(request: GangRequest) -> int:
    return sum(bundle.share or 0 for bundle in request.bundles)


def _left(state: NodeState) -> list[int]:
    """Thousandths that are left of each device."""
    return [*state.shared_left().values(), *([WHOLE] * state.free.bit_count())]


def _least(state: NodeState, own: int, sharing: GpuSharing) -> int:
    """The smallest share of which no more lie on a device than it serves: any one more would be over the whole."""
    if sharing.kind is SharingKind.TIME_SLICING:
        return 1
    devices = [device for at, device in enumerate(state.node.devices) if own >> at & 1]
    most = min((sharing.clients_on(device.capacity.get(MEMORY)) for device in devices), default=0)
    return WHOLE // (most + 1) + 1
