"""Small topologies for the core's tests, built straight from core values (no NVML, no simulation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_order import Buckets
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.clique import box_clique
from ray_dra.core.model.device import Device, DeviceId, FabricKind, Health
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Links, Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.plan import plan

# facts: rows of a DGX-1 V100, links between each two GPUs
DGX1: Links = tuple(
    tuple(int(c) for c in row)
    for row in ["01122000", "10210200", "12020010", "21200001", "20000112", "02001021", "00101202", "00012120"]
)


def group_id(name: str) -> str:
    """The id of a placement group as Ray gives one; of at most 18 characters."""
    return name.encode().hex().zfill(36)


def node(
    name: str,
    gpus: int,
    *,
    clique: str | None = None,
    box: bool = False,
    links: Links | None = None,
    numa: Sequence[int] | None = None,
    product: str = "NVIDIA H100 80GB HBM3",
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    order: int | None = None,
    loose: Sequence[int] = (),
    sick: Sequence[int] = (),
) -> Node:
    """A node whose GPUs are all in `clique` (or in a box clique of its own), except those in `loose`."""
    clique = box_clique(name) if box else clique
    if links is None:
        linked = clique is not None
        links = tuple(
            tuple(18 if linked and i != j and i not in loose and j not in loose else 0 for j in range(gpus))
            for i in range(gpus)
        )
    devices = tuple(
        Device(
            id=DeviceId("gpu.nvidia.com", name, f"gpu-{i}"),
            index=i,
            uuid=f"GPU-{name}-{i}",
            attributes={"product": product, "numa": numa[i] if numa else (0 if i < gpus / 2 else 1)},
            domains=(clique,) if clique is not None and i not in loose else (),
            health=Health.TAINTED if i in sick else Health.OK,
            fabric_kind=FabricKind.BOX if box else FabricKind.MULTI_NODE,
        )
        for i in range(gpus)
    )
    return Node(
        name=name,
        devices=devices,
        ray_node_id=f"ray-{name}",
        links=links,
        resources=dict(resources) if resources is not None else {"CPU": 64.0},
        labels=dict(labels or {}),
        order=order,
    )


def rack(clique: str, trays: int, gpus: int = 4, *, prefix: str = "") -> list[Node]:
    """`trays` nodes of one multi-node clique."""
    return [node(f"{prefix or clique}-t{i}", gpus, clique=clique, order=i) for i in range(trays)]


def gang(
    *sizes: int,
    name: str = "g",
    locality: Locality | None = None,
    strategy: Strategy = Strategy.PACK,
    resources: Mapping[str, float] | None = None,
    products: tuple[str, ...] = (),
    priority: int = 0,
) -> GangRequest:
    bundles = tuple(
        Bundle((DeviceRequest(size, products=products),) if size else (), dict(resources or {})) for size in sizes
    )
    return GangRequest(name, bundles, locality or Locality(), strategy, priority)


def one_clique(*, required: bool = True, connect: Connect = Connect.PREFERRED) -> Locality:
    return Locality(cliques=1, required=required, connect=connect)


SHAPES = [
    BundleShape(size, linked, spread) for size in (1, 2, 3, 4) for linked in (False, True) for spread in (False, True)
]


def picture(inventory: Inventory) -> dict[str, object]:
    """Everything that an inventory knows, as plain data: two that are alike have equal pictures."""
    orders = {}
    for key, order in inventory.orders.items():
        if order.cliques:
            capacities = {shape: order.buckets(shape) for shape in SHAPES}
            orders[key] = (
                [[order.at(rank).id for rank in level] for level in order.levels if level],
                {
                    m: {n: [order.at(r).id for r in ranks] for n, ranks in b.lists.items()}
                    for m, b in capacities.items()
                },
                {m: b.present for m, b in capacities.items() if isinstance(b, Buckets)},
            )
    return {
        "nodes": {
            s.name: (
                s.free,
                s.held,
                s.busy,
                s.shares,
                s.imex_gang,
                s.tenants,
                {r: round(n, 6) for r, n in s.used.items() if n},
            )
            for s in sorted(inventory.node_states.values(), key=lambda s: s.name)
        },
        "cliques": {
            d.id: (
                d.free,
                d.size,
                d.owner,
                d.imex_nodes,
                [s.name for s in d.node_states],
                [m for m in d.nodes_by_free if m],
                d.grade,
                d.product,
            )
            for d in sorted(inventory.clique_states.values(), key=lambda d: d.key)
        },
        "orders": dict(sorted(orders.items())),
        "shared": inventory.shared,
        "split": sorted(inventory.split),
        "by_free": [n for n in inventory.by_free if n],
        "counts": (inventory.devices, inventory.free_devices, inventory.held_devices, inventory.busy_devices),
    }


def held(inventory: Inventory, request: GangRequest) -> Allocation:
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation), answer
    inventory.hold(answer)
    return answer


def shares(*amounts: int, name: str = "s") -> GangRequest:
    return GangRequest(name, tuple(Bundle((DeviceRequest(1, share=a),)) for a in amounts))
