"""Kubernetes objects out of allocations: golden YAML for each shape, and the rules."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.pools import Pool, Pools
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.simulated.dra.configs import GpuConfig, decode
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.dra.gates import GATES
from ray_dra.simulated.mig import MigState
from ray_dra.simulated.profile import SimulatedNode, load_profile, simulated_nodes
from ray_dra.translate.kube.attempts import Attempt, attempt_of
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.kube.slots import Slot
from ray_dra.translate.ray.devices import gpu, mig, mps, time_slicing
from ray_dra.translate.ray.pools import pool_request
from tests.translate.kube.objects import BOXES, CLUSTER, RACKS, allocate, gang, read

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize(
    ("file", "nodes", "bundles", "locality", "compute_domains"),
    [
        ("rack-segments.yaml", RACKS, [{"GPU": 4, "CPU": 8}] * 4, Locality(segment=2), True),
        ("rack-one-node.yaml", RACKS, [{"GPU": 2}, {"GPU": 2}], Locality(cliques=1), True),
        ("box-no-imex.yaml", BOXES, [{"GPU": 4, "CPU": 2, "memory": 8 << 30}] * 3, Locality(), False),
        ("mixed.yaml", RACKS, [{"GPU": 3}, {"GPU": 4}, {"GPU": 1, "x": 1}], Locality(cliques=1), True),
    ],
)
def test_objects_are_as_reviewed(
    file: str, nodes: list[Node], bundles: list[dict[str, float]], locality: Locality, compute_domains: bool
) -> None:
    if any("x" in bundle for bundle in bundles):
        nodes = [replace(n, resources={**n.resources, "x": 4.0}) for n in nodes]
    made = attempt_of(
        allocate(nodes, gang(bundles, locality=locality), compute_domains=compute_domains),
        CLUSTER,
        compute_domains=compute_domains,
    )
    content = list(made.domains.values())
    for number, slot in enumerate(made.slots.values()):
        content += [*made.claims(slot, f"uid-{number}").values(), made.pod(slot)]
    golden = GOLDEN / file
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))


def test_parts_are_claimed_one_claim_a_gpu() -> None:
    """Of each GPU what is to be made by profile, the largest first, and what is there by UUID."""
    machine = simulated_nodes("hgx-h100", nodes=1)[0]
    state = MigState()
    dynamic = node_from_slices(
        KubeNode("n0", cpus=64, memory=64 << 30),
        read(slices(gpu_pool(machine, {}, frozenset({"DynamicMIG"})), "n0", 1)),
    )
    for at, profile in enumerate(("3g.40gb", "1g.10gb")):
        kind = machine.profile.mig_profile(profile)
        state = state.with_mode(1, True, now=True)
        state, _ = state.with_part(machine.profile, 1, kind, kind.starts[0] if at == 0 else 4, f"MIG-{at}")
    static = node_from_slices(
        KubeNode("n1", cpus=64, memory=64 << 30), read(slices(gpu_pool(machine, {}, frozenset(), state), "n1", 1))
    )
    static = replace(static, devices=())  # so that its UUIDs are not those of the other node, too
    one, three = mig("1g.10gb"), mig("3g.40gb")
    request = gang([{"GPU": 1, "CPU": 1}] * 12, part=one)
    first = request.bundles[0]
    large = replace(first, devices=(replace(first.devices[0], part=three),))
    request = replace(request, bundles=(*request.bundles, large, large))
    made = attempt_of(allocate([static, dynamic], request), CLUSTER, compute_domains=True, asked=request.bundles)
    assert not made.domains
    content: list[dict[str, Any]] = []
    for number, slot in enumerate(made.slots.values()):
        assert slot.clique is None
        assert slot.uuids == ()
        claims = made.claims(slot, f"uid-{number}")
        named = [each["resourceClaimName"] for each in made.pod(slot)["spec"]["resourceClaims"]]
        assert named == list(claims)
        assert all(name.startswith(f"{slot.name}-g") for name in named)
        for claim in claims.values():
            back = read_claim({**claim, "metadata": {**claim["metadata"], "uid": "u"}})
            assert back.named  # a neighbour can tell which GPU it is about
            assert back.count == sum(each["exactly"]["count"] for each in claim["spec"]["devices"]["requests"])
        content += [*claims.values(), made.pod(slot)]
    golden = GOLDEN / "parts.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))


def test_shares_are_claimed_one_claim_a_node() -> None:
    """A claim has all GPUs of its pod that are shared, and one setting for them: MPS has one daemon a claim, and a
    container sees one daemon."""
    content: list[dict[str, Any]] = []
    for sharing, amounts in (
        (mps(memory="16Gi", threads=25), [0.25] * 34),
        (mps(), [0.5]),
        (time_slicing("Short"), [0.6, 0.4]),
    ):
        request = gang([{"GPU": amount, "CPU": 1} for amount in amounts], sharing=sharing)
        made = attempt_of(allocate(BOXES, request), CLUSTER, compute_domains=True, asked=request.bundles)
        assert not made.domains
        assert len(made.slots) == (2 if len(amounts) > 32 else 1)
        for number, slot in enumerate(made.slots.values()):
            pod = made.pod(slot)
            assert f"--num-gpus={slot.devices} " in pod["spec"]["containers"][0]["args"][0]
            assert slot.devices == len(slot.shares) == len(slot.bundles)
            (claim,) = made.claims(slot, f"uid-{number}").values()
            back = read_claim({**claim, "metadata": {**claim["metadata"], "uid": "u"}})
            assert (back.named, back.count) == (slot.uuids, len(slot.uuids))
            decoded = [decode(each["opaque"]["parameters"], GATES) for each in claim["spec"]["devices"]["config"]]
            assert [type(each) for each in decoded] == [GpuConfig]
            content += [claim, pod]
    golden = GOLDEN / "shares.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))


def test_a_gang_in_a_pool_has_the_claim_of_the_pools_worker() -> None:
    """It makes none, sees all GPUs of that claim, and has a GPU of Ray's for each of its shares."""
    inventory = Inventory(BOXES)
    held = pool_request("notebooks", gpus=2, sharing=time_slicing("Short"), tasks=0.25, resources={"CPU": 1})
    holder = plan(inventory, replace(held, gang="pool"))
    assert isinstance(holder, Allocation)
    inventory.hold(holder)
    pool = Pool("notebooks", "pool", held.bundles[0].devices[0].sharing or time_slicing(), ready=True)
    asked = replace(gang([{"GPU": 0.5, "CPU": 1}] * 2, pool="notebooks"), gang="shares")
    found = Pools(inventory, {"notebooks": pool}.get).plan(asked)
    assert isinstance(found, Allocation)
    of_pool = attempt_of(holder, CLUSTER, compute_domains=True, asked=held.bundles)
    made = attempt_of(found, CLUSTER, compute_domains=True, asked=asked.bundles, pool=holder)
    (holds,), (slot,) = of_pool.slots.values(), made.slots.values()
    assert (slot.uuids, made.claims(slot, "uid")) == (holds.uuids, {})
    assert len(set(slot.shares)) == len(slot.shares) == slot.devices == 2, "one of each GPU: half of one is taken"
    pod = made.pod(slot)
    assert pod["spec"]["resourceClaims"] == [{"name": "gpus", "resourceClaimName": holds.name}]
    content = [*of_pool.claims(holds, "uid-0").values(), of_pool.pod(holds), pod]
    golden = GOLDEN / "pool.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))


