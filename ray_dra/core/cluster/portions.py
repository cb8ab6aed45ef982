"""What gangs have that is less than a device: shares, parts of GPUs, and devices of their own that their bundles share.

`holds.py`, its only caller, says when; the amounts are kept by `node_state.py` and `gpu_parts.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ray_dra.core.cluster.gpu_parts import GpuParts
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.request import WHOLE

NodeStates = Mapping[str, NodeState]


def check_shares(node_states: NodeStates, allocation: Allocation, masks: Mapping[NodeState, int]) -> None:
    wanted: dict[tuple[NodeState, int], int] = {}
    for state, position, amount in _share_grants(node_states, allocation):
        at = (state, position)
        wanted[at] = wanted.get(at, 0) + amount
        if (state.held | masks.get(state, 0)) >> position & 1:
            raise ValueError(f"a device on {state.name} is held by another gang")
        if state.shares.get(position, 0) + wanted[at] > WHOLE:
            raise ValueError(f"a device on {state.name} has not so much left")


def _share_grants(node_states: NodeStates, allocation: Allocation) -> list[tuple[NodeState, int, int]]:
    """(node, position, thousandths) of every share."""
    found = []
    for placed in allocation.bundles:
        state = node_states.get(placed.node)
        if state is not None and is_share(placed):
            for grant in placed.grants:
                mask = state.mask_of((grant._replace(amount=None),))
                if mask:
                    found.append((state, mask.bit_length() - 1, grant.amount or 0))
    return found


def share(node_states: NodeStates, allocation: Allocation, sign: int) -> None:
    for state, position, amount in _share_grants(node_states, allocation):
        state.share(position, sign * amount)


def gpus_of(node_states: NodeStates, allocation: Allocation) -> dict[tuple[NodeState, GpuParts], list[Grant]]:
    """(node, GPU) -> the parts that a gang has of it, where they are there."""
    found: dict[tuple[NodeState, GpuParts], list[Grant]] = {}
    for placed in allocation.bundles:
        state = node_states.get(placed.node)
        for grant in placed.grants if state is not None else ():
            if state is None or grant.part is None:
                continue
            for gpu in state.parts:
                if gpu.gpu.uuid == grant.part.parent:
                    found.setdefault((state, gpu), []).append(grant)
    return found


def hold_parts(node_states: NodeStates, allocation: Allocation, masks: Mapping[NodeState, int]) -> None:
    """All of them, or none: raises ValueError where a GPU has not so many left, or is held whole."""
    try:
        for (state, gpu), grants in gpus_of(node_states, allocation).items():
            at = gpu.gpu.position
            if at is not None and (state.held | masks.get(state, 0)) >> at & 1:
                raise ValueError(f"a GPU of {state.name} is held whole by another gang")
            gpu.hold(allocation.gang, grants)
    except ValueError:
        release_parts(node_states, allocation)
        raise


def break_gpus(node_states: NodeStates, allocation: Allocation, sign: int) -> None:
    """A GPU of which a gang has a part is shared, with nothing left of it as a whole."""
    for state, gpu in gpus_of(node_states, allocation):
        if gpu.gpu.position is not None:
            state.share(gpu.gpu.position, sign * WHOLE)


def release_parts(node_states: NodeStates, allocation: Allocation) -> None:
    for _, gpu in gpus_of(node_states, allocation):
        gpu.release(allocation.gang)


def is_share(placed: Placed) -> bool:
    """Whether a bundle has a share of a device that other gangs may have shares of, too."""
    return bool(placed.grants) and placed.grants[0].amount is not None and not placed.grants[0].own


def add_own(own: Iterable[tuple[NodeState, Grant]], masks: dict[NodeState, int]) -> None:
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
