"""Claims on GPUs of other vendors, and on GPUs that are passed through, against Kubernetes' own allocator.

Beside devices of every type that a driver publishes each claim gets what was planned, in any order, and no CEL of ours
is an error on a device that is not meant. By hand, as test_allocator.py.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode, Placing
from ray_dra.translate.kube.attempts import Attempt, attempt_of
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.names import DRIVER_ANNOTATION
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import gpu, partition
from ray_dra.translate.vendors import AMD, BUS_ATTRIBUTE, INTEL
from tests.cluster.test_allocator import Allocator, allocator
from tests.translate.kube import amd, intel
from tests.translate.kube.objects import cluster, read
from tests.translate.ray.test_confidential import KATA, MACHINES, kata_cluster, labels, published

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(600)]
__all__ = ["allocator"]  # the fixture

# As the driver's chart has it: partitions and GPUs passed through are of the class, too.
AMDS_CLASS = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "DeviceClass",
    "metadata": {"name": AMD.device_class},
    "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{AMD.driver}'"}}]},
}


def amds_node(dice: random.Random, name: str) -> list[dict[str, Any]]:
    """GPUs of every kind, in any order; of one that is partitioned no other device is whole."""
    devices: list[dict[str, Any]] = []
    counted = []
    for at in range(8):
        match dice.choice(("whole", "whole", "twin", "partitioned", "on demand")):
            case "whole":
                devices.append(amd.gpu(at))
            case "twin":
                devices += [amd.gpu(at), amd.passed_through(at)]
            case "partitioned":
                made = amd.partition(at, 0)
                devices += [{**made, "name": f"{made['name']}-{number}"} for number in range(8)]
            case "on demand":
                modes = [amd.on_demand(at, mode) for mode in ("spx-nps1", "dpx-nps1", "cpx-nps4")]
                devices += [{k: v for k, v in each.items() if k != "allowMultipleAllocations"} for each in modes]
                counted.append(at)
    dice.shuffle(devices)
    return amd.slices(name, devices[:60], [c for at, c in enumerate(amd.counters(8)) if at in counted])


def versioned(each: dict[str, Any]) -> dict[str, Any]:
    spec = each["spec"]
    return {**each, "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "spec": spec}


def claims_of(attempt: Attempt) -> list[tuple[str, list[dict[str, Any]]]]:
    made = []
    for number, (node, slot) in enumerate(attempt.slots.items()):
        claims = list(attempt.claims(slot, f"uid-{number}").values())
        for claim in claims:
            claim["metadata"]["uid"] = f"{claim['metadata']['name']}-{number}"
        made.append((node, claims))
    return made


@pytest.mark.parametrize("seed", range(8))
def test_amds_gpus_are_given_as_planned(allocator: Allocator, seed: int) -> None:
    dice, told, given = random.Random(seed), cluster(), 0
    told["metadata"]["annotations"] = {DRIVER_ANNOTATION: AMD.driver}
    for _ in range(25):
        pools = {f"n{at}": amds_node(dice, f"n{at}") for at in range(3)}
        nodes = [node_from_slices(KubeNode(name, cpus=64), read(pool)) for name, pool in pools.items()]
        inventory, pods, wanted = Inventory(nodes), [], {}
        for _ in range(6):
            criteria = dice.choice((None, gpu(memory=">=80G"), gpu(driver_version=">=6", product=amd.PRODUCT)))
            request = request_from_bundles([{"GPU": dice.randint(1, 4)}] * dice.randint(1, 2), devices=criteria)
            answer = plan(inventory, request)
            if not isinstance(answer, Allocation):
                continue
            inventory.hold(answer)
            asked = request.bundles
            attempt = attempt_of(answer, read_raycluster(told), compute_domains=False, asked=asked)
            for node, claims in claims_of(attempt):
                here = [g.device.device for b in answer.bundles for g in b.grants if g.node == node]
                wanted[claims[0]["metadata"]["uid"]] = sorted(here)
                pods.append((node, claims))
        dice.shuffle(pods)
        everything = [versioned(each) for pool in pools.values() for each in pool]
        answers = allocator.ask(everything, [], pods, [AMDS_CLASS])
        for (_, claims), got in zip(pods, answers, strict=True):
            assert got is not None
            assert sorted(got[0]) == wanted[claims[0]["metadata"]["uid"]]
            given += len(got[0])
    assert given > 100


@pytest.mark.parametrize("seed", range(4))
def test_amds_partitions_are_given_as_planned(allocator: Allocator, seed: int) -> None:
    """In any order: those of one GPU are alike, so no claim takes what another needs."""
    dice, told, given = random.Random(seed), cluster(), 0
    told["metadata"]["annotations"] = {DRIVER_ANNOTATION: AMD.driver}
    for _ in range(25):
        pools = {
            name: amd.partitioned(name, [dice.choice(("", "dpx_nps1", "cpx_nps4")) for _ in range(6)])
            for name in ("n0", "n1")
        }
        said = {
            (name, device["name"]): device["attributes"]
            for name, (pool,) in pools.items()
            for device in pool["spec"]["devices"]
        }
        nodes = [node_from_slices(KubeNode(name, cpus=64), read(pool)) for name, pool in pools.items()]
        inventory, pods, wanted = Inventory(nodes), [], []
        for _ in range(6):
            part = dice.choice((None, "cpx_nps4", "dpx_nps1"))
            some = [{"GPU": 1}] * dice.randint(1, 9)
            request = request_from_bundles(some, part=None if part is None else partition(part))
            answer = plan(inventory, request)
            if not isinstance(answer, Allocation):
                continue
            inventory.hold(answer)
            attempt = attempt_of(answer, read_raycluster(told), compute_domains=False, asked=request.bundles)
            for node, claims in claims_of(attempt):
                grants = [g for b in answer.bundles for g in b.grants if g.node == node]
                planned = Counter((g.part.parent, g.part.profile) if g.part else (g.uuid, "spx_nps1") for g in grants)
                pods.append((node, claims))
                wanted.append(planned)
        everything = [versioned(each) for pool in pools.values() for each in pool]
        order = dice.sample(range(len(pods)), len(pods))
        answers = allocator.ask(everything, [], [pods[at] for at in order], [AMDS_CLASS])
        for at, got in zip(order, answers, strict=True):
            assert got is not None
            node = pods[at][0]
            has = [said[node, device] for devices in got for device in devices]
            kinds = ((a[BUS_ATTRIBUTE]["string"], a["partitionProfile"]["string"]) for a in has)
            assert Counter((f"{node}/{bus}", profile) for bus, profile in kinds) == wanted[at]
            given += len(has)
    assert given > 100


@pytest.mark.parametrize("seed", range(4))
def test_intels_gpus_are_given_as_planned(allocator: Allocator, seed: int) -> None:
    """Beside virtual functions, of which nothing says whose they are."""
    dice, told, given = random.Random(seed), cluster(), 0
    told["metadata"]["annotations"] = {DRIVER_ANNOTATION: INTEL.driver}
    of_intel = {**AMDS_CLASS, "metadata": {"name": INTEL.device_class}}
    of_intel["spec"] = {"selectors": [{"cel": {"expression": f"device.driver == '{INTEL.driver}'"}}]}
    for _ in range(25):
        pools = {}
        for name in ("n0", "n1"):
            devices = [make(at) for at in range(8) for make in (intel.gpu, intel.virtual_function)]
            dice.shuffle(devices)
            pools[name] = intel.slices(name, devices)
        nodes = [node_from_slices(KubeNode(name, cpus=64), read(pool)) for name, pool in pools.items()]
        inventory, pods, wanted = Inventory(nodes), [], []
        for _ in range(4):
            criteria = dice.choice((None, gpu(memory=">=80G"), gpu(product=intel.PRODUCT)))
            request = request_from_bundles([{"GPU": dice.randint(1, 4)}] * dice.randint(1, 2), devices=criteria)
            answer = plan(inventory, request)
            if not isinstance(answer, Allocation):
                continue
            inventory.hold(answer)
            attempt = attempt_of(answer, read_raycluster(told), compute_domains=False, asked=request.bundles)
            for node, claims in claims_of(attempt):
                here = [g.device.device for b in answer.bundles for g in b.grants if g.node == node]
                pods.append((node, claims))
                wanted.append(sorted(here))
        everything = [versioned(each) for pool in pools.values() for each in pool]
        order = dice.sample(range(len(pods)), len(pods))
        answers = allocator.ask(everything, [], [pods[at] for at in order], [of_intel])
        assert [sorted(got[0]) for got in answers if got is not None] == [wanted[at] for at in order]
        given += sum(map(len, wanted))
    assert given > 100


@pytest.mark.parametrize(("gpus", "mode"), [(1, "on"), (8, "ppcie")])
def test_what_is_passed_through_is_the_gpu_that_was_planned(allocator: Allocator, gpus: int, mode: str) -> None:
    """All nodes have the same bus ids, and the twins the same UUIDs."""
    there = [published(at, labels(mode)) for at in range(4)]
    nodes = [node_from_slices(kube, read(pool), Placing(runtime=KATA)) for kube, pool in there]
    buses = {(n.name, d.uuid): str(d.attributes["pciBusID"]) for n in nodes for d in n.devices}
    inventory, pods, wanted = Inventory(nodes), [], []
    for _ in range(8 // gpus):
        request = request_from_bundles([{"GPU": gpus}] * 4, confidential=mode)
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
        attempt = attempt_of(
            answer,
            read_raycluster(kata_cluster()),
            compute_domains=False,
            asked=request.bundles,
            buses=lambda node, uuid: buses[node, uuid],
        )
        for node, claims in claims_of(attempt):
            here = [g.device.device for b in answer.bundles for g in b.grants if g.node == node]
            wanted.append(sorted(name.replace("gpu-", "gpu-vfio-") for name in here))
            pods.append((node, claims))
    everything = [versioned(each) for _, pool in there for each in pool]
    answers = allocator.ask(everything, [], pods)
    assert [sorted(got[0]) for got in answers if got is not None] == wanted
    assert sum(map(len, wanted)) == 8 * len(MACHINES)
