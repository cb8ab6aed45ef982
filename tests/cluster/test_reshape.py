"""A gang on KubeRay changes between 56 parts of eight GPUs and the eight whole, and strangers that wait for any
of these all the while get none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from ray_dra.errors import KubernetesError
from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, installation, told
from tests.cluster.nodes import NodeSpec
from tests.cluster.world import Account, Namespace

NODE = "mig"
EXAMPLE = PROJECT / "examples" / "shapes" / "phases.py"
SHAPES = """
@ray.remote(num_gpus=1, num_cpus=0)
class Rank:
    def look(self):
        return ray_dra.get_devices()[0].uuid
def looks(gang):
    "What each bundle sees; a few at a time, as a test's worker has little memory."
    found, bundles = [], range(gang.bundle_count)
    for some in (bundles[at:at + 7] for at in range(0, len(bundles), 7)):
        at = [Strategy(gang.placement_group, bundle) for bundle in some]
        ranks = [Rank.options(scheduling_strategy=each).remote() for each in at]
        found += ray.get([rank.look.remote() for rank in ranks], timeout=200)
        for rank in ranks:
            ray.kill(rank)
    return found
def changed(name, *shape, **more):
    began = time.time()
    if shape:
        gang.reshape(*shape, grace=1, **more)
    else:
        gang.switch(name, grace=1)
    took = time.time() - began
    tell(shape=name, took=took, gpus=sorted({grant.part.parent if grant.part else grant.uuid
                                             for grant in gang.allocation.grants}), seen=looks(gang))
