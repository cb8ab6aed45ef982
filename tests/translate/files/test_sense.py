"""Snapshots and request files with anything in them: InvalidSnapshot with its place, or a right answer."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_dra
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest, InvalidSnapshot, RayDraError
from ray_dra.translate.files.snapshot import (
    Others,
    Snapshot,
    dump_snapshot,
    inventory_of,
    load_request,
    load_snapshot,
    read_snapshot,
    snapshot_of,
)
from tests.core.machines import DGX1, gang, node, rack
from tests.edge.hostile import EXTREMES, answers_or_refuses, hostile

ASKED = [gang(2), gang(4, 4, locality=Locality(cliques=1)), gang(1, 1, 1, locality=Locality(segment=1))]


def small() -> Snapshot:
    """A bit of everything."""
    nodes = [*rack("a", 2), node("box", 4, box=True, loose=[1]), node("dgx", 8, links=DGX1, sick=[1])]
    nodes[0] = replace(nodes[0], labels={"zone": "z"}, spare=True, order=3)
    inventory = Inventory(nodes)
    inventory.set_others("box", 0b0100, {"CPU": 3.0})
    for request in (
        gang(4, name="whole", resources={"CPU": 2.0}),
        replace(gang(1, name="part"), bundles=(Bundle((DeviceRequest(1, share=300),)),)),
    ):
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
    return snapshot_of(inventory)


SMALL = small()
"""The gangs are lists: [id, [[node, [[node, position, device, ...], ...], resources], ...], ...]."""

PLAIN: Any = yaml.safe_load(dump_snapshot(SMALL))


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(each, (*before, key))


PATHS = list(paths(PLAIN))


def changed(at: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The same with another value there."""
    if not path:
        return value
    made = copy.copy(at)
    made[path[0]] = changed(at[path[0]], path[1:], value)
    return made


def used(text: Any) -> Any:
    """A file's text, read, built, and asked."""
    snapshot = load_snapshot(text)
    inventory = inventory_of(snapshot)
    for request in ASKED:
        assert isinstance(plan_and_explain(inventory, request), (Allocation, Unsatisfiable))
    return snapshot


def judge(found: Any) -> None:
    if isinstance(found, RayDraError):
        assert isinstance(found, InvalidSnapshot), repr(found)
        assert found.place


@given(st.sampled_from(PATHS), hostile(json_only=True), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_snapshot_with_anything_anywhere(path: tuple[Any, ...], value: Any, as_yaml: bool) -> None:
    text = json.dumps(changed(PLAIN, path, value))
    judge(answers_or_refuses(lambda: used(("# yaml\n" if as_yaml else "") + text)))


def test_a_bundle_that_is_empty_is_refused() -> None:
    with pytest.raises(InvalidSnapshot):
        used(json.dumps(changed(PLAIN, ("gangs", 0, 1, 0), [])))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.update(nodez=p.pop("nodes")), "the snapshot"),
        (lambda p: p["nodes"][0].update(cpu=3), "nodes.0"),
        (lambda p: p["nodes"][0]["devices"][1].update(kinds="gpu"), "nodes.0.devices.1"),
        (lambda p: p["limits"].update(compute_domain=True), "limits"),
        (lambda p: p["nodes"].append(p["nodes"][0]), "node {0!r}"),
        (lambda p: p["nodes"][1]["devices"].__setitem__(0, p["nodes"][0]["devices"][0]), "node {1!r}"),
        (lambda p: p["nodes"][1]["devices"][0].update(uuid=p["nodes"][0]["devices"][0]["uuid"]), "node {1!r}"),
        (lambda p: p["nodes"][0]["resources"].update(CPU=-1), "node {0!r}.resources"),
        (lambda p: p["nodes"][0]["resources"].update(CPU=float("nan")), "node {0!r}.resources"),
        (lambda p: p["nodes"][0]["links"][0].__setitem__(1, 17), "node {0!r}.links"),
        (lambda p: p["nodes"][0]["links"].pop(), "node {0!r}.links"),
        (lambda p: p["nodes"][0]["links"][0].__setitem__(1, -18), "node {0!r}.links"),
        (lambda p: p["others"].update(nobody={}), "others of node 'nobody'"),
        (lambda p: p["others"]["box"].update(devices=[4]), "others of node 'box'.devices"),
        (lambda p: p["others"]["box"].update(devices=[-1]), "others of node 'box'.devices"),
        (lambda p: p["others"]["box"].update(devices=[10**12]), "others of node 'box'.devices"),
        (lambda p: p["others"]["box"].update(resources={"CPU": float("inf")}), "others of node 'box'.resources"),
        (lambda p: p["gangs"].append(p["gangs"][0]), "gang 'whole'"),
        (lambda p: p["gangs"].append(["x", *p["gangs"][0][1:]]), "gang x"),
        (lambda p: p["gangs"][0][1][0].__setitem__(0, "nobody"), "gang 'whole'.bundles.0"),
        (lambda p: p["gangs"][0][1][0][1][0].__setitem__(1, 99), "gang 'whole'.bundles.0"),  # the position
        (lambda p: p["gangs"][0][1][0][1][0].__setitem__(1, 1), "gang 'whole'.bundles.0"),
        (lambda p: p["gangs"][0][1][0][1][0].__setitem__(2, ["a", "b", "c"]), "gang 'whole'.bundles.0"),  # the device
        (lambda p: p["gangs"][0][1][0][2].update(CPU=-2), "gang 'whole'.bundles.0"),
    ],
)
def test_what_no_cluster_can_be(change: Any, named: str) -> None:
    made = copy.deepcopy(PLAIN)
    made.setdefault("limits", {})
    change(made)
    with pytest.raises(InvalidSnapshot) as caught:
        used(json.dumps(made))
    assert caught.value.place == named.format(*(n["name"] for n in PLAIN["nodes"]))
    assert caught.value.available or caught.value.__cause__


