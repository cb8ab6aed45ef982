"""Ray Data alone: a pool of two actors with two GPUs each. Data makes no placement groups; its actors keep off gangs.

pip install "ray[data]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/data_actors.py
"""

import os
from typing import Any

import numpy as np
import ray
import ray.data

ACTORS, GPUS = 2, 2


class Model:
    """Says where it is with each row."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        said = f"{node} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
        return {"place": np.array([said] * len(batch["id"]))}


ray.init(log_to_driver=False)
rows = (
    ray.data.range(40, override_num_blocks=20)
    .map_batches(Model, compute=ray.data.ActorPoolStrategy(size=ACTORS), num_gpus=GPUS, batch_size=2)
    .take_all()
)
for place in sorted({str(row["place"]) for row in rows}):
    print(f"actor: GPUs {place.split(' ')[1]}")
ray.shutdown()
