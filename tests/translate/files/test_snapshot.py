"""A cluster in a file answers as the cluster did; what is no such file is refused with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest, InvalidSnapshot
from ray_dra.translate.files.snapshot import (
    Snapshot,
    dump_snapshot,
    inventory_of,
    load_request,
    load_snapshot,
    snapshot_of,
)
from tests.core.machines import DGX1, gang, node, one_clique, picture, rack
from tests.core.parted import bundle, parted_node


@given(
    gangs=st.lists(
        st.tuples(
            st.lists(st.integers(1, 4), min_size=1, max_size=3),
            st.sampled_from([None, 1]),
            st.booleans(),
            st.sampled_from([None, 300]),
        ),
        max_size=5,
    ),
    busy=st.integers(0, 15),
    asked=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_the_file_answers_as_the_cluster_did(
    gangs: list[tuple[list[int], int | None, bool, int | None]], busy: int, asked: list[int]
) -> None:
    nodes = [*rack("a", 3), node("box", 8, box=True, loose=[2]), node("dgx", 8, links=DGX1, sick=[1])]
    nodes[0] = replace(nodes[0], labels={"zone": "z"}, spare=True)
    inventory = Inventory(nodes, Limits(compute_domains=True, domain_nodes=2))
    inventory.set_others("a-t1", busy, {"CPU": 3.0})
    inventory.set_others_domains(frozenset(["a-t2"] * (busy & 1)))
    for i, (sizes, cliques, exclusive, share) in enumerate(gangs):
        locality = Locality(cliques=cliques, exclusive=exclusive and cliques is not None)
        request = gang(*sizes, name=f"g{i}", locality=locality, resources={"CPU": 2}, priority=i)
        if share is not None:
            request = replace(request, bundles=(Bundle((DeviceRequest(1, share=share),)), *request.bundles[1:]))
        answer = plan(inventory, request)
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    text = dump_snapshot(snapshot_of(inventory))
    copy = inventory_of(load_snapshot(text))
    assert picture(copy) == picture(inventory)
    for locality in (Locality(), one_clique(), Locality(segment=1), Locality(cliques=2)):
        request = gang(*asked, locality=locality)
        assert plan_and_explain(copy, request) == plan_and_explain(inventory, request)
    assert inventory_of(load_snapshot(json.dumps(yaml.safe_load(text)))).free_devices == inventory.free_devices


def test_the_parts_that_a_gangs_claims_have_got_are_in_a_file() -> None:
    """The allocator gave 1g at start 5, not at 0: a 4g fits beside it."""
    inventory = Inventory([parted_node("n", 1)])
    held = plan(inventory, GangRequest("first", (bundle("1g.10gb"),)))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    (gpu,) = inventory.node_states["n"].parts
    got = next(name for name in gpu.names if name.endswith("1g10gb-0-5"))
    inventory.set_parts("n", {}, {"first": {gpu.gpu.uuid: gpu.names[got]}})
    asked = GangRequest("second", (bundle("4g.40gb"),))
    answer = plan(inventory, asked)
    assert isinstance(answer, Allocation)
    snapshot = load_snapshot(dump_snapshot(snapshot_of(inventory)))
    assert snapshot.placed == {"n": {"first": (got,)}}
    assert plan(inventory_of(snapshot), asked) == answer
    mistakes: tuple[Any, ...] = ({"m": {}}, {"n": {"first": ("nothing",)}}, {"n": 3}, 3)
    for wrong in mistakes:
        with pytest.raises(InvalidSnapshot) as caught:
            inventory_of(replace(snapshot, placed=wrong))
        assert caught.value.place.startswith("placed")


def test_a_file_says_the_clique_of_each_node_beside_its_name() -> None:
    nodes = (*rack("a", 1), node("box", 4, box=True, loose=[0]), node("dgx", 8, links=DGX1))
    text = dump_snapshot(Snapshot(nodes))
    written = yaml.safe_load(text)["nodes"]
    assert [n.get("clique") for n in written] == [n.clique for n in nodes] == [nodes[0].clique, nodes[1].clique, None]
    assert list(written[0])[:2] == ["name", "clique"]
    assert load_snapshot(text).nodes == nodes
    for plain_node in written:
        plain_node.pop("clique", None)
    assert load_snapshot(yaml.safe_dump({"nodes": written})).nodes == nodes, "a file of before says none"


@pytest.mark.parametrize("said", ["another.1", 3, ["a"]])
@pytest.mark.parametrize("at", [0, 1])
def test_a_clique_that_is_not_the_devices_is_refused(said: object, at: int) -> None:
    written = yaml.safe_load(dump_snapshot(Snapshot((*rack("a", 1), node("dgx", 8, links=DGX1)))))
    written["nodes"][at]["clique"] = said
    with pytest.raises(InvalidSnapshot) as caught:
        load_snapshot(json.dumps(written))
    assert caught.value.place == f"nodes.{at}.clique"
    assert caught.value.available


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{", "file"),
        ("nodes: 3", "nodes"),
        ("nodes: [{name: a, devices: [{id: [d, p, x], index: maybe, uuid: u}]}]", "nodes.0.devices.0.index"),
        ("nodes: []\nversion: 9", "version"),
    ],
)
def test_what_is_no_snapshot(text: str, place: str) -> None:
    with pytest.raises(InvalidSnapshot) as caught:
        load_snapshot(text)
    assert caught.value.place == place


def test_a_snapshot_that_contradicts_itself() -> None:
    inventory = Inventory(rack("a", 1))
    answer = plan(inventory, gang(4, name="one"))
    assert isinstance(answer, Allocation)
    twice = Snapshot(tuple(rack("a", 1)), (answer, answer._replace(gang="two")))
    with pytest.raises(InvalidSnapshot) as caught:
        inventory_of(twice)
    assert caught.value.place == "gang two"


def test_a_request_in_a_file() -> None:
    request = load_request(
        "bundles: [{GPU: 4, CPU: 8}]\ncount: 3\nlocality: {segment: 3}\npriority: 2\npreemptible: true"
    )
    assert [b.count for b in request.bundles] == [4, 4, 4]
    assert (request.locality.segment, request.priority, request.preemptible) == (3, 2, True)
    with pytest.raises(InvalidRequest):
        load_request("bundles: [{GPU: -1}]")
    with pytest.raises(InvalidSnapshot):
        load_request("bundles: 7")
