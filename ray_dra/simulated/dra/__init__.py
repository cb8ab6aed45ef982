"""NVIDIA's DRA driver for simulated GPUs: what a cluster sees of it, without the hardware.

`devices` says what is published, `configs` what a claim may ask of it, `prepare` readies claims on a node, `kubelet`
serves them over gRPC, `domains` is the ComputeDomain controller; `driver` and `controller` are the two programs.
"""

from ray_dra.translate.kube.slices import CLIQUE_LABEL
from ray_dra.translate.ray.labels import DRIVER as GPU_DRIVER

DOMAIN_DRIVER = "compute-domain.nvidia.com"
DOMAIN_LABEL = "resource.nvidia.com/computeDomain"
CONFIG_VERSION = "resource.nvidia.com/v1beta1"

__all__ = ["CLIQUE_LABEL", "CONFIG_VERSION", "DOMAIN_DRIVER", "DOMAIN_LABEL", "GPU_DRIVER"]
