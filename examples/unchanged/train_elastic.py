"""Ray Train, elastic: from two workers with two GPUs each up to eight, as many as there is room for. Where a node is
lost, it goes on with fewer; where one comes back, it has more again.

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

GPUS = 2  # a worker
STARTS = int(sys.argv[1]) if sys.argv[1:] else 1  # how often all of its workers are to have started before it ends
MOST = int(sys.argv[2]) if sys.argv[2:] else 8  # workers
INTERVAL = float(sys.argv[3]) if sys.argv[3:] else 60.0  # seconds after which Train looks whether it may have more


class Seen:
    """What the ranks see, start by start."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, dict[int, tuple[str, str]]]] = []

    def say(self, size: int, rank: int, domain: str, gpus: str) -> None:
        if not self.starts or self.starts[-1][0] != size or rank in self.starts[-1][1]:
            self.starts.append((size, {}))
        self.starts[-1][1][rank] = domain, gpus

    def whole(self) -> list[list[tuple[str, str]]]:
        """Those starts of which every rank has spoken."""
        return [[ranks[rank] for rank in sorted(ranks)] for size, ranks in self.starts if len(ranks) == size]


def work(config: dict[str, Any]) -> None:
    """One rank: tells its place, and works on until the program has started often enough."""
    context, seen = ray.train.get_context(), config["seen"]
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    domain, gpus = labels.get("ray.io/gpu-domain", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    ray.get(seen.say.remote(context.get_world_size(), context.get_world_rank(), domain, gpus))
    while len(ray.get(seen.whole.remote())) < config["starts"]:
        time.sleep(0.2)


with tempfile.TemporaryDirectory() as folder:
    ray.init(log_to_driver=False, namespace="elastic")
    head = {"node:__internal_head__": 0.001}  # which outlives the nodes of the workers
    seen = ray.remote(Seen).options(name="seen", num_cpus=0, resources=head).remote()
    trainer = DataParallelTrainer(
        work,
        train_loop_config={"seen": seen, "starts": STARTS},
        scaling_config=ScalingConfig(
            num_workers=(2, MOST),
            use_gpu=True,
            resources_per_worker={"GPU": GPUS, "CPU": 0.25},
            placement_strategy="PACK",
            elastic_resize_monitor_interval_s=INTERVAL,
        ),
        run_config=RunConfig(storage_path=folder, name="run", failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()
    found = ray.get(seen.whole.remote())
    ray.shutdown()
for ranks in found:
    size = len(ranks)
    for rank, (_, gpus) in enumerate(ranks):
        print(f"rank {rank} of {size}: GPUs {gpus}")
    cliques = len({domain for domain, _ in ranks})
    print(f"{size} workers in {cliques} {'clique' if cliques == 1 else 'cliques'}")
