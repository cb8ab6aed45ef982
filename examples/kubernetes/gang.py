"""A gang over two nodes of one NVLink clique, on workers that are made for it. Runs on a KubeRay head."""

from __future__ import annotations

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import ray_dra


def devices_here() -> list[tuple[str, str | None]]:
    """The node and UUID of each GPU that this rank may use."""
    return [(device.node, device.uuid) for device in ray_dra.get_devices()]


def main() -> None:
    ray.init("ray_dra://kubernetes", log_to_driver=False, logging_level="ERROR")
    rank = ray.remote(num_gpus=4, num_cpus=0)(devices_here)
    bundles = [{"GPU": 4}] * 2
    locality = ray_dra.same_clique()
    with ray_dra.placement_group(bundles, "STRICT_SPREAD", locality=locality) as gang:
        gang.wait(timeout=600)
        print(gang.explain())
        allocation = gang.allocation
        assert allocation is not None
        for number, placed in enumerate(allocation.bundles):
            place = PlacementGroupSchedulingStrategy(gang.placement_group, number)
            seen = ray.get(rank.options(scheduling_strategy=place).remote())
            same = [uuid for _, uuid in seen] == [grant.uuid for grant in placed.grants]
            print(f"rank {number} sees {len(seen)} GPUs on {placed.node}, {'all as' if same else 'NOT as'} planned")


if __name__ == "__main__":
    main()
