"""ray-dra: placement groups on planned GPUs.

The public names, loaded when they are first used: `ray.init("ray_dra://...")` imports this module, and any
ImportError in it would be read as "no such module".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_dra.translate.names import VERSION

if TYPE_CHECKING:
    from ray_dra.api import (
        capacity,
        placement_group,
        plan,
        pool,
        sandbox,
        snapshot,
        topology,
    )
    from ray_dra.errors import (
        ClusterUnavailable,
        CoordinatorUnavailable,
        GangGone,
        GangTimeout,
        IncompatibleRay,
        InvalidAddress,
        InvalidRequest,
        InvalidSnapshot,
        KubernetesError,
        NameTaken,
        NvmlError,
        RayDraError,
        ReshapeFailed,
        SimulationError,
        UnsatisfiableError,
    )
    from ray_dra.program.connect import ClientBuilder, embedded_cluster
    from ray_dra.program.gang_handle import GangPlacementGroup
    from ray_dra.program.inside import checkpointed, get_devices, get_notice
    from ray_dra.program.named_shapes import GangShape, shape
    from ray_dra.program.sandbox import Sandbox
    from ray_dra.program.submit_job import get_job_submission_client_cluster_info
    from ray_dra.translate.drawing import draw_topology
    from ray_dra.translate.ray.devices import gpu, mig, mps, partition, time_slicing
    from ray_dra.translate.ray.localities import (
        at_most,
        at_most_cliques,
        best_connected,
        label_selector,
        linked_devices,
        same_clique,
        same_gpu,
        spread_gpus,
    )

__version__ = VERSION

_HOMES = {
    "ray_dra.api": (
        "capacity",
        "placement_group",
        "plan",
        "pool",
        "sandbox",
        "snapshot",
        "topology",
    ),
    "ray_dra.program.connect": ("ClientBuilder", "embedded_cluster"),
    "ray_dra.errors": (
        "ClusterUnavailable",
        "CoordinatorUnavailable",
        "GangGone",
        "GangTimeout",
        "IncompatibleRay",
        "InvalidAddress",
        "InvalidRequest",
        "InvalidSnapshot",
        "KubernetesError",
        "NameTaken",
        "NvmlError",
        "RayDraError",
        "ReshapeFailed",
        "SimulationError",
        "UnsatisfiableError",
    ),
    "ray_dra.program.gang_handle": ("GangPlacementGroup",),
    "ray_dra.program.inside": ("checkpointed", "get_devices", "get_notice"),
    "ray_dra.program.named_shapes": ("GangShape", "shape"),
    "ray_dra.program.sandbox": ("Sandbox",),
    "ray_dra.program.submit_job": ("get_job_submission_client_cluster_info",),
    "ray_dra.translate.drawing": ("draw_topology",),
    "ray_dra.translate.ray.devices": ("gpu", "mig", "mps", "partition", "time_slicing"),
    "ray_dra.translate.ray.localities": (
        "at_most",
        "at_most_cliques",
        "best_connected",
        "label_selector",
        "linked_devices",
        "same_clique",
        "same_gpu",
        "spread_gpus",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ClientBuilder",
    "ClusterUnavailable",
    "CoordinatorUnavailable",
    "GangGone",
    "GangPlacementGroup",
    "GangShape",
    "GangTimeout",
    "IncompatibleRay",
    "InvalidAddress",
    "InvalidRequest",
    "InvalidSnapshot",
    "KubernetesError",
    "NameTaken",
    "NvmlError",
    "RayDraError",
    "ReshapeFailed",
    "Sandbox",
    "SimulationError",
    "UnsatisfiableError",
    "at_most",
    "at_most_cliques",
    "best_connected",
    "capacity",
    "checkpointed",
    "draw_topology",
    "embedded_cluster",
    "get_devices",
    "get_job_submission_client_cluster_info",
    "get_notice",
    "gpu",
    "label_selector",
    "linked_devices",
    "mig",
    "mps",
    "partition",
    "placement_group",
    "plan",
    "pool",
    "same_clique",
    "same_gpu",
    "sandbox",
    "shape",
    "snapshot",
    "spread_gpus",
    "time_slicing",
    "topology",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'ray_dra' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
