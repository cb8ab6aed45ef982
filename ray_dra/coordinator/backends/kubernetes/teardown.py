"""Giving workers back: pods, claims and ComputeDomains are deleted, together.

Level-triggered like the making of them (`backend.py`): every look takes what no gang wants one step back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from ray_dra.coordinator.backends.kubernetes.objects import Found
from ray_dra.errors import ApiUnavailable, KubernetesError
from ray_dra.ports.kube_objects import OfGang
from ray_dra.ports.kubernetes import Kube


def give_back(kube: Kube, found: Mapping[str, Found], wanted: Collection[str]) -> None:
    """One step back for every attempt that is not wanted. Errors are met again at the next look; a server that does
    not answer is not waited for once for each."""
    for name, there in found.items():
        if name not in wanted and not there.nothing:
            try:
                _delete(kube, there)
            except KubernetesError as error:
                if isinstance(error, ApiUnavailable) and error.silent:
                    return


def _delete(kube: Kube, there: Found) -> None:
    """Claims, too: Kubernetes' collector would delete them with their pods, but twenty a second."""
    things_of: tuple[tuple[str, Sequence[OfGang]], ...] = (
        ("Pod", there.pods),
        ("ResourceClaim", there.claims),
        ("ComputeDomain", there.domains),
    )
    kube.together(
        [partial(kube.delete, kind, thing.name) for kind, things in things_of for thing in things if not thing.deleting]
    )
