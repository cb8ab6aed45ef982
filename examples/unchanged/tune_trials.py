"""Ray Tune alone: four trials, each with two bundles of two GPUs and an actor on either.

pip install "ray[tune]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/tune_trials.py
"""

import os
import tempfile

import ray
from ray import tune

TRIALS, GPUS = 4, 2


def look() -> tuple[str, str]:
    """The GPU domain of this task's node, and its GPUs."""
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    return labels.get("ray.io/gpu-domain", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")


def trial(config: dict[str, int]) -> None:
    """Its second bundle is for a task of its own, as Tune's workers use theirs."""
    here = look()
    there = ray.get(ray.remote(look).options(num_gpus=GPUS, num_cpus=0).remote())
    tune.report({"cliques": len({here[0], there[0]}), "gpus": f"{here[1]} {there[1]}"})


with tempfile.TemporaryDirectory() as folder:
    ray.init(log_to_driver=False)
    bundles = tune.PlacementGroupFactory([{"CPU": 0.5, "GPU": GPUS}, {"GPU": GPUS}])
    tuner = tune.Tuner(
        tune.with_resources(trial, bundles),
        param_space={"number": tune.grid_search(list(range(TRIALS)))},
        run_config=tune.RunConfig(storage_path=folder, name="run", verbose=0),
    )
    results = tuner.fit()
    assert not results.errors, results.errors
    for result in results:
        print(f"trial: {result.metrics['cliques']} clique, GPUs {result.metrics['gpus']}")
    ray.shutdown()
