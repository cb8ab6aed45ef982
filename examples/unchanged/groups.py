"""A program of Ray's alone: two placement groups of two nodes each, and a task on every bundle that looks at its GPUs.

python examples/unchanged/groups.py                                                       # Ray places it
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/groups.py
"""

import os

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

BUNDLES, GPUS = 2, 4


def look() -> tuple[str, str]:
    """The GPU domain of this task's node, and its GPUs."""
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    return labels.get("ray.io/gpu-domain", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")


ray.init(log_to_driver=False)
groups = [placement_group([{"GPU": GPUS}] * BUNDLES) for _ in range(2)]
for number, group in enumerate(groups):
    ray.get(group.ready(), timeout=120)
    tasks = [
        ray.remote(look)
        .options(num_gpus=GPUS, num_cpus=0, scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle))
        .remote()
        for bundle in range(BUNDLES)
    ]
    seen = ray.get(tasks)
    domains = {domain for domain, _ in seen}
    print(f"group {number}: {len(domains)} clique, GPUs {' and '.join(gpus for _, gpus in seen)}")
    remove_placement_group(group)
ray.shutdown()
