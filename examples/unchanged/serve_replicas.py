"""Ray Serve alone, in the three ways in which its replicas have GPUs: two replicas each with a placement group of two
bundles; a gang of two replicas, which share one group; a replica with GPUs of its own, for which Serve makes no group.

pip install "ray[serve]"
RAY_ADDRESS="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2" python examples/unchanged/serve_replicas.py
"""

import os
import time
from typing import Any

import ray
from ray import serve
from ray.serve.config import GangSchedulingConfig

REPLICAS, GPUS = 2, 2


def look() -> tuple[str, str]:
    """The GPU domain of this task's node, and its GPUs."""
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    return labels.get("ray.io/gpu-domain", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")


class Alone:
    """A replica, without others."""

    def __init__(self) -> None:
        self.name = serve.get_replica_context().replica_tag
        self.places = [look()]

    def __call__(self) -> tuple[str, list[tuple[str, str]]]:
        return self.name, self.places


class Pair(Alone):
    """A replica and its second worker."""

    def __init__(self) -> None:
        super().__init__()
        self.places.append(ray.get(ray.remote(look).options(num_gpus=GPUS, num_cpus=0).remote()))


def answers(app: Any, name: str, replicas: int) -> list[list[tuple[str, str]]]:
    """What each replica of an application says, by its name."""
    handle = serve.run(app.bind(), name=name, route_prefix=None)
    found: dict[str, list[tuple[str, str]]] = {}
    until = time.monotonic() + 60
    while len(found) < replicas:
        assert time.monotonic() < until, found
        found.update([handle.remote().result()])
    return [found[name] for name in sorted(found)]


def text(places: list[tuple[str, str]]) -> str:
    return f"{len({domain for domain, _ in places})} clique, GPUs {' '.join(gpus for _, gpus in places)}"


own = {"num_cpus": 0.25, "num_gpus": GPUS}
bundles: list[dict[str, float]] = [{"CPU": 0.25, "GPU": GPUS}, {"GPU": GPUS}]
pair: Any = serve.deployment(num_replicas=REPLICAS, ray_actor_options=own, placement_group_bundles=bundles)(Pair)
member: Any = serve.deployment(
    num_replicas=2, ray_actor_options=own, gang_scheduling_config=GangSchedulingConfig(gang_size=2)
)(Alone)
alone: Any = serve.deployment(ray_actor_options=own)(Alone)
ray.init(log_to_driver=False)
serve.start(proxy_location="Disabled")
for places in answers(pair, "pair", REPLICAS):
    print(f"replica: {text(places)}")
print(f"gang of replicas: {text([places for (places,) in answers(member, 'gang', 2)])}")
print(f"replica alone: {text(*answers(alone, 'alone', 1))}")
serve.shutdown()
ray.shutdown()
