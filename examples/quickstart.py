"""Ten lines: a gang in one NVLink clique, and what each bundle sees."""

import ray

import ray_dra

ray.init("ray_dra://embedded?profile=gb200-nvl72&nodes=2", log_to_driver=False)
with ray_dra.placement_group([{"GPU": 2}] * 3, locality=ray_dra.same_clique()) as gang:
    gang.wait(timeout=60)
    print(gang.explain())
    who = ray.remote(num_gpus=2, num_cpus=0)(ray_dra.get_devices)
    for bundle in range(3):
        place = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(gang.placement_group, bundle)
        print(bundle, [device.uuid for device in ray.get(who.options(scheduling_strategy=place).remote())])
ray.shutdown()
