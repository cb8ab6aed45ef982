"""NVIDIA's DRA driver for simulated GPUs: what a cluster sees of it, without the hardware.

`devices` says what is published, `configs` what a claim may ask of it, `prepare` readies claims on a node, `kubelet`
serves them over gRPC, `domains` is the ComputeDomain controller; `driver` and `controller` are the two programs.

These stand for NVIDIA's programs, so names that only those write are spelled here, and not in `translate.names`.
"""

DOMAIN_LABEL = "resource.nvidia.com/computeDomain"