PARTS = [{"GPU": 1}] * 56
gang = ray_dra.placement_group(PARTS, part=ray_dra.mig("1g.10gb"))
gang.wait(120)
tell(gpus=sorted({grant.part.parent for grant in gang.allocation.grants}))
hold()
changed("whole", [{"GPU": 1}] * 8)
hold()
gang.phases({"few": ray_dra.shape([{"GPU": 1}] * 3), "parts": ray_dra.shape(PARTS, part=ray_dra.mig("1g.10gb"))})
changed("few")
hold()
changed("parts")
hold()
gang.remove()
"""


@pytest.fixture
def allowed(head: Head) -> Iterator[Head]:
    """A head whose account may guard GPUs, until the test is over."""
    head.cluster.kubectl("apply", "-k", str(installation(head.namespace, "shapes")))
    yield head
    at = head.namespace.name
    for kind, name in (
        ("clusterrole", f"ray-dra:shapes:{at}"),
        ("clusterrolebinding", f"ray-dra:shapes:{at}"),
        ("validatingadmissionpolicy", f"ray-dra-guards.{at}"),
        ("validatingadmissionpolicybinding", f"ray-dra-guards.{at}"),
    ):
        head.cluster.kubectl("delete", kind, name)


def any_of(namespace: Namespace, name: str, device_class: str) -> None:
    """A pod that waits for whatever device of the class it can get on the node."""
    exactly = {"deviceClassName": device_class, "allocationMode": "ExactCount", "count": 1}
    namespace.claim(name, {"name": "any", "exactly": exactly})
    namespace.pod(name, name, node=NODE)


@pytest.mark.by_hand  # 192 s
def test_fifty_six_parts_become_eight_gpus_and_parts_again_and_strangers_get_none(
    cluster: Cluster, allowed: Head, namespace: Namespace
) -> None:
    head = allowed
    if NODE not in cluster.nodes:
        cluster.add_node(NodeSpec(NODE, profile="hgx-h100", gates="DynamicMIG"))
    machine = Machine(cluster.nodes[NODE].machine)
    process = head.start(SHAPES)
    gpus = told(process)["gpus"]
    assert len(gpus) == 8
    strangers = ("whole", "part")
    any_of(namespace, "whole", "gpu.nvidia.com")
    any_of(namespace, "part", "mig.nvidia.com")

    def results() -> list[dict[str, Any]]:
        claims = head.api.items("ResourceClaim", head.namespace.name, labels=ATTEMPT_LABEL)
        return [each for claim in claims for each in claim["status"]["allocation"]["devices"]["results"]]

    head.let_go()
    whole = told(process)
    assert whole["gpus"] == gpus
    assert sorted(whole["seen"]) == gpus
    assert not machine.mig_state().parts
    assert sorted(each["device"] for each in results()) == [f"gpu-{n}" for n in range(8)]
    cluster.wait(lambda: not head.api.items("DeviceTaintRule"), 10, "the guard to go")
    assert [namespace.phase(name) for name in strangers] == ["Pending", "Pending"]

    head.let_go()
    few = told(process)  # on the workers of the shape before, which keep the other GPUs
    assert sorted(few["seen"]) == few["gpus"]
    assert len(few["gpus"]) == 3
    assert set(few["gpus"]) < set(gpus)
    assert sorted(each["device"] for each in results()) == [f"gpu-{n}" for n in range(8)]

    head.let_go()
    parts = told(process)
    assert parts["gpus"] == gpus
    made = {part.uuid for part in machine.mig_state().parts}
    assert len(made) == 56
    assert set(parts["seen"]) == made
    assert Counter(each["device"].partition("-mig-")[0] for each in results()) == {f"gpu-{n}": 7 for n in range(8)}
    cluster.wait(lambda: not head.api.items("DeviceTaintRule"), 10, "the guard to go")
    assert [namespace.phase(name) for name in strangers] == ["Pending", "Pending"]
    print(f"to whole GPUs in {whole['took']:.1f} s, to few in {few['took']:.1f} s, to parts in {parts['took']:.1f} s")

    head.let_go()
    process.wait(60)
    head.wait_nothing_left()
    namespace.running("whole")  # which could have had one all the time
    cluster.wait(lambda: not machine.mig_state().parts or namespace.phase("part") == "Running", 30, "the rest")


KEEPS = """
PART = ray_dra.mig("1g.10gb")
gang = ray_dra.placement_group([{"GPU": 1}] * 56, part=PART)
gang.wait(200)
tell(ready=True)
hold()
gang.reshape([{"GPU": 1}] * 28, part=PART, grace=1, keep=True)
tell(kept=sum(len(placed.grants) for placed in gang.allocation.kept.placed), said=gang.explain().count("kept for"))
hold()
began = time.time()
gang.reshape([{"GPU": 8}], grace=1)
tell(took=time.time() - began, gpus=len(gang.allocation.grants))
hold()
gang.remove()
"""


@pytest.mark.by_hand
def test_what_a_gang_keeps_no_pod_gets_though_no_claim_has_it(
    cluster: Cluster, allowed: Head, namespace: Namespace
) -> None:
    if NODE not in cluster.nodes:
        cluster.add_node(NodeSpec(NODE, profile="hgx-h100", gates="DynamicMIG"))
    process = allowed.start(KEEPS)
    told(process)
    any_of(namespace, "whole", "gpu.nvidia.com")
    any_of(namespace, "part", "mig.nvidia.com")
    allowed.let_go()
    assert told(process) == {"kept": 4, "said": 1}
    cluster.wait(lambda: "" not in tainted(allowed), 20, "the rule of the whole node to go")
    assert {device.partition("-mig-")[0] for device in tainted(allowed)} <= {f"gpu-{n}" for n in range(8)}
    time.sleep(20)
    assert [namespace.phase(name) for name in ("whole", "part")] == ["Pending", "Pending"]
    allowed.let_go()
    back = told(process)
    assert back["gpus"] == 8
    print(f"{len(tainted(allowed))} rules; back to whole GPUs in {back['took']:.1f} s")
    assert [namespace.phase(name) for name in ("whole", "part")] == ["Pending", "Pending"]
    allowed.let_go()
    process.wait(60)
    allowed.wait_nothing_left()
    cluster.wait(lambda: not allowed.api.items("DeviceTaintRule"), 10, "the guard to go")
    namespace.running("whole")


def tainted(head: Head) -> set[str]:
    """The devices that rules name; "" for all of a node."""
    return {rule["spec"]["deviceSelector"].get("device", "") for rule in head.api.items("DeviceTaintRule")}


@pytest.mark.by_hand
def test_the_example_of_day_and_night(cluster: Cluster, allowed: Head, namespace: Namespace) -> None:
    """On one node: four GPUs change their shape, and data is prepared on two of the others."""
    name = "day"
    cluster.add_node(NodeSpec(name, profile="hgx-h100", gates="DynamicMIG,TimeSlicingSettings"))
    text = EXAMPLE.read_text()
    first = "from __future__ import annotations\n"
    assert text.count(first) == 1
    process = allowed.start(text.replace(first, f"{first}import sys; sys.argv = ['-', '--gpus', '4']\n"), prelude="")
    printed, _ = process.communicate(timeout=350)
    said = [line.partition(";")[0] for line in printed.splitlines()]
    assert said == [
        "day: 28 parts answered 28 requests",
        "night: one worker trained on 4 GPUs, all as planned",
        "day: 28 parts answered 28 requests",
        "data preparation ran all the while, 4 processes on 2 GPUs of their own",
    ], printed
    print(printed)
    allowed.wait_nothing_left()
    assert not allowed.api.items("DeviceTaintRule")


def test_the_account_makes_no_other_taints_and_takes_away_none_of_others(allowed: Head, account: Account) -> None:
    api = account("ray-dra", allowed.namespace)

    def rule(name: str, key: str = "ray-dra.io/guard", effect: str = "NoSchedule", **more: Any) -> dict[str, Any]:
        selector = {"driver": "gpu.nvidia.com", "pool": "none", **more.pop("selector", {})}
        labels = {"ray-dra.io/namespace": more.pop("whose", allowed.namespace.name)}
        taint = {"key": key, "value": "a.b", "effect": effect}
        meta = {"name": name, "labels": labels}
        kind = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule"}
        return {**kind, "metadata": meta, "spec": {"deviceSelector": selector, "taint": taint}}

    def refused() -> bool:
        """Both the right and the policy are there."""
        no = not _may(api, rule("early", key="example.com/repair"))
        allowed.api.delete("DeviceTaintRule", "early")
        return no and _may(api, rule("tried"))

    allowed.cluster.wait(refused, 30, "the policy to be there")
    for other in (
        rule("other-key", key="example.com/repair"),
        rule("evicts", effect="NoExecute"),
        rule("of-others", whose="default"),
    ):
        with pytest.raises(KubernetesError, match="ray-dra"):
            api.create(other)
    allowed.api.create(rule("theirs", whose="default"))
    with pytest.raises(KubernetesError, match="own namespace"):
        api.delete("DeviceTaintRule", "theirs")
    allowed.api.delete("DeviceTaintRule", "theirs")
    api.delete("DeviceTaintRule", "tried")


def _may(api: Any, thing: dict[str, Any]) -> bool:
    try:
        api.create(thing)
    except KubernetesError:
        return False
    return True
