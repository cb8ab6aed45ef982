"""What vLLM does, in short: an engine asks for bundles of one GPU, the first on its own node, with a worker on each.

RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/vllm_shaped.py
"""

import os

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

RANKS = 6


class Worker:
    """One GPU of the engine."""

    def look(self) -> tuple[str, str]:
        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


class Engine:
    """It has no GPU itself."""

    def start(self) -> tuple[str, list[tuple[str, str]]]:
        own = f"node:{ray.util.get_node_ip_address()}"
        bundles: list[dict[str, float]] = [{"GPU": 1} for _ in range(RANKS)]
        bundles[0][own] = 0.001
        group = placement_group(bundles, strategy="PACK")
        ray.get(group.ready(), timeout=120)
        places = [PlacementGroupSchedulingStrategy(group, bundle) for bundle in range(RANKS)]
        self.workers = [
            ray.remote(Worker).options(num_gpus=1, num_cpus=0, scheduling_strategy=place).remote() for place in places
        ]
        return ray.get_runtime_context().get_node_id(), ray.get([worker.look.remote() for worker in self.workers])


def domain(node: str) -> str:
    """The GPU domain of a node."""
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    return str(labels.get("ray.io/gpu-domain", ""))


ray.init(log_to_driver=False)
engine = ray.remote(Engine).options(num_cpus=0, resources={"accelerator_type:GB200": 0.001}).remote()
here, found = ray.get(engine.start.remote())
assert found[0][0] == here, "the first rank is where the engine is"
for rank, (_, gpus) in enumerate(found):
    print(f"rank {rank}: GPU {gpus}")
print(f"{len({domain(node) for node, _ in found})} clique")
ray.shutdown()
