"""Simulated machines, shipped with the package: profiles, the NVML library that serves them, the local cluster.

Anyone without a GPU can try ray-dra with these, and the tests do.
"""
