"""A node as the map shows it: one cell for each GPU, with its state and who has it.

The states are those of `core/cluster/figures.py`, and each GPU is counted in the same one. Neighbours: `gangs.py` has
the gangs, `page.py` puts both together for the page.
"""

from __future__ import annotations

from typing import NamedTuple

from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.gpu_parts import GpuParts
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import OTHERS as OTHERS_DOMAIN
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.device import FabricKind, Health

FREE, HELD, SHARED, OTHERS = "free", "held", "shared", "others"
LEFT_OUT, UNHEALTHY, KEPT = "left_out", "unhealthy", "kept"
STATES = (FREE, HELD, SHARED, OTHERS, LEFT_OUT, UNHEALTHY, KEPT)
NOBODY = ""
ASIDE = ("kept/", "spares/")
"""With these the inventory calls what it holds for a gang besides its devices: a place kept after a fault
(`core.gangs.kept`), spares of its own (`core.gangs.own_spares`)."""


class Use(NamedTuple):
    """What one gang has of a GPU: a share, in thousandths, or parts, by their profiles. `gang` NOBODY: others."""

    gang: str
    share: int = 0
    parts: tuple[str, ...] = ()


class Cell(NamedTuple):
    """One GPU.

    Attributes:
        number: NVML's; its place on the node where it has none.
        state: one of STATES. gang: that has it whole.
        clique: None where it is in none. box: the clique is one node's.
        sick: why it is not well; "" where it is.
        uses: who has shares or parts of it.
        whole: False: it is given out in parts alone, and counts as no GPU of its own.
    """

    number: int
    state: str
    gang: str = NOBODY
    clique: str | None = None
    box: bool = False
    sick: str = ""
    uses: tuple[Use, ...] = ()
    whole: bool = True


class NodeRow(NamedTuple):
    """A node.

    Attributes:
        order: its place in the rack. why: it is not ready.
        imex_gang: in whose IMEX domain it is. imex_member: whose that is, where it is no gang's and somebody is known.
        above: its domain of each level above cliques, the lowest first; empty where it is in none.
    """

    name: str
    cells: tuple[Cell, ...]
    order: int | None = None
    product: str = ""
    ready: bool = True
    why: str = ""
    spare: bool = False
    imex_gang: str = NOBODY
    imex_member: str = ""
    above: tuple[str | None, ...] = ()


def node_row(inventory: Inventory, state: NodeState) -> NodeRow:
    """The row of a node of this inventory."""
    node = state.node
    holders = {at: gang for gang, mask in state.tenants.items() for at in bits(mask)}
    uses = _uses(inventory, state) if any(not mask for mask in state.tenants.values()) or state.shares else {}
    parted = {gpu.gpu.position: gpu for gpu in state.parts if gpu.gpu.position is not None}
    shared = state.shares
    cells = []
    for at, device in enumerate(node.devices):
        found = uses.get(at, ())
        if at in parted:
            found = (*found, *_parts(parted[at]))
        sick = "" if device.health is Health.OK else device.health_reason or device.health.value
        cells.append(
            Cell(
                number=at if device.index is None else device.index,
                state=_state(state, at, shared=at in shared),
                gang=holders.get(at, NOBODY),
                clique=device.clique,
                box=device.fabric_kind is FabricKind.BOX,
                sick=sick,
                uses=tuple(found),
            )
        )
    above = tuple(node.labels.get(label) for label in inventory.level_labels)
    loose = [gpu for gpu in state.parts if gpu.gpu.position is None]
    cells += [_parted_cell(state, gpu, len(cells) + at) for at, gpu in enumerate(loose)]
    return NodeRow(
        name=node.name,
        cells=tuple(cells),
        order=node.order,
        product=", ".join(node.products),
        ready=node.ready,
        why=node.reason,
        spare=node.spare,
        imex_gang=state.imex_gang or NOBODY,
        imex_member=inventory.others_called.get(node.name, "") if state.imex_gang == OTHERS_DOMAIN else "",
        above=above if any(above) else (),
    )


def _state(state: NodeState, at: int, *, shared: bool) -> str:
    """The same order as `figures_of` has it."""
    if state.held >> at & 1:
        return HELD
    if shared:
        return SHARED
    if state.busy >> at & 1:
        return OTHERS
    if state.free >> at & 1:
        return FREE
    if not state.node.ready:
        return LEFT_OUT
    return KEPT if state.healthy >> at & 1 else UNHEALTHY


def _uses(inventory: Inventory, state: NodeState) -> dict[int, tuple[Use, ...]]:
    """Position -> the shares that gangs have of it, those of pools included."""
    found: dict[int, dict[str, int]] = {}
    for gang in state.tenants:
        allocation = inventory.allocation(gang)
        for placed in allocation.bundles if allocation is not None else ():
            if placed.node != state.name:
                continue
            for grant in placed.grants:
                if grant.amount is None or grant.part is not None:
                    continue
                mask = state.mask_of((grant._replace(amount=None, own=False),))
                if mask:
                    by_gang = found.setdefault(mask.bit_length() - 1, {})
                    by_gang[gang] = by_gang.get(gang, 0) + grant.amount
    return {at: tuple(Use(gang, amount) for gang, amount in by_gang.items()) for at, by_gang in found.items()}


def _parts(gpu: GpuParts) -> tuple[Use, ...]:
    """What gangs and others have of a GPU in parts: what their claims have got, else what was planned."""
    profiles = gpu.table.profiles
    masks = {gang: gpu.placed.get(gang) or planned for gang, (_, planned) in gpu.held.items()}
    found = [Use(gang, parts=tuple(profiles[at] for at in bits(mask))) for gang, mask in masks.items()]
    if gpu.others:
        found.append(Use(NOBODY, parts=tuple(profiles[at] for at in bits(gpu.others))))
    return tuple(found)


def _parted_cell(state: NodeState, gpu: GpuParts, number: int) -> Cell:
    uses = _parts(gpu)
    well = gpu.gpu.health is Health.OK
    used = OTHERS if all(use.gang == NOBODY for use in uses) else SHARED
    now = used if uses else LEFT_OUT if not state.node.ready else FREE if well else UNHEALTHY
    sick = "" if well else gpu.gpu.health_reason or gpu.gpu.health.value
    return Cell(number, now, clique=state.node.clique, sick=sick, uses=uses, whole=False)
