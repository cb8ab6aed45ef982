"""Confidential gangs: what can be asked, on which nodes they go, what their workers and claims are. No hardware has
shown any of it: the objects are golden, and the rest runs on the fake Kubernetes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeNode, Placing
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.confidential import is_confidential
from ray_dra.translate.ray.devices import mig
from tests.coordinator.kubernetes_world import World
from tests.translate.kube.objects import cluster, read

GOLDEN = Path(__file__).parent.parent / "golden"
KATA = "kata-qemu-nvidia-gpu-snp"
PASSED = frozenset({"PassthroughSupport"})
MACHINES = simulated_nodes("hgx-h100", nodes=4)


def labels(mode: str, state: str | None = None, ready: str = "true") -> dict[str, str]:
    return {
        "nvidia.com/cc.mode": mode,
        "nvidia.com/cc.mode.state": mode if state is None else state,
        "nvidia.com/cc.ready.state": ready,
        "nvidia.com/gpu.count": "8",
    }


def published(at: int, told: dict[str, str], gates: frozenset[str] = PASSED) -> tuple[KubeNode, list[dict[str, Any]]]:
    machine = MACHINES[at]
    kube = KubeNode(machine.name, labels=told, cpus=64, memory=512 << 30)
    return kube, slices(gpu_pool(machine, {}, gates), machine.name, 1)


def node(at: int, told: dict[str, str], gates: frozenset[str] = PASSED) -> Node:
    kube, pool = published(at, told, gates)
    return node_from_slices(kube, read(pool), Placing(runtime=KATA))


def kata_cluster(runtime: str | None = KATA) -> dict[str, Any]:
    made = cluster()
    if runtime:
        made["spec"]["workerGroupSpecs"][0]["template"]["spec"]["runtimeClassName"] = runtime
    return made


def ask(count: int = 1, bundles: int = 1, confidential: bool | str = True, **more: Any) -> GangRequest:
    return request_from_bundles([{"GPU": float(count)}] * bundles, confidential=confidential, **more)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (lambda: ask(confidential="off"), "is a mode"),
        (lambda: ask(confidential="yes"), "is a mode"),
        (lambda: ask(part=mig("1g.10gb")), "part or a share"),
        (lambda: request_from_bundles([{"GPU": 1}, {"GPU": 8}], confidential=True), "several sizes"),
        (lambda: request_from_bundles([{"GPU": 1}, {"CPU": 8}], confidential=True), "several sizes"),
        (lambda: ask(confidential="ppcie"), "one GPU in mode ppcie"),
        (lambda: ask(8, 2, locality=Locality(cliques=1)), "NVLink between boxes is not there"),
        (lambda: ask(8, 2, strategy="STRICT_PACK"), "STRICT_PACK"),
        (lambda: ask(selectors=[{"nvidia.com/cc.mode": "off"}]), "bundle_label_selector"),
    ],
)
def test_what_no_confidential_machine_has_is_refused_with_the_nearest(request_: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        request_()
    assert caught.value.available


def test_each_bundle_has_a_node_of_its_own() -> None:
    request = ask(1, 3)
    assert request.strategy is Strategy.STRICT_SPREAD
    assert is_confidential(request.bundles)
    assert len({id(bundle) for bundle in request.bundles}) == 1, "equal bundles are one object"
    assert not is_confidential(request_from_bundles([{"GPU": 1}]).bundles)


@pytest.mark.parametrize(
    ("told", "gates", "fits"),
    [
        (labels("on"), PASSED, True),
        (labels("ppcie"), PASSED, False),  # no mixing: a gang is in the mode that it names
        (labels("off"), PASSED, False),
        (labels("on", state="off"), PASSED, False),  # the mode is being changed
        (labels("on", state="failed"), PASSED, False),
        (labels("on", ready="false"), PASSED, False),
        ({}, PASSED, False),
        (labels("on"), frozenset[str](), False),  # nothing there can be passed through
    ],
)
def test_nodes_are_chosen_by_their_mode(told: dict[str, str], gates: frozenset[str], fits: bool) -> None:
    answer = plan(Inventory([node(0, told, gates)]), ask())
    assert isinstance(answer, Allocation) is fits
    if isinstance(answer, Unsatisfiable):
        assert ShortfallKind.LABELS in {shortfall.kind for shortfall in answer.shortfalls}


def test_a_gang_is_never_in_two_modes_and_whole_boxes_are_whole() -> None:
    inventory = Inventory([node(0, labels("on")), node(1, labels("ppcie")), node(2, labels("ppcie")), node(3, {})])
    boxes = plan(inventory, ask(8, 2, "ppcie"))
    assert isinstance(boxes, Allocation)
    assert set(boxes.nodes) == {MACHINES[1].name, MACHINES[2].name}
    assert isinstance(plan(inventory, ask(8, 2)), Unsatisfiable), "one node is in mode on"
    assert isinstance(plan(inventory, ask(4, 1, "ppcie")), Unsatisfiable), "half a box"
    assert isinstance(plan(inventory, ask(1, 2)), Unsatisfiable), "two workers would be one machine with two GPUs"


@pytest.mark.parametrize(("file", "gpus", "mode"), [("one", 1, "on"), ("box", 8, "ppcie")])
def test_objects_are_as_reviewed(file: str, gpus: int, mode: str) -> None:
    nodes = [node(at, labels(mode)) for at in range(2)]
    request = ask(gpus, 2, mode)
    allocation = plan(Inventory(nodes), GangRequest("g", request.bundles, strategy=request.strategy))
    assert isinstance(allocation, Allocation)
    buses = {d.uuid: str(d.attributes["pciBusID"]) for each in nodes for d in each.devices}
    attempt = attempt_of(
        allocation,
        read_raycluster(kata_cluster()),
        compute_domains=True,
        asked=request.bundles,
        buses=lambda node, uuid: buses.get(uuid),
    )
    assert not attempt.domains
    content: list[dict[str, Any]] = []
    for number, slot in enumerate(attempt.slots.values()):
        assert slot.clique is None
        content += [*attempt.claims(slot, f"uid-{number}").values(), attempt.pod(slot)]
    golden = GOLDEN / f"confidential-{file}.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))
    with pytest.raises(InvalidRequest, match="Nothing tells where"):
        attempt_of(allocation, read_raycluster(kata_cluster()), compute_domains=False, asked=request.bundles)


@pytest.mark.parametrize("runtime", [None, "gvisor", "kata-qemu"])
def test_without_confidential_workers_nothing_is_held(runtime: str | None) -> None:
    world = World(there=[published(0, labels("on"))], raycluster=kata_cluster(runtime))
    with pytest.raises(InvalidRequest, match="makes no confidential workers"):
        world.coordinator.submit(Order(ask(), owner="job"))
    assert not world.coordinator.gangs


def test_ordinary_gangs_keep_off_nodes_in_a_confidential_mode_and_clusters_of_such_workers() -> None:
    there = [published(0, labels("on")), published(1, labels("on", state="off")), published(2, labels("off"))]
    world = World(there=there, raycluster=cluster())
    whole = Order(request_from_bundles([{"GPU": 8}] * 2), owner="job")
    status = world.coordinator.submit(whole)
    assert status.allocation is not None
    assert MACHINES[0].name not in status.allocation.nodes
    assert "confidential mode on" in world.coordinator.inventory.node_states[MACHINES[0].name].node.reason
    with pytest.raises(InvalidRequest, match="confidential=True"):
        World(there=there, raycluster=kata_cluster()).coordinator.submit(whole)


def test_a_gang_gets_its_machines_and_nobody_else_their_gpus() -> None:
    """Through the coordinator: what is passed through is the very GPU that was planned, and is taken by that."""
    world = World(there=[published(at, labels("on")) for at in range(2)], raycluster=kata_cluster())
    status = world.coordinator.submit(Order(ask(1, 2), owner="job"))
    assert world.drive(status.gang) is Phase.READY
    assert sorted(device.rpartition("-")[0] for _, device in world.kube.claimed()) == ["gpu-vfio"] * 2
    ordinary = replace(request_from_bundles([{"GPU": 1}] * 2), gang=status.gang)
    with pytest.raises(InvalidRequest, match="confidential=True"):  # its next shape would be no confidential gang
        world.coordinator.reshape(status.gang, ordinary, 60, 60)
    others = [world.coordinator.submit(Order(ask(1, 2), owner="job")).gang for _ in range(7)]
    assert all(world.drive(gang) is Phase.READY for gang in others)
    assert len(set(world.kube.claimed())) == 16
    assert world.coordinator.submit(Order(ask(), owner="job")).phase is Phase.QUEUED
    for gang in list(world.coordinator.gangs):
        world.coordinator.release(gang)
    world.settle()
