"""Every parameter of the api, given anything: a right answer or an error of ours, and nothing held."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_dra
from ray_dra import api
from ray_dra.adapters.ray_groups import Creator
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.order import Order, check_order
from ray_dra.core.gangs.repair import DEGRADE, on_fault
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import Bundle, DeviceRequest, Strategy
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import CoordinatorUnavailable, InvalidRequest, InvalidSnapshot, RayDraError
from ray_dra.program import orders as program_orders
from ray_dra.translate.files.records import gang_from_bytes, gang_to_bytes
from ray_dra.translate.files.snapshot import Snapshot
from ray_dra.translate.names import GPU_DOMAIN, RAY_NODE_ID
from ray_dra.translate.ray.bundles import ray_bundles
from tests.core.machines import node, rack
from tests.edge.hostile import EXTREMES, answers_or_refuses, hostile

GOOD: dict[str, Any] = {
    "bundles": [{"GPU": 4, "CPU": 8}] * 2,
    "strategy": None,
    "name": "",
    "lifetime": None,
    "_soft_target_node_id": None,
    "bundle_label_selector": None,
    "topology_strategy": None,
    "locality": None,
    "product": None,
    "devices": None,
    "part": None,
    "sharing": None,
    "pool": "",
    "confidential": False,
    "priority": 0,
    "preemptible": False,
    "movable": False,
    "wait": True,
    "runs_for": None,
    "queue": None,
    "on_fault": None,
    "grace": None,
    "min_bundles": None,
    "spares": 0,
}
OF_FAULTS = ("on_fault", "grace", "min_bundles", "spares")
ONLY_PLACED = (
    *("name", "movable", "lifetime", "_soft_target_node_id", "wait", "runs_for", "queue", "pool"),
    *OF_FAULTS,
)
CLUSTER = Snapshot((*rack("a", 2), node("box", 8, box=True)))
LOCALITIES: dict[str, tuple[str, ...]] = {
    "same_clique": ("segment", "required", "patience", "exclusive", "outside_speed"),
    "at_most_cliques": ("count", "required", "patience", "exclusive", "outside_speed"),
    "at_most": ("level", "count"),
}

FITTING: dict[str, dict[str, Any]] = {"at_most_cliques": {"count": 1}, "at_most": {"level": "leaf", "count": 1}}
KEPT_AS = {("at_most_cliques", "count"): "cliques", ("at_most", "count"): "domains"}


class Handle:
    """Stands for GangPlacementGroup: it would make Ray's placement group."""

    @classmethod
    def of(cls, order: Order, status: Any) -> Handle:
        assert order.request.strategy.value in Strategy.__members__
        bundles = ray_bundles(order.request)
        assert all(type(name) is str and type(n) is float and n > 0 for b in bundles for name, n in b.items())
        return cls()


@contextmanager
def no_ray() -> Iterator[list[Order]]:
    """The orders that would have gone to the coordinator; each one that travels and can be kept."""
    orders: list[Order] = []

    def submit(actor: Any, order: Order, soft_node: Any) -> None:
        check_order(pickle.loads(pickle.dumps(order)))
        record = Gang(
            *(order.request, 1, order.name, order.namespace, order.owner, order.detached),
            maker=order.maker,
            runs_for=order.runs_for,
            on_fault=order.on_fault if order.on_fault is not None else DEGRADE,
            team=order.team,
            spares=order.spares,
        )
        assert gang_from_bytes(gang_to_bytes(record)) == record
        orders.append(order)

    with pytest.MonkeyPatch.context() as patch:
        for module in (api, program_orders):
            patch.setattr(module, "coordinator_here", lambda: None)
            patch.setattr(module, "GangPlacementGroup", Handle)
        patch.setattr(program_orders, "_planned", submit)
        patch.setattr(api, "creator", lambda: Creator("01000000", "here", "", False))
        yield orders


def place(**given: Any) -> Any:
    return answers_or_refuses(lambda: ray_dra.placement_group(**{**GOOD, **given}))


def planned(**given: Any) -> Any:
    known = {name: value for name, value in {**GOOD, **given}.items() if name not in ONLY_PLACED}
    return answers_or_refuses(lambda: ray_dra.plan(**{"cluster": CLUSTER, **known}))


