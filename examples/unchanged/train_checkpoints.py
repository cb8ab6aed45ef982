"""Ray Train with checkpoints: a run that hears that some of its workers will end saves each step from then on, and goes
on from there. Three workers with two GPUs each.

pip install "ray[train]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2&on_fault=restart" \
    python examples/unchanged/train_checkpoints.py
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
import ray.train
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

WORKERS, GPUS = 3, 2
STEPS = int(sys.argv[1]) if sys.argv[1:] else 20
EVERY = int(sys.argv[2]) if sys.argv[2:] else 10  # steps to a checkpoint, as long as all is well
SECONDS = 0.2  # a step


class Seen:
    """What the ranks see, start by start: their places, the steps of rank 0, and when it heard of the end."""

    def __init__(self) -> None:
        self.places: list[dict[int, tuple[str, str]]] = []
        self.steps: list[list[int]] = []
        self.heard: list[tuple[float, int]] = []

    def start(self, rank: int, domain: str, gpus: str) -> None:
        if not self.places or rank in self.places[-1]:
            self.places.append({})
            self.steps.append([])
        self.places[-1][rank] = domain, gpus

    def step(self, step: int) -> None:
        self.steps[-1].append(step)

    def hear(self, at: float) -> None:
        self.heard.append((at, len(self.places) - 1))

    def all(self) -> tuple[list[dict[int, tuple[str, str]]], list[list[int]], list[tuple[float, int]]]:
        return self.places, self.steps, self.heard


def work(config: dict[str, Any]) -> None:
    """One rank: steps, checkpoints, and what it hears."""
    context, seen = ray.train.get_context(), config["seen"]
    node, rank = ray.get_runtime_context().get_node_id(), context.get_world_rank()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    ray.get(seen.start.remote(rank, labels.get("ray.io/gpu-domain", ""), gpus))
    saved, first, heard = ray.train.get_checkpoint(), 0, False
    if saved is not None:
        with saved.as_directory() as folder:
            first = int(Path(folder, "step").read_text())
    for step in range(first, config["steps"]):
        time.sleep(SECONDS)  # the work
        if rank == 0:
            ray.get(seen.step.remote(step))
        ends = ray.train.get_preemption_info() is not None  # as rank 0 sees it, for all ranks
        if rank == 0 and ends and not heard:
            ray.get(seen.hear.remote(time.time()))
        heard = ends
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step + 1))
            saves = rank == 0 and (ends or step % config["every"] == 0)
            ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder) if saves else None)


with tempfile.TemporaryDirectory() as folder:
    ray.init(log_to_driver=False, namespace="checkpoints")
    head = {"node:__internal_head__": 0.001}  # which outlives the nodes of the workers
    seen = ray.remote(Seen).options(name="seen", num_cpus=0, resources=head).remote()
    trainer = DataParallelTrainer(
        work,
        train_loop_config={"seen": seen, "steps": STEPS, "every": EVERY},
        scaling_config=ScalingConfig(
            num_workers=WORKERS,
            use_gpu=True,
            resources_per_worker={"GPU": GPUS, "CPU": 0.25},
            placement_strategy="PACK",
        ),
        run_config=RunConfig(storage_path=folder, name="run"),
    )
    trainer.fit()
    places, steps, heard = ray.get(seen.all.remote())
    ray.shutdown()
for number, (ranks, done) in enumerate(zip(places, steps, strict=True)):
    cliques = len({domain for domain, _ in ranks.values()})
    for rank in sorted(ranks):
        print(f"rank {rank} of start {number}: GPUs {ranks[rank][1]}")
    print(f"start {number}: steps {done[0]} to {done[-1]}, {cliques} {'clique' if cliques == 1 else 'cliques'}")
for at, number in heard:
    print(f"start {number} heard of its end at {at:.2f}")
