"""What the cluster itself would refuse, so that the planner refuses it first."""

from __future__ import annotations

from dataclasses import dataclass

from ray_dra.core.model.device import Counter


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of IMEX domains. A gang over two or more nodes of one multi-node clique needs one there.

    Attributes:
        compute_domains: whether gangs get IMEX domains at all (Kubernetes, where it is served); without,
            the other limits say nothing. A node is in one ComputeDomain at a time.
        domain_nodes: most nodes of one IMEX domain (18 are served today).
        one_per_clique: only one IMEX domain in a clique at a time; two have been seen to fail on some
            drivers.
    """

    compute_domains: bool = False
    domain_nodes: int = 18
    one_per_clique: bool = False


def imex_counter(node: str) -> Counter:
    """What a gang that has an IMEX domain on a node uses up there: a node is in one at a time."""
    return f"node/{node}", "imex"


NO_LIMITS = Limits()
IMEX_LIMITS = Limits(compute_domains=True)
