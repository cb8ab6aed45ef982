"""What a program writes for where a gang's bundles lie in relation to each other: `locality=same_clique(segment=4)`.

Neighbours: `devices.py`, which has what it writes of GPUs; `policy.py`, a locality as the text of a label.
"""

from __future__ import annotations

from ray_dra.core.model.locality import Connect, Gpus, Locality
from ray_dra.translate.names import LOCALITY_LABEL
from ray_dra.translate.ray.policy import policy_label


def label_selector(locality: Locality) -> dict[str, str]:
    """A locality for the placement groups that a library makes itself, as a label selector: Train's
    `ScalingConfig(label_selector=...)`, Serve's `placement_group_bundle_label_selector`, Ray's `bundle_label_selector`.

    Raises:
        InvalidRequest: no policy says this (docs/unchanged.md), as one of whole cliques.
    """
    return {LOCALITY_LABEL: policy_label(locality)}


def same_clique(
    *,
    segment: int | None = None,
    required: bool = True,
    patience: float | None = None,
    exclusive: bool = False,
    outside_speed: float | None = None,
) -> Locality:
    """All bundles in one NVLink clique, or each `segment` consecutive bundles in one.

    Args:
        segment: bundles that share a clique; must divide the number of bundles. None: all of them.
        required: False takes the nearest there is instead of refusing.
        patience: with `required=False`, seconds (at most a year) for which a gang that could start now waits for one
            clique. None: 0 for a gang that does not say how long it runs; one that does (`runs_for=`) waits as long as
            it would end sooner in a clique than outside (docs/queue.md). `wait=False` does not wait for it either.
        exclusive: whole cliques; nobody else is planned onto them.
        outside_speed: with `required=False`, the gang's speed outside of a clique, from 0.001 to 1, where it is 1
            inside. None: as the cluster is set, 1/2.4 unless said otherwise.
    """
    cliques = 1 if segment is None else None
    return Locality(
        cliques=cliques,
        segment=segment,
        required=required,
        patience=patience,
        exclusive=exclusive,
        outside_speed=outside_speed,
    )


def at_most_cliques(
    count: int,
    *,
    required: bool = True,
    patience: float | None = None,
    exclusive: bool = False,
    outside_speed: float | None = None,
) -> Locality:
    """The gang on at most `count` cliques; the rest as in `same_clique`."""
    return Locality(
        cliques=count, required=required, patience=patience, exclusive=exclusive, outside_speed=outside_speed
    )


def at_most(level: str, count: int) -> Locality:
    """The gang in at most `count` domains (leaves, spines) of a level above cliques, or anywhere where that cannot be.
    Combine: `same_clique(segment=16) & at_most("leaf", 2)`.

    Args:
        level: the label of nodes that names the level, or what follows the label's last slash; the labels are
            topograph's, or the operator's (docs/planner.md).

    Raises:
        InvalidRequest: from `placement_group` and `plan`: the cluster has no such level.
    """
    return Locality(level=level, domains=count)


def linked_devices() -> Locality:
    """The GPUs of each bundle are linked by NVLink, every two of them. Combine: `same_clique() & linked_devices()`."""
    return Locality(connect=Connect.REQUIRED)


def same_gpu() -> Locality:
    """The parts of a gang on one GPU. For `part=`."""
    return Locality(gpus=Gpus.SAME)


def spread_gpus() -> Locality:
    """Each part of a gang on another GPU. For `part=`."""
    return Locality(gpus=Gpus.SPREAD)


def best_connected() -> Locality:
    """The best-connected free GPUs on each node, NUMA in mind; the default."""
    return Locality(connect=Connect.PREFERRED)
