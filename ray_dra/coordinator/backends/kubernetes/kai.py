"""KAI Scheduler's quota: the port `Quotas` over what KAI says of the PodGroups that `provisioning.py` makes.

KAI cannot be asked before there are pods. So a gang is let into our own queue without a word of KAI's, its workers are
made, and where KAI does not take them for want of quota, all is given back, at the cost of no try, and it waits here:
for five seconds at first, for a minute at most, since nobody tells when there is room. Meanwhile it holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ray_dra.coordinator.backends.kubernetes.objects import is_ours, raycluster
from ray_dra.core.gangs.quota import Answer, Quota, Said
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import InvalidRequest
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import PodGroup
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.translate.kube.kai import answer_of, check_priorities
from ray_dra.translate.kube.queues import queue_of
from ray_dra.translate.kube.slots import stem_of
from ray_dra.translate.names import KAI_API

FIRST_REST_SECONDS, REST_SECONDS = 5.0, 60.0  # between two tries of a gang: at first, and at most


class Kai:
    """See the module. `view`: of the last look. What it remembers is for thrift: a new one rests anew."""

    def __init__(self, kube: Kube, view: Callable[[], KubeView], clock: Clock) -> None:
        self._kube, self._view, self._clock = kube, view, clock
        self._rests: dict[str, tuple[int, float]] = {}  # gang -> its tries before, and since when it rests
        self._said: dict[str, str] = {}  # gang -> what KAI said of its last try
        self._groups: tuple[object, dict[str, list[PodGroup]]] = (None, {})  # by stem, and of which view

    def queue_for(self, request: GangRequest) -> str:
        cluster = raycluster(self._view(), self._kube.namespace)
        queue = queue_of(cluster)
        check_priorities(cluster)
        if not self._kube.kai:
            raise InvalidRequest(
                "Gangs are to be paid from a queue of KAI Scheduler's, which this cluster does not serve, or not for as"
                " long as the coordinator has run.",
                place=f"RayCluster {cluster.namespace}/{cluster.name}",
                wanted=queue,
                available=f"no {KAI_API}",
            )
        return queue

    def ask(self, quota: Quota, request: GangRequest) -> None:
        """Its workers do."""

    def answer(self, quota: Quota, request: GangRequest) -> Answer | None:
        groups = self._of(request.gang)
        if groups is None:
            return None
        if quota.granted is not None:
            found = answer_of(groups, request)
            if found.said is Said.LATER and self._bound(groups):
                found = answer_of((), request)  # what KAI said before stays where it is
            if found.said in (Said.LATER, Said.EVICTED):
                self._said[request.gang] = found.why
            return found
        said = self._said.get(request.gang, "it is asked for again, for the coordinator was started anew")
        if groups:
            return Answer(Said.WAITS, said)  # and is being given back
        tries, since = self._rests.get(request.gang, (-1, 0.0))
        if tries != quota.asks:
            since = self._clock()
            self._rests[request.gang] = quota.asks, since
        rest = min(REST_SECONDS, FIRST_REST_SECONDS * 2 ** min(quota.asks - 1, 10)) if quota.asks else 0.0
        return Answer(Said.WAITS, said) if self._clock() - since < rest else answer_of((), request)

    def keep(self, wanted: Collection[tuple[str, int]]) -> None:
        """PodGroups go with the attempts that they are of."""
        gangs = {gang for gang, _ in wanted}
        self._rests = {gang: rest for gang, rest in self._rests.items() if gang in gangs}
        self._said = {gang: said for gang, said in self._said.items() if gang in gangs}

    @property
    def idle(self) -> bool:
        return True

    def _bound(self, groups: Collection[PodGroup]) -> bool:
        """Whether every pod of these is."""
        attempts = {group.attempt for group in groups if not group.deleting}
        return all(pod.node is not None for pod in self._view().pods if pod.attempt in attempts)

    def _of(self, gang: str) -> list[PodGroup] | None:
        """A gang's PodGroups; None where that is not known yet."""
        found = self._view().pod_groups
        if found is None:
            if self._kube.kai:
                self._kube.watch_pod_groups()
            return None
        if self._groups[0] is not found:
            by_stem: dict[str, list[PodGroup]] = {}
            for group in found:
                if group.attempt is not None and is_ours(self._kube, group):
                    by_stem.setdefault(group.attempt.rpartition("-")[0], []).append(group)
            self._groups = found, by_stem
        return self._groups[1].get(stem_of(gang), [])