def test_devices_without_a_uuid_are_not_one_device() -> None:
    made = copy.deepcopy(PLAIN)
    for device in made["nodes"][0]["devices"]:
        device["uuid"] = None
    made["gangs"] = []
    assert {d.uuid for d in used(json.dumps(made)).nodes[0].devices} == {None}


def test_a_position_twice_is_that_position() -> None:
    """It was the sum: the next device was taken, and this one free."""
    inventory = inventory_of(replace(SMALL, others={"box": Others((0, 0))}, gangs=()))
    assert inventory.node_states["box"].busy == 1


@pytest.mark.parametrize("field", Snapshot.__dataclass_fields__)
def test_a_snapshot_by_hand(field: str) -> None:
    for value in EXTREMES:
        made = replace(SMALL, **{field: value})
        found = answers_or_refuses(lambda made=made: ray_dra.plan([{"GPU": 1}], cluster=made))  # type: ignore[misc]
        judge(found)


def test_a_gang_on_what_is_gone_is_left_out() -> None:
    """A node that is lost with a gang on it: the cluster can still be written down."""
    inventory = inventory_of(SMALL)
    on = next(a for g in inventory.gangs if (a := inventory.allocation(g)) is not None and a.gang == "whole")
    inventory.drop_node(on.nodes[0])
    assert inventory_of(load_snapshot(dump_snapshot(snapshot_of(inventory)))).free_devices == inventory.free_devices


REQUEST = {
    "bundles": [{"GPU": 2, "CPU": 4}],
    "count": 4,
    "strategy": "PACK",
    "locality": {"segment": 2, "required": False, "patience": 3, "connect": "required"},
    "product": ["X"],
    "priority": 2,
    "preemptible": True,
}

FIELDS = [
    *REQUEST,
    "locality.segment",
    "locality.cliques",
    "locality.required",
    "locality.patience",
    "locality.connect",
]


@given(st.sampled_from([*FIELDS, "locality.exclusive", "locality.nothing", "unknown"]), hostile(json_only=True))
@settings(max_examples=300, deadline=None)
def test_a_request_with_anything_anywhere(field: str, value: Any) -> None:
    made: dict[str, Any] = copy.deepcopy(REQUEST)
    if field.startswith("locality."):
        made["locality"][field.removeprefix("locality.")] = value
    else:
        made[field] = value
    found = answers_or_refuses(lambda: load_request(json.dumps(made)))
    if isinstance(found, RayDraError):
        assert isinstance(found, (InvalidSnapshot, InvalidRequest))
        assert found.place


def test_a_request_of_too_many_bundles() -> None:
    for count in (10**9, 10**400, 1.5, True, 0, -1):
        found = answers_or_refuses(lambda count=count: load_request(json.dumps({**REQUEST, "count": count})))  # type: ignore[misc]
        assert isinstance(found, InvalidRequest)
        assert found.place == "count"


def test_what_is_no_text() -> None:
    for value in EXTREMES:
        for call in (load_snapshot, load_request, read_snapshot):
            judge(answers_or_refuses(functools.partial(call, value)))


def test_what_is_no_cluster() -> None:
    for value in EXTREMES:
        if value is not None:  # the running one
            judge(answers_or_refuses(lambda value=value: ray_dra.plan([{"GPU": 1}], cluster=value)))  # type: ignore[misc]
