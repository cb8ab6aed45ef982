"""A training program of Ray Train alone: four workers with two GPUs each; every rank says where it is and what it has.

pip install "ray[train]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/train.py
"""

import os
import tempfile
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

WORKERS, GPUS = 4, 2


class Seen:
    """What the ranks see: they may be on other machines than the program."""

    def __init__(self) -> None:
        self.by_rank: dict[int, tuple[str, str]] = {}

    def say(self, rank: int, domain: str, gpus: str) -> None:
        self.by_rank[rank] = domain, gpus

    def all(self) -> list[tuple[str, str]]:
        return [self.by_rank[rank] for rank in sorted(self.by_rank)]


def work(config: dict[str, Any]) -> None:
    """One rank: tells its place among the others, its GPU domain and GPUs."""
    context = ray.train.get_context()
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    domain, gpus = labels.get("ray.io/gpu-domain", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    ray.get(config["seen"].say.remote(context.get_world_rank(), domain, gpus))


with tempfile.TemporaryDirectory() as folder:
    ray.init(log_to_driver=False)
    head = {"node:__internal_head__": 0.001}  # which outlives the nodes of workers
    seen = ray.remote(Seen).options(num_cpus=0, resources=head).remote()
    trainer = DataParallelTrainer(
        work,
        train_loop_config={"seen": seen},
        scaling_config=ScalingConfig(
            num_workers=WORKERS,
            use_gpu=True,
            resources_per_worker={"GPU": GPUS, "CPU": 0.25},
            placement_strategy="PACK",
        ),
        run_config=RunConfig(storage_path=folder, name="run"),
    )
    trainer.fit()
    found = ray.get(seen.all.remote())
    ray.shutdown()
assert len(found) == WORKERS
for rank, (_, gpus) in enumerate(found):
    print(f"rank {rank}: GPUs {gpus}")
print(f"{len({domain for domain, _ in found})} clique")
