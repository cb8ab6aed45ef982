"""Fragmentation by what is likely to be asked for next, and a policy that adds the least of it.

The measure is FGD's (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
Fragmentation Gradient Descent", USENIX ATC 2023, section 3): what is left of a node's devices is useless to a
demand that the node cannot serve (all of it), or on devices that have too little left for it (that
much); F(node) is the expectation over the demands. In thousandths of a device.
"""

from __future__ import annotations

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
    """The place after which least is useless to what is likely to come; of equals, the fullest node.

    Differs from FGD's published rule (benchmarks/policies.py) in that the gradient is not rounded, and
    that a little of what is left on the node counts too, so that of places that are nearly as good the
    fuller is taken.
    """

    name = "gradient"
    by_clique = False

    def __init__(self, mix: Mix, fullness: float = 0.02) -> None:
        super().__init__()
        self.mix = mix
        self.fullness = fullness

    def seat(self, seat: Seat, needs: Needs, taken: int) -> Choice:
        return min(
            ((after - before + self.fullness * left, float(left)), at)
            for before, after, left, at in self.mix.before_and_after(seat, needs, taken)
        )
