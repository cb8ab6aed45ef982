"""A gang that trains, and near it a sandbox with a tenth of a GPU in which an agent's code runs."""

import sys

import ray
import yaml

import ray_dra

ray.init("ray_dra://kubernetes", log_to_driver=False)
with open(sys.argv[1]) as file:
    template = yaml.safe_load(file)

with ray_dra.placement_group([{"GPU": 2}], devices=ray_dra.gpu(memory=">=80G")) as gang:
    gang.wait(timeout=300)
    with ray_dra.sandbox("agent", part=ray_dra.mig("1g.10gb"), near=gang) as box:
        box.wait(timeout=300)
        print(gang.explain())
        print(box.name)
        print(box.gang.explain())
