"""How equal bundles take the devices of a node: whole ones, or a share of one each. Neighbour of `fold.py`."""

from __future__ import annotations

from ray_dra.core.cluster.device_choice import Masks, bits
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.allocation import Grant
from ray_dra.core.model.device_selector import MEMORY, DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing, why_not_shared
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import WHOLE


class WholeBundles:
    """Bundles of `size` whole devices each."""

    def __init__(self, size: int, criteria: DeviceCriteria | None, connect: Connect) -> None:
        self.size = size
        self.criteria = criteria
        self.connect = connect

    def capacity(self, state: NodeState, members: int) -> int:
        """Bundles that the devices in `members` hold at once. Exact."""
        linked = self.connect is Connect.REQUIRED and self.size > 1
        mask = state.accepted(state.free & members, self.criteria)
        return state.graph.how_many(mask, self.size, Connect.REQUIRED if linked else Connect.ANY)

    def choose(self, state: NodeState, members: int, count: int) -> Masks:
        """Devices for each of `count` bundles; () where there are none."""
        usable = state.accepted(state.free & members, self.criteria)
        return state.graph.split(usable, (self.size,) * count, self.connect) or ()

    def granted(self, state: NodeState, mask: int) -> tuple[Grant, ...]:
        """What a bundle gets of the devices chosen for it."""
        return state.granted(mask)

    def tightest(self, state: NodeState) -> int | None:
        """The position that a policy names with its choice: none, where bundles have whole devices."""
        return None


class ShareBundles(WholeBundles):
    """Bundles of so many thousandths of one device each; `sharing`: of devices that are their gang's own."""

    def __init__(
        self, share: int, criteria: DeviceCriteria | None, connect: Connect, sharing: GpuSharing | None = None
    ) -> None:
        super().__init__(1, criteria, connect)
        self.share = share
        self.sharing = sharing

    def capacity(self, state: NodeState, members: int) -> int:
        return sum(self._most(state, *each) for each in self.open_to(state, members))

    def _most(self, state: NodeState, left: int, position: int) -> int:
        """How many of these bundles a device of which so much is left holds."""
        return min(left // self.share, most_on(state, position, self.sharing))

    def choose(self, state: NodeState, members: int, count: int) -> Masks:
        """Devices with least left first, so that whole devices stay whole."""
        found: list[int] = []
        for left, position in self.open_to(state, members):
            found += [1 << position] * min(self._most(state, left, position), count - len(found))
        return tuple(found)

    def granted(self, state: NodeState, mask: int) -> tuple[Grant, ...]:
        return (state.grants[mask.bit_length() - 1]._replace(amount=self.share, own=self.sharing is not None),)

    def tightest(self, state: NodeState) -> int | None:
        """The device with least left that the share may lie on."""
        return next((at for left, at in self.open_to(state) if left >= self.share), None)

    def open_to(self, state: NodeState, members: int = ALL_DEVICES) -> list[tuple[int, int]]:
        """(thousandths left, position) of devices on which these bundles may lie at once, least left first.

        The only place that says so: whatever chooses a device for a share chooses among these.
        """
        if self.sharing is not None:
            if why_not_shared(state.node.unshared, self.sharing.kind):
                return []
            return [(WHOLE, at) for at in bits(state.accepted(state.free & members, self.criteria))]
        shared = [(left, at) for at, left in state.shared_left().items() if members >> at & 1]
        if self.criteria is not None:
            shared = [(left, at) for left, at in shared if state.accepted(1 << at, self.criteria)]
        shared.sort()
        free = state.accepted(state.free & members, self.criteria)
        return shared + [(WHOLE, at) for at in bits(free)]


def most_on(state: NodeState, position: int, sharing: GpuSharing | None) -> int:
    """How many bundles may have a share of a device, whatever their shares."""
    return WHOLE if sharing is None else sharing.most_on(state.node.devices[position].capacity.get(MEMORY))
