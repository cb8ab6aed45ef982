"""Ray Train, elastic: from two workers with two GPUs each up to eight, as many as the cluster has GPUs for. Where a
node is lost, it goes on with fewer.

pip install "ray[train]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/train_elastic.py
"""

import os
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

WORKERS, GPUS = (2, 8), 2
SIZES = int(sys.argv[1]) if sys.argv[1:] else 1  # in how many sizes it is to have run before it ends


class Seen:
    """What the ranks see, by how many they are."""

    def __init__(self) -> None:
        self.by_size: dict[int, dict[int, tuple[str, str]]] = {}

    def say(self, size: int, rank: int, domain: str, gpus: str) -> None:
        self.by_size.setdefault(size, {})[rank] = domain, gpus

    def whole(self) -> dict[int, list[tuple[str, str]]]:
        """Those sizes of which every rank has spoken."""
        return {
            size: [ranks[rank] for rank in sorted(ranks)] for size, ranks in self.by_size.items() if len(ranks) == size
        }


def work(config: dict[str, Any]) -> None:
    """One rank: tells its place, and works on until the program has run in enough sizes."""
    context, seen = ray.train.get_context(), config["seen"]
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    domain, gpus = labels.get("ray.io/gpu-domain", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    ray.get(seen.say.remote(context.get_world_size(), context.get_world_rank(), domain, gpus))
    while len(ray.get(seen.whole.remote())) < config["sizes"]:
        time.sleep(0.2)


with tempfile.TemporaryDirectory() as folder:
    ray.init(log_to_driver=False)
    head = {"node:__internal_head__": 0.001}  # which outlives the nodes of the workers
    seen = ray.remote(Seen).options(num_cpus=0, resources=head).remote()
    trainer = DataParallelTrainer(
        work,
        train_loop_config={"seen": seen, "sizes": SIZES},
        scaling_config=ScalingConfig(
            num_workers=WORKERS,
            use_gpu=True,
            resources_per_worker={"GPU": GPUS, "CPU": 0.25},
            placement_strategy="PACK",
        ),
        run_config=RunConfig(storage_path=folder, name="run", failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()
    found = ray.get(seen.whole.remote())
    ray.shutdown()
for size, ranks in found.items():
    for rank, (_, gpus) in enumerate(ranks):
        print(f"rank {rank} of {size}: GPUs {gpus}")
    cliques = len({domain for domain, _ in ranks})
    print(f"{size} workers in {cliques} {'clique' if cliques == 1 else 'cliques'}")
