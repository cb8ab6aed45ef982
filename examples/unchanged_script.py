"""A training script that knows nothing of ray-dra: a bare `ray.init()` and Ray's own placement group.

RAY_ADDRESS alone brings it to ray-dra's cluster:

    RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=2" python examples/unchanged_script.py
"""

import os
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tensor_parallel import Rank

ray.init(log_to_driver=False)
group = placement_group([{"GPU": 2, "CPU": 1}] * 4, topology_strategy={"ray.io/gpu-domain": "STRICT_PACK"})
ray.get(group.ready(), timeout=60)

ranks = [
    ray.remote(Rank)
    .options(num_gpus=2, num_cpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle))
    .remote(bundle, 2, 4)
    for bundle in range(4)
]
ray.get([rank.join.remote(ranks) for rank in ranks])
losses = [ray.get([rank.step.remote(0.5) for rank in ranks])[0] for _ in range(60)]
for place in ray.get([rank.place.remote() for rank in ranks]):
    print(f"rank {place.rank}: CUDA_VISIBLE_DEVICES={place.cuda_visible_devices}")
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} with RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}")
ray.shutdown()
sys.exit(0 if losses[-1] < losses[0] / 2 else 1)
