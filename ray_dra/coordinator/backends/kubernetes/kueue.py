"""Gangs' requests to Kueue: the port `Quotas` over the port `Kube`. Level-triggered as `backend.py` is.

A request is a Workload of ours. Nobody else's is read or deleted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial

from ray_dra.coordinator.backends.kubernetes.objects import is_ours, raycluster
from ray_dra.core.gangs.quota import Answer, Quota, Said
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import InvalidRequest, KubernetesError, Rejected
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import RayCluster, Workload
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.translate.kube.kueue import answer_of, request_name, workload
from ray_dra.translate.kube.queues import KUEUE, kind_of, queue_of
from ray_dra.translate.kube.slots import stem_of
from ray_dra.translate.names import KUEUE_API, QUEUE_ANNOTATION

REST_SECONDS = 5.0  # after a request that could not be made, between two of a gang, and between two tries to delete one


class Kueue:
    """See the module. `view`: of the last look."""

    def __init__(self, kube: Kube, view: Callable[[], KubeView], clock: Clock) -> None:
        self._kube, self._view, self._clock = kube, view, clock
        self._made = kube.requests_left  # whether there may be any, by a coordinator before this one, too
        self._refused: dict[str, tuple[float, Answer]] = {}  # request -> until when it is not made again, and why
        self._deleted: dict[str, float] = {}  # request -> when it was deleted
        self._asked: dict[str, tuple[str, float]] = {}  # gang -> its last request, and when that was made
        self._found: Collection[Workload] | None = None  # what the next two were made from
        self._by_name: Mapping[str, Workload] = {}
        self._stems: set[str] = set()  # of the names of gangs' requests

    def queue_for(self, request: GangRequest) -> str:
        cluster = raycluster(self._view(), self._kube.namespace)
        queue = queue_of(cluster)
        if not queue:
            return ""
        place = f"RayCluster {cluster.namespace}/{cluster.name}"
        if not self._kube.kueue:
            raise InvalidRequest(
                "Gangs are to be paid from a queue of Kueue's, which this cluster does not serve, or not for as long as"
                " the coordinator has run.",
                place=place,
                wanted=queue,
                available=f"no {KUEUE_API}",
            )
        workload(request, Quota(queue), cluster)  # whether it can be told at all
        return queue

    def ask(self, quota: Quota, request: GangRequest) -> None:
        name = request_name(request.gang, quota.asks)
        if self._ends() or self._clock() < self._refused.get(name, (-math.inf, None))[0]:
            return
        self._refused.pop(name, None)
        before, when = self._asked.get(request.gang, ("", -math.inf))
        if before not in ("", name) and self._clock() - when < REST_SECONDS:
            return  # else one that is evicted again and again would keep everybody busy
        self._asked[request.gang], self._made = (name, self._clock()), True
        try:
            self._kube.create(workload(request, quota, self._cluster()))
        except (InvalidRequest, Rejected) as error:
            self._refused[name] = math.inf, Answer(Said.REFUSED, str(error))
        except KubernetesError as error:
            why = Answer(Said.WAITS, f"it could not be asked: {error.reason}")
            self._refused[name] = self._clock() + REST_SECONDS, why

    def answer(self, quota: Quota, request: GangRequest) -> Answer | None:
        view, found = self._view(), self._workloads()
        name = request_name(request.gang, quota.asks)
        until, why = self._refused.get(name, (-math.inf, None))
        if why is not None and self._clock() < until:
            return why
        if found is None or self._ends():
            return None
        ours = self._ours(found)
        if name in ours:
            return answer_of(ours[name], quota, request, view.flavors)
        if stem_of(request.gang) in self._stems:
            return Answer(Said.WAITS, "what it had is being given back")
        return Answer(Said.NOTHING)

    def keep(self, wanted: Collection[tuple[str, int]]) -> None:
        kept = {request_name(gang, asks) for gang, asks in wanted if not self._ends()}
        concerned = wanted or self._named() or self._made
        ours = self._ours((self._workloads() if concerned else self._view().workloads) or ())
        self._refused = {name: rest for name, rest in self._refused.items() if name in kept}
        gangs = {gang for gang, _ in wanted}
        self._asked = {gang: asked for gang, asked in self._asked.items() if gang in gangs}
        self._deleted = {name: when for name, when in self._deleted.items() if name in ours}
        now = self._clock()
        due = [
            name
            for name, found in ours.items()
            if name not in kept and not found.deleting and now - self._deleted.get(name, -math.inf) >= REST_SECONDS
        ]
        if not due or self._kube.lead():
            return
        self._deleted |= dict.fromkeys(due, now)
        with suppress(KubernetesError):  # met again
            self._kube.together([partial(self._kube.delete, "Workload", name) for name in due])

    @property
    def idle(self) -> bool:
        return not self._by_name and not (self._made and self._view().workloads is None)

    def _workloads(self) -> tuple[Workload, ...] | None:
        """Those that are there; None where that is not known yet."""
        if self._kube.kueue and self._view().workloads is None:
            self._kube.watch_queues()
        return self._view().workloads

    def _ends(self) -> bool:
        """Whether the RayCluster ends with all its pods, ours among them: who else would give its quota up? One that is
        suspended keeps what it owns."""
        cluster = self._view().raycluster
        return cluster is not None and (cluster.deleting or cluster.suspended)

    def _named(self) -> bool:
        """Whether the RayCluster names a queue of Kueue's."""
        cluster = self._view().raycluster
        return cluster is not None and kind_of(cluster.settings.get(QUEUE_ANNOTATION, "")) == KUEUE

    def _ours(self, found: Collection[Workload]) -> Mapping[str, Workload]:
        """By name; worked out once a look."""
        if found is not self._found:
            ours = (each for each in found if each.attempt is not None and is_ours(self._kube, each))
            self._found, self._by_name = found, {each.name: each for each in ours}
            self._stems = {name.rpartition("-")[0] for name in self._by_name}
        return self._by_name

    def _cluster(self) -> RayCluster:
        """Raises NotFound."""
        return raycluster(self._view(), self._kube.namespace)
