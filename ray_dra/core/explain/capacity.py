"""Which shapes a cluster could serve now: how many whole GPUs, on a node and in a clique, and how many parts of each
profile.

Each number is the planner's own: so many are a yes, one more is a no. They exclude each other: parts are made of GPUs.
Neighbour: `whatif.py`, which starts from a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.cluster.clique_state import CLIQUE, SPARES
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.parts import PartCriteria, profile_order
from ray_dra.core.model.request import MAX_BUNDLES, MAX_DEVICES_PER_BUNDLE, Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.parts import PartsSearch
from ray_dra.core.planner.work import Work


class PartsCapacity(NamedTuple):
    """Parts of a profile.

    Attributes:
        most: as many as one gang could have.
        unbroken: as many of these as need no GPU that could be had whole.
    """

    profile: str
    most: int
    unbroken: int


class SegmentSize(NamedTuple):
    """For `Locality.segment`: so many whole nodes fill a clique and leave its spares.

    Attributes:
        nodes: of a clique, beside its spares; spares: how many these are.
        cliques: that are so.
    """

    nodes: int
    spares: int
    cliques: int


@dataclass(frozen=True, slots=True)
class ClusterCapacity:
    """What one more gang could have now; each number alone.

    Attributes:
        gpus: whole GPUs, anywhere; node: on one node; clique: in one NVLink clique.
        cliques: (GPUs, how many) of the cliques that a gang could have for itself, the largest first.
        parts: the largest profiles first.
        segments: of cliques over several nodes of which some are spares, whoever has what there now; the largest first.
    """

    gpus: int
    node: int
    clique: int
    cliques: tuple[tuple[int, int], ...]
    parts: tuple[PartsCapacity, ...] = ()
    segments: tuple[SegmentSize, ...] = ()


def capacity_now(inventory: Inventory) -> ClusterCapacity:
    """For a gang of priority 0 that asks for no products, labels or CPUs. Holds nothing."""
    one = Bundle((DeviceRequest(1),))

    def fits(*bundles: Bundle, locality: Locality | None = None) -> bool:
        request = GangRequest("capacity", bundles, locality or Locality())
        return isinstance(plan(inventory, request), Allocation)

    gpus = _most(lambda n: fits(*[one] * n), min(inventory.free_devices, MAX_BUNDLES))
    shape = FoldedRequest(GangRequest("capacity", (one,))).shape
    idle = [c for c in inventory.clique_states.values() if c.kind == CLIQUE and c.free and c.idle]
    sizes = Counter(clique.capacity(shape, inventory.limits) for clique in idle)
    return ClusterCapacity(
        gpus,
        _most(lambda n: fits(Bundle((DeviceRequest(n),))), min(gpus, MAX_DEVICES_PER_BUNDLE)),
        _most(lambda n: fits(*[one] * n, locality=Locality(cliques=1)), gpus),
        tuple(sorted(sizes.items(), reverse=True)),
        tuple(_parts(inventory)),
        _segments(inventory),
    )


def _segments(inventory: Inventory) -> tuple[SegmentSize, ...]:
    spares = {c.name: len(c.node_states) for c in inventory.clique_states.values() if c.kind == SPARES}
    racks = [c for c in inventory.clique_states.values() if c.kind == CLIQUE and c.fabric and c.name in spares]
    sizes = Counter((len(clique.node_states), spares[clique.name]) for clique in racks)
    return tuple(SegmentSize(*size, count) for size, count in sorted(sizes.items(), reverse=True))


def _parts(inventory: Inventory) -> list[PartsCapacity]:
    """Equal parts are counted over GPUs, as the planner does; those that are broken come first."""
    profiles = {p.profile for state in inventory.node_states.values() for gpu in state.parts for p in gpu.gpu.parts}
    found = []
    for profile in sorted(profiles, key=profile_order):
        bundle = Bundle((DeviceRequest(1, part=PartCriteria(profile)),))
        search = PartsSearch(inventory, GangRequest("capacity", (bundle,)), Work())
        each = [(search.capacity(0, gpu), gpu.whole) for gpus in search.gpus.values() for gpu in gpus]
        most = min(sum(count for count, _ in each), MAX_BUNDLES)
        unbroken = min(sum(count for count, whole in each if not whole), most)
        if most:
            found.append(PartsCapacity(profile, most, unbroken))
    return found


def _most(fits: Callable[[int], bool], high: int) -> int:
    """The largest number up to `high` that fits, by halving: what fits less than another fits, too."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
