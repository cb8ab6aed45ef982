"""Fragmentation by what is likely to be asked for next, and a policy that adds the least of it.

The measure is FGD's (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
Fragmentation Gradient Descent", USENIX ATC 2023, section 3): what is left of a node's devices is useless to a
demand that the node cannot serve (all of it), or on devices that have too little left for it (that
much); F(node) is the expectation over the demands. In thousandths of a device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ray_dra.core.devices import bits
from ray_dra.core.needs import Needs
from ray_dra.core.policy import Choice, Policy
from ray_dra.core.request import WHOLE
from ray_dra.core.seat import Seat


@dataclass(frozen=True, slots=True)
class Demand:
    """One kind of bundle that is likely to come.

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


Lefts = tuple[int, ...]
"""Thousandths left of each device that has any, ascending."""


class Mix:
    """The demands that are likely, and F for them."""

    def __init__(self, demands: Iterable[Demand]) -> None:
        self.demands = tuple(demands)
        self.names = tuple(sorted({name for d in self.demands for name, _ in d.resources}))
        self._of_product: dict[str | None, tuple[Demand, ...]] = {}
        self._known: dict[tuple[str | None, Lefts, tuple[float, ...]], float] = {}

    def unusable(self, product: str | None, lefts: Lefts, spare: tuple[float, ...]) -> float:
        """F: expected thousandths that the next bundle cannot use. `spare`: of each resource in `names`."""
        key = (product, lefts, spare)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > 500_000:
                self._known.clear()
            found = self._known[key] = self._unusable(product, lefts, spare)
        return found

    def _unusable(self, product: str | None, lefts: Lefts, spare: tuple[float, ...]) -> float:
        total = sum(lefts)
        whole = sum(left == WHOLE for left in lefts)
        have = dict(zip(self.names, spare, strict=True))
        result = 0.0
        for demand in self.demands:
            served = (
                demand.count > 0
                and (not demand.products or product in demand.products)
                and (whole >= demand.count if demand.share == WHOLE else bool(lefts) and lefts[-1] >= demand.share)
                and all(have[name] >= amount for name, amount in demand.resources)
            )
            result += demand.weight * (sum(n for n in lefts if n < demand.share) if served else total)
        return result

    def before_and_after(self, seat: Seat, needs: Needs, taken: int) -> list[tuple[float, float, int, int | None]]:
        """For each way to put one more bundle on a node: F before, F after, thousandths left, the device of a share."""
        shared = seat.shared_left()
        product = seat.node.devices[0].product if seat.node.devices else None
        free = seat.free.bit_count() - (0 if needs.share else taken * needs.size)
        resources = needs.classes[0].resources
        spare = tuple(seat.spare(n) - taken * resources.get(n, 0.0) for n in self.names)
        after = tuple(s - resources.get(n, 0.0) for n, s in zip(self.names, spare, strict=True))
        lefts = (*sorted(shared.values()), *(WHOLE,) * free)
        before = self.unusable(product, lefts, spare)
        if not needs.share:
            left = lefts[: len(lefts) - needs.size]
            return [(before, self.unusable(product, left, after), sum(left), None)]
        found: list[tuple[float, float, int, int | None]] = []
        open_devices = [(left, at) for at, left in shared.items()] + [(WHOLE, at) for at in bits(seat.free)[:1]]
        for amount, at in sorted(open_devices):
            if amount >= needs.share:
                rest = list(lefts)
                rest.remove(amount)
                if amount > needs.share:
                    rest.append(amount - needs.share)
                now = tuple(sorted(rest))
                found.append((before, self.unusable(product, now, after), sum(now), at))
        return found


class Gradient(Policy):
    """The place after which least is useless to what is likely to come; of nearly equal ones, the fullest node.

    Differs from FGD's published rule (benchmarks/policies.py) in two ways, both chosen by experiment
    (docs/planner.md):

    - For whole devices the gradient is rounded twice as coarsely. Small differences are mostly noise of
      the mix, and what decides between places that are nearly as good is fullness.
    - Demands for particular products are looked at apart and finely: what a node of a rare product
      loses for them cannot be had elsewhere, however small it looks beside the rest of the mix.
    """

    name = "ray-dra"
    by_clique = False

    def __init__(self, demands: Iterable[Demand]) -> None:
        super().__init__()
        demands = tuple(demands)
        self.general = Mix(d for d in demands if not d.products)
        self.particular = Mix(d for d in demands if d.products)

    def seat(self, seat: Seat, needs: Needs, taken: int) -> Choice:
        points = SHARE_POINTS if needs.share else POINTS
        ways = self.general.before_and_after(seat, needs, taken)
        if not self.particular.demands:
            return min(((-_steps(before - after, points), left), at) for before, after, left, at in ways)
        finely = self.particular.before_and_after(seat, needs, taken)
        return min(
            ((-_steps(before - after, points) + math.floor((now - was) / FINE + 0.5), left), at)
            for (before, after, left, at), (was, now, _, _) in zip(ways, finely, strict=True)
        )


POINTS, SHARE_POINTS = 50, 100
"""Steps that the gradient of the general mix is rounded to, over a sigmoid, for whole devices and for shares."""

FINE = 20.0
"""Thousandths of a device that are a step for demands of particular products."""


def _steps(saved: float, points: int) -> int:
    """Thousandths that become useful, in steps: a sigmoid, so that the first device counts most."""
    return int(points / (1.0 + math.exp(-saved / WHOLE)))
