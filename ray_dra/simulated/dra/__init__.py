"""NVIDIA's DRA driver for simulated GPUs: what a cluster sees of it, without the hardware.

`devices` says what is published, `configs` what a claim may ask of it, `prepare` readies claims on a node, `kubelet`
serves them over gRPC, `domains` is the ComputeDomain controller; `driver` and `controller` are the two programs.
"""

GPU_DRIVER = "gpu.nvidia.com"
DOMAIN_DRIVER = "compute-domain.nvidia.com"
DOMAIN_LABEL = "resource.nvidia.com/computeDomain"
CLIQUE_LABEL = "nvidia.com/gpu.clique"
CONFIG_VERSION = "resource.nvidia.com/v1beta1"