def test_a_claim_says_what_the_request_says_of_its_devices() -> None:
    """Beside the names: the class and each demand; and the names are still read back from it."""
    memory = [">=80G", "<200Gi"]
    wanted = gpu(memory=memory, compute_capability=">=10.0", driver_version=">=580", product="NVIDIA GB200")
    request = gang([{"GPU": 4}] * 2, locality=Locality(segment=1), devices=wanted)
    made = attempt_of(allocate(RACKS, request), CLUSTER, compute_domains=True, asked=request.bundles)
    golden = GOLDEN / "rack-selectors.yaml"
    claims = [claim for slot in made.slots.values() for claim in made.claims(slot, "uid").values()]
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(claims)), sort_keys=False, width=120))
    assert claims == list(yaml.safe_load_all(golden.read_text()))
    for claim in claims:
        read_back = read_claim({**claim, "metadata": {**claim["metadata"], "uid": "u"}})
        assert len(read_back.named) == 4
        assert read_back.count == 4
        assert read_back.pod == "uid"


def test_a_claim_for_bundles_that_ask_for_different_things_says_what_all_do() -> None:
    both = [
        *gang([{"GPU": 2}], devices=gpu(memory=">=80G", product="NVIDIA GB200")).bundles,
        *gang([{"GPU": 2}], devices=gpu(memory=">=80G", driver_version=">=580")).bundles,
    ]
    request = replace(gang([{"GPU": 4}]), bundles=tuple(both), locality=Locality(cliques=1))
    made = attempt_of(allocate(RACKS, request), CLUSTER, compute_domains=False, asked=request.bundles)
    (exactly,) = (exactly_of(made, slot) for slot in made.slots.values())
    assert [s["cel"]["expression"] for s in exactly["selectors"]][1:] == [
        'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("80000000000")) >= 0'
    ]


