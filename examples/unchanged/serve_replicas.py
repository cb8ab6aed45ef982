"""Ray Serve alone: two replicas, each with a placement group of two bundles with two GPUs.

pip install "ray[serve]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/serve_replicas.py
"""

import os
from typing import Any

import ray
from ray import serve

REPLICAS, GPUS = 2, 2


def look() -> tuple[str, str]:
    """The GPU domain of this task's node, and its GPUs."""
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    return labels.get("ray.io/gpu-domain", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")


class Model:
    """A replica and its second worker."""

    def __init__(self) -> None:
        there = ray.get(ray.remote(look).options(num_gpus=GPUS, num_cpus=0).remote())
        self.places = [look(), there]

    def __call__(self) -> str:
        return f"{len({domain for domain, _ in self.places})} clique, GPUs {' '.join(gpus for _, gpus in self.places)}"


deployment: Any = serve.deployment(
    num_replicas=REPLICAS,
    ray_actor_options={"num_cpus": 0.5, "num_gpus": GPUS},
    placement_group_bundles=[{"CPU": 0.5, "GPU": GPUS}, {"GPU": GPUS}],
)(Model)
ray.init(log_to_driver=False)
serve.start(proxy_location="Disabled")
handle = serve.run(deployment.bind(), name="model", route_prefix=None)
for answer in sorted({handle.remote().result() for _ in range(20)}):
    print(f"replica: {answer}")
serve.shutdown()
ray.shutdown()
