"""What is a vendor's own stands in one table: core names none; slices of each are read, planned and claimed alike."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import ray_dra
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device_selector import COMPUTE_CAPABILITY
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.files.sense import check_nodes, name_attributes, name_classes
from ray_dra.translate.files.snapshot import dump_snapshot, inventory_of, load_request, load_snapshot, snapshot_of
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.parts import parts_of
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.slices import node_from_slices, read_node, read_slice
from ray_dra.translate.names import DRIVER_ANNOTATION
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles
from ray_dra.translate.ray.devices import gpu, mps, time_slicing
from ray_dra.translate.vendors import AMD, BUS_ATTRIBUTE, CLASSES, INTEL, NVIDIA, VENDORS, Vendor
from tests.coordinator.kubernetes_world import World
from tests.translate.kube import amd, intel
from tests.translate.kube.objects import allocate, cluster, gang, read

HOUSE = Path(ray_dra.__file__).parent
GOLDEN = Path(__file__).parent / "golden"
NVIDIAS_BOX = simulated_nodes("hgx-h100", nodes=1)[0]


class Case(NamedTuple):
    """A box of eight GPUs, as one vendor's driver publishes it. `joined`: every two of them are. `numa`, `asked`: what
    it says of its GPUs beside their memory and product, and what can be asked of that."""

    vendor: Vendor
    box: Callable[[str], list[dict[str, Any]]]
    product: str
    joined: bool = True
    numa: frozenset[int | None] = frozenset({0, 1})
    asked: Mapping[str, str] = MappingProxyType({"driver_version": ">=6"})


def nvidias_box(name: str) -> list[dict[str, Any]]:
    """With UUIDs of its own."""
    made = slices(gpu_pool(NVIDIAS_BOX, {}), name, 1)
    for device in (device for each in made for device in each["spec"]["devices"]):
        device["attributes"]["uuid"]["string"] += f"-{name}"
    return made


CASES = [
    Case(NVIDIA, nvidias_box, "NVIDIA H100 80GB HBM3"),
    Case(AMD, amd.box, "AMD_Instinct_MI300X_OAM"),
    Case(INTEL, intel.box, intel.PRODUCT, False, frozenset({None}), MappingProxyType({})),
]
each_vendor = pytest.mark.parametrize("case", CASES, ids=lambda case: case.vendor.name)


def node(name: str, published: list[dict[str, Any]]) -> Node:
    return node_from_slices(KubeNode(name, cpus=64, memory=512 << 30), read(published))


def cluster_of(vendor: Vendor) -> dict[str, Any]:
    made = cluster()
    made["metadata"]["annotations"] = {DRIVER_ANNOTATION: vendor.driver}
    return made


def test_core_names_no_vendor() -> None:
    """No driver, class, attribute or firm. Words of technologies (NVLink, IMEX, MIG, NVML) say what something is like;
    they name nobody."""
    told = re.compile(r"nvidia|\bamd\b|amd\.com|intel|rocm|cuda|productName|parentUUID|pciBusID", re.IGNORECASE)
    found = {
        f"{file.relative_to(HOUSE)}:{number}: {line.strip()}"
        for file in sorted((HOUSE / "core").rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if told.search(line)
    }
    assert not found


def test_nobody_else_spells_what_is_a_vendors_own() -> None:
    """But for what is simulated, which stands for the drivers. `test_names.py` looks for what has a vendor's domain."""
    own = {
        name
        for vendor in VENDORS.values()
        for name in (vendor.parent, vendor.whole, vendor.part, *vendor.attributes, vendor.driver)
        if len(name) > 4 and name not in ("driverVersion", "numaNode", "model")  # core's names, too, and a common word
    }
    spelled = re.compile("|".join(f'"[^"]*{re.escape(name)}[^"]*"' for name in sorted(own)))
    files = [f for f in sorted(HOUSE.rglob("*.py")) if f.name != "vendors.py" and "simulated" not in f.parts]
    told = {str(f.relative_to(HOUSE)): m[0] for f in files for m in [spelled.search(_code_of(f))] if m}
    assert told == {}


def _code_of(file: Path) -> str:
    """Without docstrings and comments, which may explain."""
    return re.sub(r'"""(?:.|\n)*?"""|#.*', "", file.read_text())


def test_the_table_says_what_a_claim_and_a_plan_need() -> None:
    for driver, vendor in VENDORS.items():
        assert vendor.driver == driver == vendor.device_class  # as core's `Device.device_class` has it
        assert vendor.product in vendor.attributes
        assert vendor.key("n1", None) is None
        assert vendor.identity_of(vendor.key("n1", "x") or "") == "x"
        assert (vendor.key("n1", "x") == vendor.key("n2", "x")) is vendor.unique
    assert len(set(CLASSES)) == len(CLASSES)


