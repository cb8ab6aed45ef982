"""A gang of two nodes on real kubelets with real Ray, beside two workers of a KubeRay group added by hand.

From the call until the placement group is ready, the image present. By hand: the same workers and claims without pins,
from the patch of the RayCluster until a plain placement group that waits for them is ready. In turns, in one run.
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
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, install, told
from tests.cluster.world import Namespace, request

PRODUCT = "device.attributes['gpu.nvidia.com'].productName == 'NVIDIA GB200'"

OURS = """
began = time.time()
gang = racks(2)
gang.wait(240)
tell(took=time.time() - began)
gang.remove()
"""
BY_HAND = """
group = ray.util.placement_group([{"GPU": 4}] * 2, "STRICT_SPREAD")
tell(asked=True)
tell(ready=group.wait(240), at=time.time())
"""


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    cluster = Cluster.up(f"bench-{os.getpid()}", say=lambda text: None)
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
        took: dict[str, list[float]] = {"ray-dra": [], "kuberay": []}
        for number in range(options.rounds):
            took["ray-dra"].append(head.run(OURS)[0]["took"])
            head.wait_nothing_left()
            took["kuberay"].append(by_hand(head, f"hand-{number}"))
            print(
                f"round {number}: ray-dra {took['ray-dra'][-1]:.1f} s, by hand {took['kuberay'][-1]:.1f} s", flush=True
            )
        head.close()
    finally:
        cluster.down()
    ours, theirs = (statistics.median(took[name]) for name in ("ray-dra", "kuberay"))
    print(
        f"2 nodes, median of {options.rounds}: ray-dra {ours:.1f} s, by hand {theirs:.1f} s: {ours / theirs:.2f} times"
    )
    write(options.json, [{"nodes2_ratio": ours / theirs, "seconds": took}])


def by_hand(head: Head, name: str) -> float:
    at = head.namespace.name
    program = head.start(BY_HAND)
    told(program)
    group = head.group_by_hand(name, "by-hand")
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
    return float(ready["at"]) - began


if __name__ == "__main__":
    main()
