"""Kubernetes objects out of allocations: golden YAML for each shape, and the rules."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import SimulatedNode, load_profile, simulated_nodes
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.ray.devices import gpu
from tests.translate.kube.objects import BOXES, CLUSTER, RACKS, allocate, gang, node, read

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
    content = [*made.domains, *made.templates, *made.groups]
    golden = GOLDEN / file
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
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(made.templates)), sort_keys=False, width=120))
    assert list(made.templates) == list(yaml.safe_load_all(golden.read_text()))
    for template in made.templates:
        claim = {**template["spec"], "metadata": {**template["spec"]["metadata"], "name": "x", "uid": "u"}}
        read_back = read_claim(claim)
        assert len(read_back.named) == 8
        assert read_back.count == 4


def test_a_claim_for_bundles_that_ask_for_different_things_says_what_all_do() -> None:
    both = [
        *gang([{"GPU": 2}], devices=gpu(memory=">=80G", product="NVIDIA GB200")).bundles,
        *gang([{"GPU": 2}], devices=gpu(memory=">=80G", driver_version=">=580")).bundles,
    ]
    request = replace(gang([{"GPU": 4}]), bundles=tuple(both), locality=Locality(cliques=1))
    made = attempt_of(allocate(RACKS, request), CLUSTER, compute_domains=False, asked=request.bundles)
    (exactly,) = (t["spec"]["spec"]["devices"]["requests"][0]["exactly"] for t in made.templates)
    assert [s["cel"]["expression"] for s in exactly["selectors"]][1:] == [
        'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("80000000000")) >= 0'
    ]


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=12))
def test_each_groups_chosen_devices_are_what_its_claims_count(sizes: list[int]) -> None:
    """The condition under which the scheduler has no other choice: on every node exactly `count` chosen devices."""
    request = gang([{"GPU": size} for size in sizes])
    answer = plan(Inventory(RACKS), request)
    if not isinstance(answer, Allocation):
        return
    made = attempt_of(answer, CLUSTER, compute_domains=False)
    chosen: dict[str, set[str]] = {}
    for grant in answer.grants:
        chosen.setdefault(grant.node, set()).add(grant.uuid or "")
    seen: set[str] = set()
    for template, group in zip(made.templates, made.groups, strict=True):
        exactly = template["spec"]["spec"]["devices"]["requests"][0]["exactly"]
        uuids = json.loads(exactly["selectors"][0]["cel"]["expression"].split(" in ")[1])
        required = group["template"]["spec"]["affinity"]["nodeAffinity"]
        terms = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        nodes = [term["matchFields"][0]["values"][0] for term in terms]
        assert len(nodes) == group["replicas"] == group["minReplicas"] == group["maxReplicas"]
        assert set(uuids) == set().union(*(chosen[n] for n in nodes))
        assert all(len(chosen[n]) == exactly["count"] for n in nodes)
        assert group["rayStartParams"]["num-gpus"] == str(exactly["count"])
        assert not seen & set(nodes)
        seen |= set(nodes)
    assert seen == chosen.keys()


def test_long_expressions_are_split_and_user_text_is_quoted() -> None:
    machines = simulated_nodes("gb200-nvl72", nodes=200)
    answer = allocate(
        [node(m) for m in machines], gang([{"GPU": 4}] * 200, locality=Locality(segment=1)), compute_domains=False
    )
    made = attempt_of(answer, CLUSTER, compute_domains=False)
    expressions = [
        t["spec"]["spec"]["devices"]["requests"][0]["exactly"]["selectors"][0]["cel"]["expression"]
        for t in made.templates
    ]
    assert all(len(expression) <= 10_240 for expression in expressions)  # facts: Kubernetes' limit
    assert sum(group["replicas"] for group in made.groups) == 200
    evil = SimulatedNode(name="n", profile=load_profile("hgx-h100"))
    published = slices(gpu_pool(evil, {}), "n", 1)
    published[0]["spec"]["devices"][0]["attributes"]["uuid"]["string"] = 'x"] || true || ["'
    odd = node_from_slices(KubeNode("n", cpus=8, memory=1 << 36), read(published))
    made = attempt_of(allocate([odd], gang([{"GPU": 8}]), compute_domains=False), CLUSTER, compute_domains=False)
    expression = made.templates[0]["spec"]["spec"]["devices"]["requests"][0]["exactly"]["selectors"][0]["cel"]
    assert 'x\\"] || true || [\\"' in expression["expression"]


def test_what_is_missing_of_an_attempt_comes_in_the_order_of_making() -> None:
    """A claim template may name a ComputeDomain's channel, so domains are first."""
    made = attempt_of(
        allocate(RACKS, gang([{"GPU": 4}] * 2, locality=Locality(cliques=1))), CLUSTER, compute_domains=True
    )
    (domain,), (template,), (group,) = made.domains, made.templates, made.groups
    names = [thing["metadata"]["name"] for thing in (domain, template)]
    assert made.missing(()) == [domain, template]
    assert made.missing(names[:1]) == [template]
    assert made.missing(names[1:]) == [domain]
    assert made.missing(names) == []
    assert made.missing_groups({"others"}) == [group]
    assert made.missing_groups({group["groupName"]}) == []
