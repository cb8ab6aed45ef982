"""A training program of Ray Train alone: four workers with two GPUs each; every rank says where it is and what it has.

pip install "ray[train]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/train.py
"""

import os
import tempfile

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

WORKERS, GPUS = 4, 2


def work(config: dict[str, str]) -> None:
    """One rank: its place among the others, its GPU domain and GPUs, written where the program finds it."""
    context = ray.train.get_context()
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    said = f"{labels.get('ray.io/gpu-domain', '')} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
    with open(os.path.join(config["folder"], str(context.get_world_rank())), "w") as file:
        file.write(said)


with tempfile.TemporaryDirectory() as folder:
    ray.init(log_to_driver=False)
    trainer = DataParallelTrainer(
        work,
        train_loop_config={"folder": folder},
        scaling_config=ScalingConfig(
            num_workers=WORKERS, use_gpu=True, resources_per_worker={"GPU": GPUS, "CPU": 1}, placement_strategy="PACK"
        ),
        run_config=RunConfig(storage_path=folder, name="run"),
    )
    trainer.fit()
    seen = [open(os.path.join(folder, str(rank))).read().split(" ") for rank in range(WORKERS)]
    ray.shutdown()
for rank, (_, gpus) in enumerate(seen):
    print(f"rank {rank}: GPUs {gpus}")
print(f"{len({domain for domain, _ in seen})} clique")
