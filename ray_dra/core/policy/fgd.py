"""Fragmentation by what is likely to be asked for next, and a policy that adds the least of it.

Measure and rule are FGD's (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
Fragmentation Gradient Descent", USENIX ATC 2023, section 3): what is left of a node's devices is useless to a
demand that the node cannot serve (all of it), or on devices that have too little left for it (that
much); F(node) is the expectation over the demands. In thousandths of a device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.request import WHOLE
from ray_dra.core.planner.bundle_devices import ShareBundles
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.policy.base import Choice, Policy


@dataclass(frozen=True, slots=True)
class Demand:
    """A class of bundles that is likely to come.

    Attributes:
        weight: how likely; the weights of a mix add up to 1.
        count: devices; 0 for a bundle without any.
        share: thousandths of its one device, WHOLE for whole ones.
        products: that will do; () for any.
        resources: (name, amount) of what it needs besides.
    """

    weight: float
    count: int
    share: int = WHOLE
    products: tuple[str, ...] = ()
    resources: tuple[tuple[str, float], ...] = ()


DevicesLeft = tuple[tuple[str, tuple[int, ...]], ...]
"""What a node's devices have left: (product, "" for none known; thousandths of each that has any, ascending)."""


class Way(NamedTuple):
    """One way to put a bundle on a node: F before and after, thousandths left after it, and the device of a share."""

    before: float
    after: float
    left: int
    device: int | None


class Mix:
    """The demands that are likely, and F for them."""

    def __init__(self, demands: Iterable[Demand]) -> None:
        self.demands = tuple(demands)
        self.names = tuple(sorted({name for d in self.demands for name, _ in d.resources}))
        self._known: dict[tuple[DevicesLeft, tuple[float, ...]], float] = {}

    def unusable(self, devices: DevicesLeft, resources_left: tuple[float, ...]) -> float:
        """F: expected thousandths that the next bundle cannot use. `resources_left`: of each resource in `names`."""
        key = (devices, resources_left)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > 500_000:
                self._known.clear()
            found = self._known[key] = self._unusable(devices, resources_left)
        return found

    def _unusable(self, devices: DevicesLeft, resources_left: tuple[float, ...]) -> float:
        have = dict(zip(self.names, resources_left, strict=True))
        total = sum(sum(lefts) for _, lefts in devices)
        result = 0.0
        for demand in self.demands:
            lost = total
            if demand.count and all(have[name] >= amount for name, amount in demand.resources):
                usable = [
                    left
                    for product, lefts in devices
                    if not demand.products or product in demand.products
                    for left in lefts
                    if left >= demand.share
                ]
                if len(usable) >= demand.count:
                    lost -= sum(usable)
            result += demand.weight * lost
        return result

    def ways(self, state: NodeState, folded: FoldedRequest, taken: int) -> list[Way]:
        """Each way to put one more bundle on a node that has room for it, `taken` of the gang's being there already."""
        resources = folded.classes[0].resources
        resources_left = tuple(state.left(n) - taken * resources.get(n, 0.0) for n in self.names)
        after = tuple(s - resources.get(n, 0.0) for n, s in zip(self.names, resources_left, strict=True))
        left = state.shared_left() | dict.fromkeys(bits(state.free), WHOLE)
        bundles = folded.devices
        if not isinstance(bundles, ShareBundles):
            masks = bundles.choose(state, ALL_DEVICES, taken + 1) if folded.size else ()
            left |= {at: 0 for mask in masks[:-1] for at in bits(mask)}
            now = left | {at: 0 for mask in masks[-1:] for at in bits(mask)}
            return [self._way(state, left, now, resources_left, after, None)]
        found: dict[tuple[str | None, int], Way] = {}  # devices that are alike are one way
        for amount, at in bundles.open_to(state):
            alike = (state.node.devices[at].product, amount)
            if amount >= bundles.share and alike not in found:
                now = left | {at: amount - bundles.share}
                found[alike] = self._way(state, left, now, resources_left, after, at)
        return list(found.values())

    def _way(
        self,
        state: NodeState,
        left: Mapping[int, int],
        now: Mapping[int, int],
        resources_left: tuple[float, ...],
        after: tuple[float, ...],
        device: int | None,
    ) -> Way:
        before = self.unusable(devices_left(state, left), resources_left)
        return Way(before, self.unusable(devices_left(state, now), after), sum(now.values()), device)


def devices_left(state: NodeState, left: Mapping[int, int]) -> DevicesLeft:
    """`left`: position -> thousandths."""
    found: dict[str, list[int]] = {}
    for at, amount in left.items():
        if amount:
            found.setdefault(state.node.devices[at].product or "", []).append(amount)
    return tuple((product, tuple(sorted(found[product]))) for product in sorted(found))


POINTS = 100
"""Steps that the gradient is rounded to, over a sigmoid."""


class FragmentationGradient(Policy):
    """FGD's published rule: the place after which least is useless to what is likely to come, in whole points of 100.

    Of places with as many points the first in topology order, and there the first device. Changes to the rule can be
    asked for; a change becomes the default only where it wins on lists that it was not chosen on (docs/benchmarks.md).

    Args:
        points: steps that the gradient is rounded to for whole devices; fewer leave more to what breaks ties.
        fullest: ties go to the node that is left with least.
        fine: thousandths of a device that are a step for demands of particular products, which are then looked at
            apart from the others; 0.0: they are not.
    """

    name = "fgd"
    by_clique = False

    def __init__(
        self, demands: Iterable[Demand], *, points: int = POINTS, fullest: bool = False, fine: float = 0.0
    ) -> None:
        super().__init__()
        demands = tuple(demands)
        self.points, self.fullest, self.fine = points, fullest, fine
        self.mix = Mix(d for d in demands if not (fine and d.products))
        self.particular = Mix(d for d in demands if fine and d.products)

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        points = self.points if folded.whole else POINTS
        ways = self.mix.ways(state, folded, taken)
        scores: list[float] = [-_steps(way.before - way.after, points) for way in ways]
        if self.particular.demands:
            for i, way in enumerate(self.particular.ways(state, folded, taken)):
                scores[i] += math.floor((way.after - way.before) / self.fine + 0.5)
        if self.fullest:
            return min(((score, way.left), way.device) for score, way in zip(scores, ways, strict=True))
        return min(((score,), way.device) for score, way in zip(scores, ways, strict=True))


def _steps(saved: float, points: int) -> int:
    """Thousandths that become useful, in steps: a sigmoid, so that the first device counts most."""
    return int(points / (1.0 + math.exp(-saved / WHOLE)))
