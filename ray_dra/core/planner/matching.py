"""Which devices of a node a bundle accepts."""

from __future__ import annotations

from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.request import Bundle


def of_products(state: NodeState, mask: int, products: tuple[str, ...]) -> int:
    """The devices of `mask` that are one of `products`; all of them where none is named."""
    if not products:
        return mask
    return sum(1 << i for i, d in enumerate(state.node.devices) if mask >> i & 1 and d.product in products)


def products_of(bundle: Bundle) -> tuple[str, ...]:
    return tuple(p for d in bundle.devices for p in d.products)
