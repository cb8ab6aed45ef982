"""A gang of two nodes on real kubelets with real Ray, beside two workers of a KubeRay group added by hand.

From the call until the placement group is ready, the image present, and where the time goes by stage. By hand: the same
workers and claims without pins, from the patch of the RayCluster until a plain placement group that waits for them is
ready; once without IMEX, as KubeRay alone has it, and once with a channel of a ComputeDomain, as our workers have. In
turns, in one run.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import uuid
from pathlib import Path

from figures import parser, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from ray_dra.translate.names import COMPUTE_DOMAIN_API
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, install, told
from tests.cluster.world import Namespace, request

PRODUCT = "device.attributes['gpu.nvidia.com'].productName == 'NVIDIA GB200'"
WAYS = ("ray-dra", "kuberay", "kuberay with IMEX")

OURS = """
from ray_dra.processes.calls import coordinator
began = time.time()
gang = racks(2)
gang.wait(240)
took = time.time() - began
time.sleep(1)  # the coordinator sees it at its next look
times = ray.get(coordinator().status.remote(gang.id)).times
tell(took=took, stages=dict(times.spent))
gang.remove()
"""
BY_HAND = """
import json, time
import ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
def tell(**what):
    print("TOLD", json.dumps(what), flush=True)
group = ray.util.placement_group([{"GPU": 4}] * 2, "STRICT_SPREAD")
tell(asked=True)
tell(ready=group.wait(240), at=time.time())
"""


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    cluster = Cluster.up(f"bench-{os.getpid()}", say=lambda text: None)
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    stages: list[dict[str, float]] = []
    try:
        namespace = Namespace(cluster, f"b-{uuid.uuid4().hex[:8]}")
        head = install(namespace)
        template = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "by-hand"},
            "spec": {"spec": {"devices": {"requests": [request(count=4, cel=[PRODUCT])]}}},
        }
        head.api.create(template, namespace.name)
        for number in range(options.rounds):
            (ours,) = head.run(OURS)
            head.wait_nothing_left()
            took["ray-dra"].append(ours["took"])
            stages.append(ours["stages"])
            took["kuberay"].append(by_hand(head, f"hand-{number}"))
            took["kuberay with IMEX"].append(by_hand(head, f"imex-{number}", imex=True))
            print(f"round {number}: {', '.join(f'{way} {took[way][-1]:.1f} s' for way in WAYS)}", flush=True)
        head.close()
    finally:
        cluster.down()
    middle = {way: statistics.median(took[way]) for way in WAYS}
    print(f"2 nodes, medians of {options.rounds}: {', '.join(f'{way} {middle[way]:.1f} s' for way in WAYS)}")
    for way in WAYS[1:]:
        print(f"ray-dra is {middle['ray-dra'] / middle[way]:.2f} times {way}")
    for stage in stages[0]:
        seconds = [each.get(stage, 0.0) for each in stages]
        share = statistics.median(spent / sum(each.values()) for spent, each in zip(seconds, stages, strict=True))
        print(f"  {stage:<9} {statistics.median(seconds):5.2f} s {100 * share:3.0f} %")
    ratio = middle["ray-dra"] / middle["kuberay"]
    write(options.json, [{"nodes2_ratio": ratio, "seconds": took, "stages": stages}])


def by_hand(head: Head, name: str, *, imex: bool = False) -> float:
    at = head.namespace.name
    program = head.start(BY_HAND, prelude="")  # a plain Ray program: through ray_dra:// its group would be a gang
    told(program)
    group = head.group_by_hand(name, "by-hand")
    if imex:
        _domain(head, name)
        spec = group["template"]["spec"]
        spec["resourceClaims"].append({"name": "imex", "resourceClaimTemplateName": f"{name}-channel"})
        spec["containers"][0]["resources"]["claims"].append({"name": "imex"})
    path = "/spec/workerGroupSpecs"
    began = time.time()
    head.api.patch("RayCluster", "gangs", [{"op": "add", "path": f"{path}/-", "value": group}], at)
    ready = told(program)
    assert ready["ready"]
    program.kill()
    program.wait()
    head.api.patch("RayCluster", "gangs", [{"op": "add", "path": f"{path}/1/suspend", "value": True}], at)
    head.cluster.wait(lambda: not head.api.items("Pod", at, labels=f"ray.io/group={name}"), 60, "the workers to end")
    head.api.patch("RayCluster", "gangs", [{"op": "remove", "path": f"{path}/1"}], at)
    if imex:
        head.api.delete("ComputeDomain", name, at)
        head.cluster.wait(lambda: head.api.find("ComputeDomain", name, at) is None, 60, "the domain to end")
    return float(ready["at"]) - began


def _domain(head: Head, name: str) -> None:
    """A ComputeDomain, and its controller has made the template of the channels' claims: before the clock runs."""
    at, channel = head.namespace.name, f"{name}-channel"
    spec = {"numNodes": 0, "channel": {"resourceClaimTemplate": {"name": channel}, "allocationMode": "Single"}}
    thing = {"apiVersion": COMPUTE_DOMAIN_API, "kind": "ComputeDomain", "metadata": {"name": name}, "spec": spec}
    head.api.create(thing, at)
    head.cluster.wait(lambda: head.api.find("ResourceClaimTemplate", channel, at) is not None, 30, "the template")


if __name__ == "__main__":
    main()
