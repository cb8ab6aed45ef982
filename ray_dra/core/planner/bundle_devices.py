"""How equal bundles take the devices of a node: whole ones, or a share of one each. Neighbour of `fold.py`."""

from __future__ import annotations

from ray_dra.core.cluster.device_choice import Masks, bits
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.allocation import Grant
from ray_dra.core.model.device_selector import DeviceCriteria
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
        return state.how_many(mask, self.size, Connect.REQUIRED if linked else Connect.ANY)

    def choose(self, state: NodeState, members: int, count: int) -> Masks:
        """Devices for each of `count` bundles; () where there are none."""
        usable = state.accepted(state.free & members, self.criteria)
        return state.split(usable, (self.size,) * count, self.connect) or ()

    def granted(self, state: NodeState, mask: int) -> tuple[Grant, ...]:
        """What a bundle gets of the devices chosen for it."""
        return state.granted(mask)

    def tightest(self, state: NodeState) -> int | None:
        """The position that a policy names with its choice: none, where bundles have whole devices."""
        return None


class ShareBundles(WholeBundles):
    """Bundles of so many thousandths of one device each."""

    def __init__(self, share: int, criteria: DeviceCriteria | None, connect: Connect) -> None:
        super().__init__(1, criteria, connect)
        self.share = share

    def capacity(self, state: NodeState, members: int) -> int:
        return sum(left // self.share for left, _ in self.open_to(state, members))

    def choose(self, state: NodeState, members: int, count: int) -> Masks:
        """Devices with least left first, so that whole devices stay whole."""
        found: list[int] = []
        for left, position in self.open_to(state, members):
            found += [1 << position] * min(left // self.share, count - len(found))
        return tuple(found)

    def granted(self, state: NodeState, mask: int) -> tuple[Grant, ...]:
        return (state.grants[mask.bit_length() - 1]._replace(amount=self.share),)

    def tightest(self, state: NodeState) -> int | None:
        """The device with least left that the share may lie on."""
        return next((at for left, at in self.open_to(state) if left >= self.share), None)

    def open_to(self, state: NodeState, members: int = ALL_DEVICES) -> list[tuple[int, int]]:
        """(thousandths left, position) of devices on which these bundles may lie at once, least left first.

        The only place that says so: whatever chooses a device for a share chooses among these.
        """
        shared = [(left, at) for at, left in state.shared_left().items() if members >> at & 1]
        if self.criteria is not None:
            shared = [(left, at) for left, at in shared if state.accepted(1 << at, self.criteria)]
        shared.sort()
        free = state.accepted(state.free & members, self.criteria)
        return shared + [(WHOLE, at) for at in bits(state.at_once(free))]