def test_admission_lets_gangs_claim_what_the_table_has() -> None:
    told = (HOUSE.parent / "kube" / "base" / "admission.yaml").read_text()
    (listed,) = re.findall(r"deviceClassName in \[(.*?)\]", told)
    passed = tuple(vendor.passed_class for vendor in VENDORS.values() if vendor.passed_class)
    assert tuple(re.findall("'(.*?)'", listed)) == CLASSES + passed


def test_files_and_records_from_before_are_read_under_cores_names() -> None:
    version = [{"name": "cudaComputeCapability", "operator": ">=", "value": [9, 0, 0]}]
    told = {"bundles": [{"devices": [{"count": 1, "device_class": NVIDIA.device_class, "selectors": version}]}]}
    name_classes(told)
    assert told["bundles"][0]["devices"][0]["device_class"] == ""
    assert version[0]["name"] == COMPUTE_CAPABILITY
    node = {"devices": [{"attributes": {"cudaComputeCapability": "9.0"}}], "parted": [{"attributes": {}}, 5]}
    name_attributes([node, None, {"devices": 5}])
    assert node["devices"] == [{"attributes": {COMPUTE_CAPABILITY: "9.0"}}]


@each_vendor
def test_a_box_is_read(case: Case) -> None:
    made = [node(name, case.box(name)) for name in ("n1", "n2")]
    keys = [device.uuid for each in made for device in each.devices]
    assert None not in keys
    assert len(set(keys)) == 16
    for each in made:
        assert (each.ready, each.reason) == (True, "")
        assert [device.index for device in each.devices] == list(range(8))
        assert {(d.product, d.device_class) for d in each.devices} == {(case.product, case.vendor.driver)}
        assert {d.numa for d in each.devices} == case.numa
        assert all(d.capacity["memory"] >= 80 << 30 for d in each.devices)
        assert all(("driverVersion" in d.attributes) is ("driver_version" in case.asked) for d in each.devices)
        assert each.clique == (f"box.{each.name}" if case.joined else None)
        buses = [str(d.attributes["pciBusID"]) for d in each.devices]
        assert len(set(buses)) == 8
        if not case.vendor.numbered:
            assert buses == sorted(buses), "whatever the order in which they are published"
        if case.joined:
            assert all(each.links[i][j] for i in range(8) for j in range(8) if i != j)
        else:
            assert each.links == (), "nothing is known of links"


@each_vendor
def test_a_gang_is_planned_into_one_box(case: Case) -> None:
    inventory = Inventory([node(name, case.box(name)) for name in ("n1", "n2")])
    devices = gpu(memory=">=80G", product=case.product, **case.asked)
    assert not isinstance(plan(inventory, gang([{"GPU": 4}] * 4, devices=devices)), Unsatisfiable)
    inside = plan(inventory, gang([{"GPU": 4}] * 2, locality=Locality(cliques=1), devices=devices))
    assert isinstance(inside, Unsatisfiable) is not case.joined
    for attribute in {"driver_version", "compute_capability"} - case.asked.keys():
        if isinstance(answer := plan(inventory, gang([{"GPU": 1}], devices=gpu(**{attribute: ">=1"}))), Unsatisfiable):
            assert answer.shortfalls, "nobody says so much of these GPUs"
        else:
            assert case.vendor is NVIDIA
    for other in VENDORS.values():
        answer = plan(inventory, gang([{"GPU": 4}], devices=gpu(device_class=other.device_class)))
        assert isinstance(answer, Unsatisfiable) is (other is not case.vendor)
        if isinstance(answer, Unsatisfiable):
            first = answer.shortfalls[0]
            assert (first.kind, first.available) == (ShortfallKind.DEVICE_CLASS, (case.vendor.device_class,))


@each_vendor
def test_claims_name_what_was_planned_and_are_read_back(case: Case) -> None:
    nodes = [node(name, case.box(name)) for name in ("n1", "n2")]
    request = gang([{"GPU": 6, "CPU": 4}] * 2, devices=gpu(memory=">=80G", **case.asked))
    allocation = allocate(nodes, request, compute_domains=False)
    raycluster = read_raycluster(cluster_of(case.vendor))
    attempt = attempt_of(allocation, raycluster, compute_domains=False, asked=request.bundles)
    content: list[dict[str, Any]] = []
    named: list[str] = []
    for number, slot in enumerate(attempt.slots.values()):
        for claim in attempt.claims(slot, f"uid-{number}").values():
            back = read_claim({**claim, "metadata": {**claim["metadata"], "uid": "u"}})
            assert (back.named, back.count) == (slot.uuids, 6)
            named += back.named
            content.append(claim)
        content.append(attempt.pod(slot))
    assert sorted(named) == sorted(g.uuid or "" for b in allocation.bundles for g in b.grants)
    golden = GOLDEN / f"vendor-{case.vendor.name.lower()}.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))


