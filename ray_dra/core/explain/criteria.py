"""After a no: which class, product, capacity or version no device has, or too few. Neighbour of `shortfalls.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.device_selector import (
    MAX_PART,
    DeviceCriteria,
    Operator,
    Selector,
    Value,
    value_of,
)
from ray_dra.core.model.shortfall import CLUSTER, Choice, Place, PlaceKind, Shortfall, ShortfallKind, short
from ray_dra.core.planner.fold import FoldedRequest

SMALLER_IS_BETTER = (Operator.AT_MOST, Operator.LESS)


def unmet(node_states: Sequence[NodeState], criteria: DeviceCriteria, where: Place) -> list[Shortfall]:
    """Demands that no device of these nodes meets, whoever has it; empty where one device meets all.

    Args:
        where: the bundle that asks.
    """
    if _some(node_states, criteria):
        return []
    found = []
    if criteria.device_class and not _some(node_states, DeviceCriteria(criteria.device_class)):
        known = tuple(sorted({d.device_class for s in node_states for d in s.node.devices}))
        found.append(short(ShortfallKind.DEVICE_CLASS, where, criteria.device_class, known))
    if criteria.products and not _some(node_states, DeviceCriteria(products=criteria.products)):
        products = tuple(sorted({p for s in node_states for p in s.node.products}))
        found.append(short(ShortfallKind.PRODUCT, where, criteria.products, products))
    for selector in criteria.selectors:
        if not _some(node_states, DeviceCriteria(selectors=(selector,))):
            found.append(_attribute(node_states, selector))
    return found or [short(ShortfallKind.MATCHING, where, 1, 0, criteria=criteria)]


def totals_that_will_do(folded: FoldedRequest, node_states: Iterable[NodeState]) -> list[Shortfall]:
    """Where fewer devices are free that will do than the bundles that are particular have together."""
    wanted: dict[DeviceCriteria, int] = {}
    for bundle, count in zip(folded.classes, folded.counts, strict=True):
        criteria = bundle.criteria
        if criteria is not None and bundle.share is None:
            wanted[criteria] = wanted.get(criteria, 0) + bundle.count * count
    if not wanted:
        return []
    free = dict.fromkeys(wanted, 0)
    for state in node_states:
        for criteria in free:
            free[criteria] += state.accepted(state.free, criteria).bit_count()
    return [short(ShortfallKind.MATCHING, CLUSTER, n, free[c], criteria=c) for c, n in wanted.items() if free[c] < n]


def _some(node_states: Sequence[NodeState], criteria: DeviceCriteria) -> bool:
    return any(state.accepted(ALL_DEVICES, criteria) for state in node_states)


def _attribute(node_states: Sequence[NodeState], selector: Selector) -> Shortfall:
    """The nearest to what is asked for, and where it is."""
    has = [
        (value, state.name)
        for state in node_states
        for device in state.node.devices
        if (value := value_of(device, selector.name)) is not None
    ]
    if not has:
        return short(ShortfallKind.ATTRIBUTE, CLUSTER, selector.value, None, selector=selector)
    if selector.operator is Operator.EQUAL:
        best = min(has, key=lambda each: (_distance(each[0], selector.value), each[0]))
    else:
        best = (min if selector.operator in SMALLER_IS_BETTER else max)(has, key=lambda each: each[0])
    place = Place(PlaceKind.NODE, best[1], Choice.BEST)
    return short(ShortfallKind.ATTRIBUTE, place, selector.value, best[0], selector=selector)


def _distance(has: Value, wanted: Value) -> int:
    """How far two values of one kind are apart; of versions the first number that differs counts most."""
    return abs(_on_a_line(has) - _on_a_line(wanted))


def _on_a_line(value: Value) -> int:
    """A version as one number: each of its parts is under MAX_PART."""
    if isinstance(value, int):
        return value
    major, minor, patch = value
    return (major * MAX_PART + minor) * MAX_PART + patch
