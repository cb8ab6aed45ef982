"""Giving workers back: pods, claims and ComputeDomains are deleted, together.

Level-triggered like the making of them (`backend.py`): every look takes what no gang wants one step back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from ray_dra.coordinator.backends.kubernetes.objects import Found
from ray_dra.errors import ApiUnavailable, KubernetesError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import OfGang
from ray_dra.ports.kubernetes import Kube

AGAIN_SECONDS = 10.0  # after which a delete is sent again, where no watch has shown it
FIRST_REST_SECONDS, REST_SECONDS = 0.5, 5.0  # after a delete that was refused: at first, and at most


class Teardown:
    """See the module. What it remembers between two steps is for thrift only: a new one goes on."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube, self._clock = kube, clock
        self._sent: dict[str, dict[tuple[str, str], float]] = {}  # attempt -> (kind, name) -> when it was deleted
        self._rests: dict[str, tuple[float, float]] = {}  # attempt -> until when it rests, and for how long next time

    def step(self, found: Mapping[str, Found], wanted: Collection[str]) -> None:
        """One step back for every attempt that is not wanted. Errors are met again later; a server that does not answer
        is not waited for once for each."""
        left = {name: there for name, there in found.items() if name not in wanted and not there.nothing}
        self._sent = {name: sent for name, sent in self._sent.items() if name in left}
        self._rests = {name: rest for name, rest in self._rests.items() if name in left}
        for name, there in left.items():
            until, seconds = self._rests.get(name, (-math.inf, FIRST_REST_SECONDS))
            if self._clock() < until:
                continue
            try:
                self._delete(there, self._sent.setdefault(name, {}))
                self._rests.pop(name, None)
            except KubernetesError as error:
                if isinstance(error, ApiUnavailable) and error.silent:
                    return
                self._rests[name] = self._clock() + seconds, min(REST_SECONDS, 2 * seconds)

    def _delete(self, there: Found, sent: dict[tuple[str, str], float]) -> None:
        """Claims, too: Kubernetes' collector would delete them with their pods, but twenty a second. By its PodGroup
        KAI counts what they have, so that goes once nothing else is left; so does Kubernetes' own."""
        last = () if there.pods or there.claims else there.groups
        things_of: tuple[tuple[str, Sequence[OfGang]], ...] = (
            ("Pod", there.pods),
            ("ResourceClaim", there.claims),
            ("ComputeDomain", there.domains),
            *((group.kind, [group]) for group in last),
        )
        due = self._clock() - AGAIN_SECONDS
        self._kube.together(
            [
                partial(self._delete_one, kind, thing.name, sent)
                for kind, things in things_of
                for thing in things
                if not thing.deleting and sent.get((kind, thing.name), -math.inf) <= due
            ]
        )

    def _delete_one(self, kind: str, name: str, sent: dict[tuple[str, str], float]) -> None:
        self._kube.delete(kind, name)
        sent[kind, name] = self._clock()
