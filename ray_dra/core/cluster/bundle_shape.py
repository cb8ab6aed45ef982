"""How a bundle asks for devices, and how many such bundles a node's free devices hold."""

from __future__ import annotations

from typing import NamedTuple

from ray_dra.core.cluster.node_state import REGULAR, UNEVEN, NodeState
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import WHOLE


class BundleShape(NamedTuple):
    """How bundles are counted on a node's free devices.

    `size` whole devices (or one device's `share` in thousandths), `linked` to each other, and with
    `spread` at most one bundle a node.
    """

    size: int
    linked: bool = False
    spread: bool = False
    share: int = 0

    def decided_by_count(self, grade: int) -> bool:
        """Whether the number of free devices on a node of this grade says how many bundles fit there."""
        return not self.share and (grade == REGULAR or (grade == UNEVEN and not self.linked))

    def least_free(self) -> int:
        """Free devices without which a clique holds none of these bundles."""
        return 0 if self.share else self.size

    def on_node(self, state: NodeState, members: int) -> int:
        """Bundles that fit on a node's devices in `members`, by devices alone."""
        mask = state.free & members
        if self.share:
            count = mask.bit_count() * (WHOLE // self.share)
            count += sum(left // self.share for at, left in state.shared_left().items() if members >> at & 1)
        else:
            connect = Connect.REQUIRED if self.linked else Connect.ANY
            count = state.graph.how_many(mask, self.size, connect)
        return 1 if self.spread and count else count
