"""What verl does, in short: a task makes one STRICT_PACK group a node, with bundles of one GPU, and an actor on each.

RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2&locality=*verl_group_*=same_clique(set=2)" \
    python examples/unchanged/verl_shaped.py
"""

import os

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NODES, GPUS = 2, 4


class Worker:
    """One GPU of the pool."""

    def look(self) -> tuple[str, str]:
        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


def domain(node: str) -> str:
    """The GPU domain of a node."""
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    return str(labels.get("ray.io/gpu-domain", ""))


def run() -> list[list[tuple[str, str]]]:
    """The main task, as verl has one."""
    groups = [
        placement_group(
            [{"CPU": 0.25, "GPU": 1, "accelerator_type:GB200": 1e-4} for _ in range(GPUS)],
            strategy="STRICT_PACK",
            name=f"actor_rolloutverl_group_{GPUS}_{GPUS}:{node}",
        )
        for node in range(NODES)
    ]
    ray.get([group.ready() for group in groups])
    pool = [
        [
            ray.remote(Worker)
            .options(num_gpus=1, num_cpus=0.25, scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle))
            .remote()
            for bundle in range(GPUS)
        ]
        for group in groups
    ]
    return [ray.get([worker.look.remote() for worker in workers]) for workers in pool]


ray.init(log_to_driver=False)
found = ray.get(ray.remote(run).options(num_cpus=0).remote())
for node, workers in enumerate(found):
    assert len({where for where, _ in workers}) == 1, "a group lies on one node"
    print(f"group {node}: GPUs {' '.join(gpus for _, gpus in workers)}")
print(f"{len({domain(workers[0][0]) for workers in found})} clique")
ray.shutdown()
