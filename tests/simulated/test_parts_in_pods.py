"""A gang's parts from the plan to its pod, without a cluster: what is planned, claimed, allocated, made by the driver
and shown by NVML in the container are the same parts, in the order in which the raylet numbers them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import Bundle, DeviceRequest
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.processes.join_gang import difference, parts_of
from ray_dra.simulated.dra.devices import slices
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.translate.files.shared_records import PlannedSlot
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.pods import gate_opened, read_pod
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.nvml.offered import offered_parts
from ray_dra.translate.nvml.reading import node_from_reading
from ray_dra.translate.vendors import part_resources
from tests.simulated.test_dra_prepare import DYNAMIC, Bench
from tests.simulated.test_dra_prepare import claim as allocated
from tests.simulated.test_profiles import read as nvml
from tests.translate.kube.objects import CLUSTER, allocate, cluster, gang, read

KUBE_NODE = KubeNode("n1", cpus=64, memory=512 << 30)


@pytest.mark.parametrize(
    "profiles", [["1g.10gb"] * 56, ["3g.40gb", "1g.10gb+me", "4g.40gb", "2g.20gb", "1g.10gb", "1g.20gb"]]
)
def test_a_pod_has_the_parts_that_were_planned(tmp_path: Path, profiles: list[str]) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    published = slices(bench.pool(), "n1", 1)
    bundles = {profile: Bundle((DeviceRequest(1, part=PartCriteria(profile)),)) for profile in profiles}
    request = replace(gang([{"GPU": 1}]), bundles=tuple(bundles[profile] for profile in profiles))
    made = attempt_of(
        allocate([node_from_slices(KUBE_NODE, read(published))], request),
        CLUSTER,
        compute_domains=False,
        asked=request.bundles,
    )
    (slot,) = made.slots.values()
    kube = FakeKube(cluster(), [(KUBE_NODE, published)])
    pod = kube.create(made.pod(slot))
    for claim in made.claims(slot, pod).values():
        kube.create(claim)
    kube.patch("Pod", slot.name, gate_opened(read_pod(kube._things["Pod", slot.name])))
    kube.step()
    prepared: list[Any] = []
    for claim in kube._of("ResourceClaim"):
        assert claim["status"]["allocation"]["devices"]["results"], "the allocator serves every claim"
        prepared += bench.preparer.prepare(claim)
    node = node_from_reading("n1", nvml(bench.container(prepared)), with_links=False)
    planned = PlannedSlot(slot.uuids, slot.clique, slot.parts)
    assert difference(planned, node) == ""
    there = {part.uuid: part for part in bench.machine.mig_state().parts}
    visible = parts_of(planned, node)
    assert sorted(visible) == sorted(there)
    ids = {kind.id: kind.profile for kind in bench.machine.node.profile.mig}
    found = [(bench.machine.node.uuid(there[uuid].gpu), ids[there[uuid].profile]) for uuid in visible]
    if "1g.10gb+me" in profiles:  # which NVML does not tell from 1g.10gb
        found = [(gpu, profile.partition("+")[0]) for gpu, profile in found]
        assert found == [(gpu, profile.partition("+")[0]) for gpu, profile, _ in slot.parts]
    else:
        assert found == [(gpu, profile) for gpu, profile, _ in slot.parts]


def test_a_pod_of_no_gang_offers_the_parts_of_its_claims(tmp_path: Path) -> None:
    """By NVML alone, and none of those that other pods of the node have."""
    bench = Bench(tmp_path, gates=DYNAMIC)
    others = allocated("others", *((f"p{at}", f"gpu-0-mig-1g10gb-19-{at}") for at in range(3)))
    bench.preparer.prepare(others)
    mine = allocated(
        "mine", *((f"p{at}", f"gpu-0-mig-1g10gb-19-{at}") for at in range(3, 7)), ("large", "gpu-5-mig-3g40gb-9-4")
    )
    prepared = bench.preparer.prepare(mine)
    node = node_from_reading("n1", nvml(bench.container(prepared)), with_links=False)
    parts = offered_parts(node, None)
    there = {part.uuid: (part.gpu, part.start) for part in bench.machine.mig_state().parts}
    assert parts is not None
    assert [there[part.uuid] for part in parts] == [(0, 3), (0, 4), (0, 5), (0, 6), (5, 4)]
    assert part_resources(part.profile for part in parts) == {"MIG-1g.10gb": 4, "MIG-3g.40gb": 1}
    whole = bench.preparer.prepare(allocated("whole", ("gpu", "gpu-7")))
    assert offered_parts(node_from_reading("n1", nvml(bench.container(whole)), with_links=False), None) == ()
    both = nvml(bench.container([*prepared, *whole]))
    assert offered_parts(node_from_reading("n1", both, with_links=False), None) is None