@each_vendor
def test_a_gang_gets_its_workers_and_a_strangers_gpu_is_left_alone(case: Case) -> None:
    """Through the coordinator, on the fake Kubernetes, whose allocator reads the claims' CEL."""
    there = [(KubeNode(name, cpus=64, memory=512 << 30), case.box(name)) for name in ("n1", "n2")]
    world = World(there=there, raycluster=cluster_of(case.vendor))
    stranger = case.box("n1")[0]["spec"]["devices"][0]["name"]
    world.kube.take("n1", stranger)
    request = request_from_bundles([{"GPU": 5.0}] * 2)
    status = world.coordinator.submit(Order(request, owner="job"))
    assert world.drive(status.gang) is Phase.READY
    claimed = [device for device in world.kube.claimed() if device != ("n1", stranger)]
    assert len(claimed) == len(set(claimed)) == 10
    world.coordinator.release(status.gang)
    world.settle()
    assert world.kube.claimed() == [("n1", stranger)]


def test_a_raycluster_of_one_vendor_has_no_gpus_of_another() -> None:
    there = [(KubeNode(case.vendor.name.lower()), case.box(case.vendor.name.lower())) for case in CASES]
    for case in CASES:
        world = World(there=there, raycluster=cluster_of(case.vendor))
        world.coordinator.observe()
        assert set(world.coordinator.inventory.node_states) == {case.vendor.name.lower()}
    unknown = cluster()
    unknown["metadata"]["annotations"] = {DRIVER_ANNOTATION: "gpu.example.com"}
    world = World(raycluster=unknown)
    with pytest.raises(InvalidRequest, match=r"(?s)This DRA driver is not known.*gpu\.example\.com"):
        world.coordinator.submit(world.order())


def test_a_driver_that_is_named_while_gangs_run_counts_from_the_next_start_on() -> None:
    there = [(KubeNode("n1", cpus=64, memory=512 << 30), amd.box("n1"))]

    world = World(there=there, raycluster=cluster_of(AMD))
    gang = world.coordinator.submit(Order(request_from_bundles([{"GPU": 5.0}]), owner="job")).gang
    world.kube.annotate_raycluster({DRIVER_ANNOTATION: NVIDIA.driver})
    assert world.drive(gang) is Phase.READY, "its claims are for what was planned"
    world.restart()
    world.turn()
    assert not world.coordinator.inventory.node_states


@pytest.mark.parametrize("plugin", ["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe"])
def test_a_device_plugin_of_any_vendor_keeps_gangs_away(plugin: str) -> None:
    seen = read_node({"metadata": {"name": "n1"}, "status": {"allocatable": {plugin: "8"}}})
    assert seen.device_plugin == plugin


# -- what is Intel's alone


def test_intels_memory_may_not_be_known_and_its_virtual_functions_take_the_whole_node() -> None:
    """A driver without rights says 0 bytes until another daemon tells; and nothing says of which GPU a function is."""
    devices = [intel.gpu(0, memory="0"), intel.gpu(1), intel.virtual_function(2)]
    published = read(intel.slices("n1", devices))
    made = node_from_slices(KubeNode("n1"), published)
    assert [d.capacity["memory"] for d in made.devices] == [0, 128 << 30]
    assert not isinstance(plan(Inventory([made]), gang([{"GPU": 2}])), Unsatisfiable)
    assert isinstance(plan(Inventory([made]), gang([{"GPU": 2}], devices=gpu(memory=">=1G"))), Unsatisfiable)
    assert parts_of(published).taken_with(devices[2]["name"]) is None


def test_intels_sick_gpus_are_tainted() -> None:
    sick = {**intel.gpu(1), "taints": [{"key": "HealthIssues-memorytemperature", "effect": "NoExecute"}]}
    made = node("n1", intel.slices("n1", [intel.gpu(0), sick]))
    assert [d.health.value for d in made.devices] == ["ok", "tainted"]


# -- what is AMD's alone

MODES = ("cpx_nps4", "", "cpx_nps4", "dpx_nps1")


