"""Kubernetes objects out of allocations, and nodes out of slices: golden YAML for each shape, and the rules."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeNode, ResourceSlice, Toleration
from ray_dra.ports.nvml import GpuReading, LinkReading, NodeReading
from ray_dra.simulated.dra.devices import gpu_pool, node_labels, slices
from ray_dra.simulated.profile import SimulatedNode, load_profile, simulated_nodes
from ray_dra.translate.kube.attempts import CEL_BYTES, attempt_of
from ray_dra.translate.kube.events import event_about
from ray_dra.translate.kube.published_links import read_topology, topology_map, with_links
from ray_dra.translate.kube.raycluster import read_raycluster, refuse_unfit, worker_template
from ray_dra.translate.kube.shapes import UNREADABLE
from ray_dra.translate.kube.slices import node_from_slices, quantity, read_node, read_slice
from ray_dra.translate.kube.slots import attempt_name, slot_label
from ray_dra.translate.names import TEMPLATE_ANNOTATION
from ray_dra.translate.nvml.reading import node_from_reading
from ray_dra.translate.ray.bundles import request_from_bundles

GOLDEN = Path(__file__).parent / "golden"


def node(simulated: SimulatedNode, **more: Any) -> Node:
    """A node as Kubernetes publishes it, by the simulated driver."""
    made = KubeNode(simulated.name, labels=node_labels(simulated), cpus=64, memory=512 << 30, **more)
    return node_from_slices(made, read(slices(gpu_pool(simulated, {}), simulated.name, 1)))


def read(published: list[dict[str, Any]]) -> list[ResourceSlice]:
    return [read_slice({**each, "metadata": {**each["metadata"], "resourceVersion": "1"}}) for each in published]


def cluster(**spec: Any) -> dict[str, Any]:
    container = {"name": "ray-worker", "image": "mine:1", "resources": {"limits": {"cpu": "1", "memory": "2Gi"}}}
    template = {"spec": {"containers": [container], "tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    group = {"groupName": "ray-dra", "replicas": 0, "minReplicas": 0, "maxReplicas": 9, "template": template}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "c", "namespace": "team", "uid": "u-1", "resourceVersion": "1"},
        "spec": {"workerGroupSpecs": [group], **spec},
    }


CLUSTER = read_raycluster(cluster())


def gang(bundles: list[dict[str, float]], **more: Any) -> GangRequest:
    request = request_from_bundles(bundles, **more)
    return GangRequest(**{**{f: getattr(request, f) for f in request.__dataclass_fields__}, "gang": "g"})


def allocate(nodes: list[Node], request: GangRequest, *, imex: bool = True) -> Allocation:
    answer = plan(Inventory(nodes, limits=IMEX_LIMITS if imex else NO_LIMITS), request)
    assert isinstance(answer, Allocation), answer
    return answer


RACKS = [node(each) for each in simulated_nodes("gb200-nvl72", nodes=6, cliques=2)]
BOXES = [node(each) for each in simulated_nodes("hgx-h100", nodes=2)]


@pytest.mark.parametrize(
    ("file", "nodes", "bundles", "locality", "imex"),
    [
        ("rack-segments.yaml", RACKS, [{"GPU": 4, "CPU": 8}] * 4, Locality(segment=2), True),
        ("rack-one-node.yaml", RACKS, [{"GPU": 2}, {"GPU": 2}], Locality(cliques=1), True),
        ("box-no-imex.yaml", BOXES, [{"GPU": 4, "CPU": 2, "memory": 8 << 30}] * 3, Locality(), False),
        ("mixed.yaml", RACKS, [{"GPU": 3}, {"GPU": 4}, {"GPU": 1, "x": 1}], Locality(cliques=1), True),
    ],
)
def test_objects_are_as_reviewed(
    file: str, nodes: list[Node], bundles: list[dict[str, float]], locality: Locality, imex: bool
) -> None:
    from dataclasses import replace

    if any("x" in bundle for bundle in bundles):
        nodes = [replace(n, resources={**n.resources, "x": 4.0}) for n in nodes]
    made = attempt_of(allocate(nodes, gang(bundles, locality=locality), imex=imex), CLUSTER, imex=imex)
    content = [*made.domains, *made.templates, *made.groups]
    golden = GOLDEN / file
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=12))
def test_each_groups_chosen_devices_are_what_its_claims_count(sizes: list[int]) -> None:
    """The condition under which the scheduler has no other choice: on every node exactly `count` chosen devices."""
    request = gang([{"GPU": size} for size in sizes])
    answer = plan(Inventory(RACKS), request)
    if not isinstance(answer, Allocation):
        return
    made = attempt_of(answer, CLUSTER, imex=False)
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
    answer = allocate([node(m) for m in machines], gang([{"GPU": 4}] * 200, locality=Locality(segment=1)), imex=False)
    made = attempt_of(answer, CLUSTER, imex=False)
    expressions = [
        t["spec"]["spec"]["devices"]["requests"][0]["exactly"]["selectors"][0]["cel"]["expression"]
        for t in made.templates
    ]
    assert all(len(expression) <= CEL_BYTES for expression in expressions)
    assert sum(group["replicas"] for group in made.groups) == 200
    evil = SimulatedNode(name="n", profile=load_profile("hgx-h100"))
    published = slices(gpu_pool(evil, {}), "n", 1)
    published[0]["spec"]["devices"][0]["attributes"]["uuid"]["string"] = 'x"] || true || ["'
    odd = node_from_slices(KubeNode("n", cpus=8, memory=1 << 36), read(published))
    made = attempt_of(allocate([odd], gang([{"GPU": 8}]), imex=False), CLUSTER, imex=False)
    expression = made.templates[0]["spec"]["spec"]["devices"]["requests"][0]["exactly"]["selectors"][0]["cel"]
    assert 'x\\"] || true || [\\"' in expression["expression"]


@pytest.mark.parametrize("name", ["$(reboot)", "`id`", "a;b", "a b", "'", '"', "\\", "é", "a\nb", "x" * 254])
def test_no_resource_says_anything_to_a_shell(name: str) -> None:
    """KubeRay passes `rayStartParams` through a shell in double quotes, where $ and ` still act."""
    machine = replace(
        node(simulated_nodes("hgx-h100", nodes=1)[0]), resources={"CPU": 8.0, name: 4.0, "ok.x/y-1:_z": 1.0}
    )
    fine = allocate([machine], gang([{"GPU": 1, "ok.x/y-1:_z": 1}]), imex=False)
    assert "ok.x/y-1:_z" in attempt_of(fine, CLUSTER, imex=False).groups[0]["rayStartParams"]["resources"]
    asked = GangRequest("g", (Bundle((DeviceRequest(1),), {name: 1.0}),))
    with pytest.raises(InvalidRequest, match="shell"):
        attempt_of(allocate([machine], asked, imex=False), CLUSTER, imex=False)


def test_the_users_affinity_is_kept_with_each_node() -> None:
    wanted = {"key": "zone", "operator": "In", "values": ["a"]}
    theirs = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [wanted]},
                    {"matchExpressions": [{**wanted, "values": ["b"]}]},
                ]
            }
        }
    }
    raycluster = cluster()
    raycluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["affinity"] = theirs
    made = attempt_of(
        allocate(RACKS, gang([{"GPU": 4}] * 2, locality=Locality(cliques=1))), read_raycluster(raycluster), imex=False
    )
    required = made.groups[0]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert len(terms) == 4
    assert all(len(term["matchExpressions"]) == len(term["matchFields"]) == 1 for term in terms)


def test_clusters_that_cannot_take_a_group_are_refused_with_the_reason() -> None:
    with pytest.raises(InvalidRequest, match="Recreate deletes every pod"):
        refuse_unfit(read_raycluster(cluster(upgradeStrategy={"type": "Recreate"})))
    owned = cluster()
    owned["metadata"]["ownerReferences"] = [{"kind": "RayService", "name": "s"}]
    with pytest.raises(InvalidRequest, match="RayService overwrites"):
        refuse_unfit(read_raycluster(owned))
    with pytest.raises(InvalidRequest, match="no worker group to copy"):
        worker_template(read_raycluster(cluster(workerGroupSpecs=[])))
    named = cluster()
    named["metadata"]["annotations"] = {TEMPLATE_ANNOTATION: "other"}
    with pytest.raises(InvalidRequest, match="other"):
        worker_template(read_raycluster(named))
    asking = cluster()
    container = asking["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    container["resources"]["limits"]["nvidia.com/gpu"] = 1
    with pytest.raises(InvalidRequest, match="asks for GPUs itself"):
        worker_template(read_raycluster(asking))


def test_names_are_short_stable_and_new_for_each_attempt() -> None:
    assert attempt_name("g", 0) == attempt_name("g", 0) != attempt_name("g", 1)
    assert len(slot_label(attempt_name("x" * 200, 12), "n" * 250)) <= 63


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ready": False}, "not ready"),
        ({"unschedulable": True}, "cordoned"),
        ({"device_plugin": True}, "device plugin"),
        ({"taints": (("gpu", "", "NoSchedule"),)}, "taint gpu=:NoSchedule"),
    ],
)
def test_nodes_that_cannot_be_used_say_why(change: dict[str, Any], reason: str) -> None:
    made = node(simulated_nodes("hgx-h100")[0], **change)
    assert not made.ready
    assert reason in made.reason
    assert len(made.devices) == 8


def test_a_pool_counts_only_when_its_newest_generation_is_complete() -> None:
    simulated = simulated_nodes("hgx-h100")[0]
    old, new = (slices(gpu_pool(simulated, {}), simulated.name, generation)[0] for generation in (1, 2))
    new["metadata"]["name"] = "other"
    new["spec"]["pool"]["resourceSliceCount"] = 2
    made = node_from_slices(KubeNode(simulated.name), read([old, new]))
    assert (made.ready, made.reason) == (False, "its pool is being published (1 of 2 slices)")
    assert node_from_slices(KubeNode("n"), []).reason == "no ResourceSlice is published"


def test_health_tolerations_and_quantities() -> None:
    simulated = simulated_nodes("hgx-h100")[0]
    faults = {"xids": [[1, 3, 79]]}
    published = slices(gpu_pool(simulated, faults, frozenset({"NVMLDeviceHealthCheck"})), simulated.name, 1)
    taints = (("gpu", "a", "NoSchedule"), ("soft", "", "PreferNoSchedule"))
    made = node_from_slices(
        KubeNode(simulated.name, taints=taints), read(published), [Toleration("gpu", value="a", effect="NoSchedule")]
    )
    assert made.ready
    assert [d.health for d in made.devices].count(Health.TAINTED) == 1
    assert made.devices[3].health_reason == "gpu.nvidia.com/xid=79"
    status = {
        "allocatable": {"cpu": "3500m", "memory": "2Gi", "nvidia.com/gpu": "8"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    seen = read_node({"metadata": {"name": "n"}, "status": status})
    assert (seen.cpus, seen.memory, seen.device_plugin, seen.ready) == (3.5, 2 << 30, True, True)


def test_every_suffix_of_a_quantity_is_read_and_garbage_is_refused() -> None:
    assert [quantity(text) for text in ("2", "500m", "1Ki", "1k", "1.5Gi")] == [2, 0.5, 1024, 1000, 1.5 * (1 << 30)]
    decimal = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
    binary = {f"{suffix}i": 10 * at for at, suffix in enumerate("KMGTPE", 1)}
    for text, number in (("100", 100.0), ("1.5", 1.5), (".5", 0.5), ("3.", 3.0), ("+7", 7.0), ("0", 0.0)):
        for suffix, power in decimal.items():
            assert quantity(text + suffix) == pytest.approx(number * 10.0**power, rel=1e-12)
        for suffix, power in binary.items():
            assert quantity(text + suffix) == number * 2**power
        for exponent in ("e3", "E3", "e-3", "E+2"):
            assert quantity(text + exponent) == pytest.approx(float(text + exponent), rel=1e-12)
    wrong = ["", " 1", "1 ", "1e", "1Ee3", "1kk", "1K", "i", "m", ".", "0x1", "1_0", "nan", "inf", "-1", "-5m", "1e999"]
    others: list[Any] = ["9" * 400, "1\n", "\u0661", None, True, [], {}, math.nan, math.inf, -1, 10**400]
    for garbage in (*wrong, *others):
        with pytest.raises(ValueError, match=r"no quantity|no amount"):
            quantity(garbage)


@given(st.lists(st.sampled_from((0.0001, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0)), min_size=1, max_size=12))
def test_bundles_of_fractional_cpus_fit_the_worker_made_for_them(cpus: list[float]) -> None:
    """`ray start --num-cpus` takes whole numbers; the pod asks for exactly what the bundles and the raylet need."""
    bundles = [{"GPU": 1.0, "CPU": cpus[0], "memory": 1000.5}, *({"CPU": n} for n in cpus[1:])]
    wide = [replace(BOXES[0], resources={"CPU": 64.0, "memory": float(1 << 40)})]
    attempt = attempt_of(allocate(wide, gang(bundles), imex=False), CLUSTER, imex=False)
    (group,) = attempt.groups
    offered, wanted = group["rayStartParams"], sum(cpus)
    assert wanted - 1e-9 <= int(offered["num-cpus"]) < wanted + 1
    assert int(offered["memory"]) == 1001
    requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert quantity(requests["cpu"]) == pytest.approx(wanted + 0.25, abs=0.00051)
    assert int(requests["memory"]) == 1001 + (1 << 30)


@pytest.mark.parametrize(("cpus", "offered", "asked"), [(0.5, "1", "750m"), (1.5, "2", "1750m"), (2.5, "3", "2750m")])
def test_half_a_cpu_is_offered_as_a_whole_one(cpus: float, offered: str, asked: str) -> None:
    attempt = attempt_of(allocate(BOXES, gang([{"GPU": 1, "CPU": cpus}]), imex=False), CLUSTER, imex=False)
    (group,) = attempt.groups
    assert group["rayStartParams"]["num-cpus"] == offered
    assert group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == asked


@given(st.text(max_size=1100, alphabet=st.characters(codec="utf-8")))
def test_an_events_message_is_cut_in_bytes_between_characters(text: str) -> None:
    event = event_about(CLUSTER, "GangQueued", text + "\u00e9\U0001f600" * 400)
    data = event["message"].encode()
    assert 1020 < len(data) <= 1024
    assert (text + "\u00e9\U0001f600" * 400).startswith(event["message"])
    assert event_about(CLUSTER, "GangQueued", "\ud800 bare")["message"] == "? bare"


@pytest.mark.parametrize(("profile", "clique"), [("hgx-h100", "box.h100-0"), ("l40s-pcie", None)])
def test_a_box_is_a_clique_where_its_gpus_are_all_joined(profile: str, clique: str | None) -> None:
    made = node(simulated_nodes(profile)[0])
    assert made.clique == clique
    assert bool(made.links) is (clique is not None)


def test_links_that_an_agent_publishes_are_read_in_the_order_of_the_slices() -> None:
    """The agent numbers GPUs as NVML does; a driver may publish them in another order, and fewer."""
    bus = [f"00000000:{0x10 + i:x}:00.0" for i in range(4)]
    pairs = [1, 0, 3, 2]  # bridged: 0 with 1, 2 with 3
    gpus = tuple(
        GpuReading(i, f"GPU-{i}", "NVIDIA A100", bus[i], links=(LinkReading(True, "gpu", bus[pairs[i]]),) * 12)
        for i in range(4)
    )
    p2p = tuple(tuple(pairs[i] == j for j in range(4)) for i in range(4))
    reading = NodeReading("580", gpus, p2p, tuple((40,) * 4 for _ in range(4)))
    made = topology_map("dgx1", "n", reading, {"kind": "Pod", "name": "p", "uid": "u"})
    assert made is not None
    assert made["metadata"]["ownerReferences"][0]["name"] == "p"
    uneven = {**made, "data": {"topology": json.dumps({"uuids": ["a", "b"], "links": [[1], [1]], "ancestors": []})}}
    for odd in (uneven, {"metadata": {}, "data": {"topology": "no json"}}, {**made, "metadata": {}}):
        with pytest.raises(UNREADABLE):
            read_topology(odd)
    published = read_topology(made)
    assert published.node == "dgx1"
    full = node_from_reading("dgx1", reading)
    assert published.links == full.links == ((0, 12, 0, 0), (12, 0, 0, 0), (0, 0, 0, 12), (0, 0, 12, 0))
    backwards = replace(full, devices=full.devices[:0:-1], links=(), ancestors=())
    linked = with_links(backwards, published)
    for i, a in enumerate(linked.devices):
        for j, b in enumerate(linked.devices):
            assert a.index is not None
            assert b.index is not None
            assert linked.links[i][j] == full.links[a.index][b.index]
    other = replace(full, devices=(replace(full.devices[0], uuid="GPU-other"),), links=())
    assert with_links(other, published) is other
    assert topology_map("dgx1", "n", replace(reading, error="hung"), {}) is None
