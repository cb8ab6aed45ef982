"""Claims on GPUs of other vendors, and on GPUs that are passed through, against Kubernetes' own allocator.

Beside devices of every type that a driver publishes each claim gets what was planned, in any order, and no CEL of ours
is an error on a device that is not meant. By hand, as test_allocator.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode, Placing
from ray_dra.translate.kube.attempts import Attempt, attempt_of
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.names import DRIVER_ANNOTATION
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import gpu, partition
from ray_dra.translate.vendors import AMD, BUS_ATTRIBUTE, INTEL, Vendor
from tests.cluster.test_allocator import Allocator, allocator
from tests.translate.kube import amd, intel
from tests.translate.kube.objects import cluster, read
from tests.translate.ray.test_confidential import KATA, MACHINES, kata_cluster, labels, published

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(600)]
__all__ = ["allocator"]  # the fixture


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


Pools = dict[str, list[dict[str, Any]]]


def asked_of(
    allocator: Allocator,
    dice: random.Random,
    told: dict[str, Any],
    pools: Pools,
    requests: Iterable[GangRequest],
    classes: list[dict[str, Any]],
) -> Iterator[tuple[Allocation, str, list[list[str]]]]:
    """The gangs that fit, planned one after the other, and their claims asked of the allocator in any order: of each
    worker its gang's allocation, its node, and the devices of each claim."""
    nodes = [node_from_slices(KubeNode(name, cpus=64), read(pool)) for name, pool in pools.items()]
    inventory, pods = Inventory(nodes), []
    for request in requests:
        answer = plan(inventory, request)
        if not isinstance(answer, Allocation):
            continue
        inventory.hold(answer)
        attempt = attempt_of(answer, read_raycluster(told), compute_domains=False, asked=request.bundles)
        pods += [(answer, node, claims) for node, claims in claims_of(attempt)]
    dice.shuffle(pods)
    everything = [versioned(each) for pool in pools.values() for each in pool]
    answers = allocator.ask(everything, [], [(node, claims) for _, node, claims in pods], classes)
    for (answer, node, _), got in zip(pods, answers, strict=True):
        assert got is not None
        yield answer, node, got


def told_of(vendor: Vendor) -> dict[str, Any]:
    """A RayCluster whose gangs have this vendor's GPUs."""
    told = cluster()
    told["metadata"]["annotations"] = {DRIVER_ANNOTATION: vendor.driver}
    return told


def class_of(vendor: Vendor) -> list[dict[str, Any]]:
    """As the driver's chart has it: whatever else it publishes is of the class, too."""
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": vendor.device_class},
            "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{vendor.driver}'"}}]},
        }
    ]


def whole_gangs(dice: random.Random, count: int, *wanted: DeviceCriteria | None) -> list[GangRequest]:
    return [
        request_from_bundles([{"GPU": dice.randint(1, 4)}] * dice.randint(1, 2), devices=dice.choice(wanted))
        for _ in range(count)
    ]


def amds_pools(dice: random.Random) -> Pools:
    return {f"n{at}": amds_node(dice, f"n{at}") for at in range(3)}


def intels_pools(dice: random.Random) -> Pools:
    """Beside virtual functions, of which nothing says whose they are."""
    pools = {}
    for name in ("n0", "n1"):
        devices = [make(at) for at in range(8) for make in (intel.gpu, intel.virtual_function)]
        dice.shuffle(devices)
        pools[name] = intel.slices(name, devices)
    return pools


AMDS = (None, gpu(memory=">=80G"), gpu(driver_version=">=6", product=amd.PRODUCT))
INTELS = (None, gpu(memory=">=80G"), gpu(product=intel.PRODUCT))


@pytest.mark.parametrize(
    ("vendor", "pools_of", "criteria", "seed"),
    [(AMD, amds_pools, AMDS, seed) for seed in range(8)] + [(INTEL, intels_pools, INTELS, seed) for seed in range(4)],
)
def test_gpus_are_given_as_planned(
    allocator: Allocator,
    vendor: Vendor,
    pools_of: Callable[[random.Random], Pools],
    criteria: tuple[DeviceCriteria | None, ...],
    seed: int,
) -> None:
    dice, given = random.Random(seed), 0
    for _ in range(25):
        pools = pools_of(dice)
        gangs = whole_gangs(dice, 6, *criteria)
        for answer, node, got in asked_of(allocator, dice, told_of(vendor), pools, gangs, class_of(vendor)):
            wanted = [g.device.device for bundle in answer.bundles for g in bundle.grants if g.node == node]
            assert sorted(got[0]) == sorted(wanted)
            given += len(got[0])
    assert given > 100


@pytest.mark.parametrize("seed", range(4))
def test_amds_partitions_are_given_as_planned(allocator: Allocator, seed: int) -> None:
    """In any order: those of one GPU are alike, so no claim takes what another needs."""
    dice, given = random.Random(seed), 0
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
        gangs = []
        for part in dice.choices((None, "cpx_nps4", "dpx_nps1"), k=6):
            some = [{"GPU": 1}] * dice.randint(1, 9)
            gangs.append(request_from_bundles(some, part=None if part is None else partition(part)))
        for answer, node, got in asked_of(allocator, dice, told_of(AMD), pools, gangs, class_of(AMD)):
            grants = [g for bundle in answer.bundles for g in bundle.grants if g.node == node]
            wanted = Counter((g.part.parent, g.part.profile) if g.part else (g.uuid, "spx_nps1") for g in grants)
            has = [said[node, device] for devices in got for device in devices]
            kinds = ((a[BUS_ATTRIBUTE]["string"], a["partitionProfile"]["string"]) for a in has)
            assert Counter((f"{node}/{bus}", profile) for bus, profile in kinds) == wanted
            given += len(has)
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