def test_amds_partitions_are_parts_that_are_counted() -> None:
    made = node("n1", amd.partitioned("n1", MODES))
    check_nodes([made])
    assert [device.id.device for device in made.devices] == ["gpu-8-136"]
    keys = [f"n1/{amd.BUSES[at]}" for at in (0, 2, 3)]
    assert [(gpu.uuid, gpu.position, len(gpu.parts)) for gpu in made.parted] == [
        (key, None, many) for key, many in zip(keys, (8, 8, 2), strict=True)
    ]
    assert {part.profile for part in made.parted[2].parts} == {"dpx_nps1"}
    assert all(part.uuid is None and part.memory == amd.MEMORY // 8 for part in made.parted[0].parts)
    assert inventory_of(load_snapshot(dump_snapshot(snapshot_of(Inventory([made]))))).node_states["n1"].node == made


@given(
    asked=st.lists(st.lists(st.sampled_from(["cpx_nps4", "dpx_nps1"]), min_size=1, max_size=6), min_size=1, max_size=5),
    others=st.integers(0, 255),
)
def test_amds_partitions_are_planned_as_they_can_be_counted(asked: list[list[str]], others: int) -> None:
    inventory = Inventory([node("n1", amd.partitioned("n1", MODES))])
    inventory.set_parts("n1", {f"n1/{amd.BUSES[0]}": others}, {})
    left = {"cpx_nps4": 16 - others.bit_count(), "dpx_nps1": 2}
    for number, profiles in enumerate(asked):
        bundles = tuple(b for p in profiles for b in gang([{"GPU": 1}], part=ray_dra.partition(p)).bundles)
        answer = plan(inventory, GangRequest(str(number), bundles))
        fits = all(profiles.count(p) <= n for p, n in left.items())
        assert isinstance(answer, Allocation) is fits
        if isinstance(answer, Allocation):
            inventory.hold(answer)
            left = {p: n - profiles.count(p) for p, n in left.items()}


def test_claims_of_amds_partitions_say_gpu_and_profile() -> None:
    made = node("n1", amd.partitioned("n1", MODES))
    request = gang([{"GPU": 1}] * 10, part=ray_dra.partition("cpx_nps4"))
    assert ray_bundles(request)[0] == {"GPU": 1.0}, "no resource of MIG's"
    allocation = allocate([made], request, compute_domains=False)
    attempt = attempt_of(allocation, read_raycluster(cluster_of(AMD)), compute_domains=False, asked=request.bundles)
    (slot,) = attempt.slots.values()
    claims = list(attempt.claims(slot, "uid").values())
    counted = {}
    for claim in claims:
        back = read_claim({**claim, "metadata": {**claim["metadata"], "uid": "u"}})
        counted[back.named] = back.count
    assert sorted(counted.values()) == [2, 8]
    assert set(counted) <= {(f"n1/{amd.BUSES[at]}",) for at in (0, 2)}
    golden = GOLDEN / "vendor-amd-partitions.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(claims)), sort_keys=False, width=120))
    assert claims == list(yaml.safe_load_all(golden.read_text()))


def test_gangs_of_amds_partitions_come_and_go_beside_strangers() -> None:
    there = [(KubeNode("n1", cpus=64, memory=512 << 30), amd.partitioned("n1", MODES))]
    world = World(there=there, raycluster=cluster_of(AMD))
    for number in (0, 3):
        world.kube.take("n1", f"gpu-{number}-{128 + number}")
    world.coordinator.observe()
    first, second = (request_from_bundles([{"GPU": 1}] * 7, part=ray_dra.partition("cpx_nps4")) for _ in range(2))
    gangs = [world.coordinator.submit(Order(first, owner="job")).gang]
    assert world.drive(gangs[0]) is Phase.READY
    gangs.append(world.coordinator.submit(Order(second, owner="job")).gang)
    assert world.drive(gangs[1]) is Phase.READY
    world.restart()
    for _ in range(3):
        world.turn()
    assert [world.coordinator.status(each).phase for each in gangs] == [Phase.READY] * 2
    assert len(set(world.kube.claimed())) == len(world.kube.claimed()) == 16
    waits = world.coordinator.submit(
        Order(request_from_bundles([{"GPU": 1}], part=ray_dra.partition(memory="20Gi")), owner="job")
    )
    assert world.drive(waits.gang) is Phase.READY, "one of the two of dpx_nps1"
    full = world.coordinator.submit(
        Order(request_from_bundles([{"GPU": 1}], part=ray_dra.partition("cpx_nps4")), owner="job")
    )
    assert full.phase is Phase.QUEUED
    world.coordinator.release(gangs[0])
    assert world.drive(full.gang) is Phase.READY
    for each in (gangs[1], waits.gang, full.gang):
        world.coordinator.release(each)
    world.settle()


def test_a_profile_is_named_as_its_vendor_has_it() -> None:
    assert str(ray_dra.partition("cpx_nps4")) == "cpx_nps4"
    for wrong in ("spx_nps1", "1g.10gb", "cpx", "cpx_nps4\n", ""):
        with pytest.raises(InvalidRequest, match="AMD's partitions"):
            ray_dra.partition(wrong)
    with pytest.raises(InvalidRequest, match="profile of MIG"):
        ray_dra.mig("cpx_nps4")
    assert load_request("bundles: [{GPU: 1}]\npart: cpx_nps4\n").bundles[0].part == ray_dra.partition("cpx_nps4")


@pytest.mark.parametrize(
    ("product", "joined"),
    [
        ("AMD_Instinct_MI300X_OAM", True),
        ("AMD_Instinct_MI300A", True),
        ("AMD Instinct MI355X", True),
        ("AMD_Instinct_MI250X_MI250", False),
        ("AMD_Instinct_MI210", False),
    ],
)
def test_amds_boxes_are_cliques_where_xgmi_joins_all(product: str, joined: bool) -> None:
    made = node("n1", amd.box("n1", product))
    assert (made.clique is not None, bool(made.links)) == (joined, joined)


@pytest.mark.parametrize("buses", [(None,), (amd.BUSES[0], amd.BUSES[0])])
def test_gpus_that_nothing_tells_apart_are_left_out(buses: tuple[str | None, ...]) -> None:
    """A claim that asks by an attribute that a device lacks ends the whole allocation in an error."""
    named: list[dict[str, Any]] = [{BUS_ATTRIBUTE: {"string": bus} if bus else None} for bus in buses]
    devices = [amd.gpu(at, **each) for at, each in enumerate(named)]
    made = node("n1", amd.slices("n1", devices))
    assert (made.ready, "nothing tells its GPUs apart" in made.reason) == (False, True)


def test_amds_partitions_and_gpus_passed_through_are_no_gpus_and_take_theirs() -> None:
    devices = [amd.gpu(0), amd.passed_through(0), *(amd.partition(1, number) for number in range(8))]
    published = read(amd.slices("n1", devices))
    assert [d.id.device for d in node_from_slices(KubeNode("n1"), published).devices] == ["gpu-0-128"]
    parts = parts_of(published)
    assert parts.taken_with("gpu-vfio-0") == frozenset({"gpu-0-128"})
    assert parts.taken_with("gpu-11-139") == frozenset()  # of a GPU that is not offered whole


def test_amds_partitions_on_demand_take_the_gpu_that_they_are_of() -> None:
    devices = [amd.on_demand(at, mode) for at in range(2) for mode in ("spx-nps1", "dpx-nps2", "cpx-nps4")]
    devices[3]["taints"] = [{"key": "memory-partition-conflict", "value": "", "effect": "NoExecute"}]
    published = read(amd.slices("n1", devices, amd.counters(2)))
    made = node_from_slices(KubeNode("n1"), published)
    assert made.ready
    assert [(d.id.device, d.index, d.health.value) for d in made.devices] == [
        ("gpu-0-spx-nps1", 0, "ok"),
        ("gpu-1-spx-nps1", 1, "tainted"),
    ]
    assert parts_of(published).taken_with("gpu-0-cpx-nps4") == frozenset({"gpu-0-spx-nps1"})
    assert not made.parted  # gangs cannot ask for them


def test_a_slice_of_a_driver_that_nobody_knows_is_no_pool_of_gpus() -> None:
    (published,) = amd.box("n1")
    published["spec"]["driver"] = "gpu.example.com"
    published["metadata"]["resourceVersion"] = "1"
    assert node_from_slices(KubeNode("n1"), [read_slice(published)]).devices == ()


@each_vendor
def test_gpus_are_shared_where_claims_can_say_so(case: Case) -> None:
    """Elsewhere the no names the nodes, and why."""
    inventory = Inventory([node(name, case.box(name)) for name in ("n1", "n2")])
    for sharing in (mps(), time_slicing()):
        answer = plan(inventory, gang([{"GPU": 0.5}] * 4, sharing=sharing))
        assert isinstance(answer, Unsatisfiable) is (not case.vendor.sharing_config)
        if isinstance(answer, Unsatisfiable):
            assert f"claims cannot set how GPUs of {case.vendor.name} are shared" in str(answer.shortfalls[0])