def judge(found: Any) -> None:
    """Refused with its place, or planned."""
    if isinstance(found, RayDraError):
        assert isinstance(found, (InvalidRequest, InvalidSnapshot)), repr(found)
        assert found.place, str(found)
    else:
        assert isinstance(found, (Allocation, Unsatisfiable, Handle))


def test_a_grace_is_for_what_may_end() -> None:
    """The cluster's default says what is done about faults, where the program says no more than the grace."""
    with no_ray() as submitted:
        for said in ({}, {"preemptible": False}):
            refused = place(grace=5, **said)
            assert isinstance(refused, InvalidRequest)
            assert refused.place == "grace"
        for wrong in (-1, "soon", 1e9):
            assert isinstance(place(grace=wrong, preemptible=True), InvalidRequest)
        place(grace=5, preemptible=True)
        place(grace=5, queue="team-a")  # of what a team has borrowed
        place(grace=5, preemptible=True, on_fault="restart")
        place(preemptible=True)
    assert [(each.on_fault, each.grace) for each in submitted] == [
        (None, 5),
        (None, 5),
        (on_fault("restart", 5.0), None),
        (None, None),
    ]
    assert [each.request.preemptible for each in submitted] == [True, False, True, True]


@pytest.mark.parametrize("parameter", GOOD)
def test_each_parameter_given_the_worst(parameter: str) -> None:
    with no_ray() as submitted:
        for value in EXTREMES:
            before = len(submitted)
            found = place(**{parameter: value})
            judge(found)
            assert len(submitted) == before + (not isinstance(found, RayDraError))
            if parameter not in ONLY_PLACED:
                judge(planned(**{parameter: value}))


@pytest.mark.parametrize("parameter", OF_FAULTS)
def test_what_is_declared_of_faults_given_the_worst(parameter: str) -> None:
    """Where each of them matters: in a gang that is repaired, and shrinks."""
    declared = {"on_fault": ("replace", "shrink", "restart"), "grace": 5, "min_bundles": 1, "spares": 2}
    with no_ray() as submitted:
        assert not isinstance(place(**declared), RayDraError)
        for value in EXTREMES:
            before = len(submitted)
            found = place(**{**declared, parameter: value})
            judge(found)
            assert len(submitted) == before + (not isinstance(found, RayDraError))


@given(data=st.data())
@settings(max_examples=500, deadline=None)
def test_any_parameters_given_anything(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(GOOD)), min_size=1, max_size=3, unique=True))
    given_ = {name: data.draw(hostile(), name) for name in names}
    with no_ray() as submitted:
        found = place(**given_)
        judge(found)
        assert len(submitted) == (not isinstance(found, RayDraError))
    judge(planned(**given_))


NAMES = st.sampled_from(["GPU", "CPU", "memory", "\ud800", ""])
NUMBERISH = st.sampled_from([1, 2, 4, 0.5, 8, 1e-5, True, "1"]) | hostile()
LABELS = st.sampled_from(["zone", "a/b", "\ud800", 5, None, "x" * 400, "-"])
TERMS = st.sampled_from(["v", "!v", "in(a,b)", "in(", "", "!in(a, b)", "x" * 64]) | hostile()


@given(
    bundles=st.lists(st.dictionaries(NAMES, NUMBERISH, max_size=3), max_size=3),
    selectors=st.none() | st.lists(st.dictionaries(LABELS, TERMS, max_size=2), max_size=3),
    topology=st.none() | st.dictionaries(st.sampled_from([GPU_DOMAIN, RAY_NODE_ID, "x"]), hostile(), max_size=2),
)
@settings(max_examples=1000, deadline=None)
def test_what_is_nearly_right(bundles: Any, selectors: Any, topology: Any) -> None:
    with no_ray():
        judge(place(bundles=bundles, bundle_label_selector=selectors, topology_strategy=topology))
    judge(planned(bundles=bundles, bundle_label_selector=selectors, topology_strategy=topology))