def exactly_of(made: Attempt, slot: Slot) -> dict[str, Any]:
    (claim,) = made.claims(slot, "uid").values()
    (request,) = claim["spec"]["devices"]["requests"]
    found: dict[str, Any] = request["exactly"]
    return found


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=12))
def test_each_slots_chosen_devices_are_what_its_claim_counts(sizes: list[int]) -> None:
    """The condition under which the scheduler has no other choice: a pod's node, and as many devices as are named."""
    request = gang([{"GPU": size} for size in sizes])
    answer = plan(Inventory(RACKS), request)
    if not isinstance(answer, Allocation):
        return
    made = attempt_of(answer, CLUSTER, compute_domains=False)
    chosen: dict[str, set[str]] = {}
    for grant in answer.grants:
        chosen.setdefault(grant.node, set()).add(grant.uuid or "")
    assert made.slots.keys() == chosen.keys()
    for node, slot in made.slots.items():
        exactly, pod = exactly_of(made, slot), made.pod(slot)
        uuids = json.loads(exactly["selectors"][0]["cel"]["expression"].split(" in ")[1])
        assert set(uuids) == chosen[node]
        assert exactly["count"] == len(uuids) == len(chosen[node])
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (term,) = required["nodeSelectorTerms"]
        assert term["matchFields"][0]["values"] == [node]
        assert pod["spec"]["resourceClaims"] == [{"name": "gpus", "resourceClaimName": slot.name}]
        assert f"--num-gpus={len(uuids)} " in pod["spec"]["containers"][0]["args"][0]


def test_user_text_is_quoted() -> None:
    evil = SimulatedNode(name="n", profile=load_profile("hgx-h100"))
    published = slices(gpu_pool(evil, {}), "n", 1)
    published[0]["spec"]["devices"][0]["attributes"]["uuid"]["string"] = 'x"] || true || ["'
    odd = node_from_slices(KubeNode("n", cpus=8, memory=1 << 36), read(published))
    made = attempt_of(allocate([odd], gang([{"GPU": 8}]), compute_domains=False), CLUSTER, compute_domains=False)
    expression = exactly_of(made, made.slots["n"])["selectors"][0]["cel"]["expression"]
    assert 'x\\"] || true || [\\"' in expression


def test_of_slots_that_are_alike_one_is_tried_first() -> None:
    made = attempt_of(
        allocate(RACKS, gang([{"GPU": 4}] * 5, locality=Locality(segment=1))), CLUSTER, compute_domains=False
    )
    slots = list(made.slots.values())
    assert made.unlike(slots) == slots[:1]
    mixed = attempt_of(allocate(RACKS, gang([{"GPU": 4}, {"GPU": 4}, {"GPU": 3}])), CLUSTER, compute_domains=False)
    assert len(mixed.unlike(mixed.slots.values())) == 2
    assert mixed.unlike(()) == []


def test_workers_are_made_where_no_raylet_is() -> None:
    answer = allocate(RACKS, gang([{"GPU": 4}] * 3, locality=Locality(segment=1)))
    theirs = answer.nodes[1]
    whole, made = (
        attempt_of(answer, CLUSTER, compute_domains=False, own=own) for own in (bool, lambda node: node != theirs)
    )
    assert {node: slot.label for node, slot in whole.slots.items() if node != theirs} == {
        node: slot.label for node, slot in made.slots.items()
    }