@pytest.mark.parametrize("name", LOCALITIES)
def test_localities(name: str) -> None:
    make = getattr(ray_dra, name)
    for parameter, value in itertools.product(LOCALITIES[name], EXTREMES):
        given_ = {**FITTING.get(name, {}), parameter: value}
        found = answers_or_refuses(lambda given_=given_: make(**given_))  # type: ignore[misc]
        if isinstance(found, RayDraError):
            assert found.place.startswith("locality")
        else:
            kept = getattr(found, KEPT_AS.get((name, parameter), parameter))
            assert type(kept) in (str if parameter == "level" else int, float, bool, type(None))
            judge(planned(locality=found))


def test_what_is_no_locality_by_and() -> None:
    for value in EXTREMES:
        for left, right in ((ray_dra.same_clique(), value), (value, ray_dra.best_connected())):
            found = answers_or_refuses(lambda left=left, right=right: left & right)  # type: ignore[misc]
            assert isinstance(found, InvalidRequest), type(value)
            assert found.place == "locality"


def test_numbers_of_numpy_are_numbers() -> None:
    with no_ray() as submitted:
        place(
            bundles=[{"GPU": np.int64(4), "CPU": np.float32(1.5)}] * 2,
            locality=ray_dra.same_clique(segment=np.uint8(1), required=False, patience=np.float16(2)),
            priority=np.int32(-3),
        )
    (order,) = submitted
    request = order.request
    assert request.bundles[0] == Bundle((DeviceRequest(4),), {"CPU": 1.5})
    assert (request.locality.segment, request.locality.patience, request.priority) == (1, 2.0, -3)
    assert {type(request.locality.segment), type(request.priority), type(request.locality.patience)} == {int, float}


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"priority": 1.9}, "priority"),
        ({"priority": 10**9 + 1}, "priority"),
        ({"name": 5}, "name"),
        ({"name": "a\udcff"}, "name"),
        ({"product": ["NVIDIA GB200", 5]}, "product"),
        ({"bundles": [{"GPU": 1, "\ud800": 0.5}]}, "a resource of bundles[0]"),
        ({"bundles": [{"GPU": 1, "CPU": 5e-324}]}, "bundles[0]['CPU']"),
        ({"bundles": [{"GPU": 1, "CPU": 10**400}]}, "bundles[0]['CPU']"),
        ({"bundles": [{"GPU": 1, f"r{i:060}": 1} for i in range(2000)]}, "bundles"),
        ({"bundles": [{"GPU": 1}] * 100_001}, "bundles"),
        ({"bundle_label_selector": [{"a": "in(b"}, {}]}, "bundle_label_selector[0]['a']"),
        ({"wait": 1}, "wait"),
    ],
)
def test_the_place_is_named(given_: dict[str, Any], named: str) -> None:
    with no_ray():
        found = place(**given_)
    assert isinstance(found, InvalidRequest)
    assert found.place == named
    assert found.wanted
    assert found.available


def test_what_a_pool_has_besides_and_a_locality_as_a_label() -> None:
    with no_ray() as submitted:
        for value in EXTREMES:
            before = len(submitted)
            found = answers_or_refuses(
                lambda value=value: ray_dra.pool("p", sharing=ray_dra.time_slicing(), resources=value)  # type: ignore[misc]
            )
            judge(found)
            assert len(submitted) == before + (not isinstance(found, RayDraError))
            found = answers_or_refuses(lambda value=value: ray_dra.label_selector(value))  # type: ignore[misc]
            assert isinstance(found, InvalidRequest)
            assert found.place == "locality"


def test_where_ray_is_not_connected_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of Ray's own calls start a cluster there."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: pytest.fail("this starts a cluster"))
    with pytest.raises(CoordinatorUnavailable, match="not connected"):
        ray_dra.placement_group([{"GPU": 1}])


def test_when_a_gang_starts_is_asked_of_a_running_cluster() -> None:
    for given_, place in (({"when": True}, "when"), ({"runs_for": 10.0}, "runs_for"), ({"when": 1}, "when")):
        with pytest.raises(InvalidRequest, match=rf"where: {place}\n"):
            ray_dra.plan([{"GPU": 1}], cluster=CLUSTER, **given_)
