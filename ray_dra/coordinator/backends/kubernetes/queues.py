"""The queues outside that may pay for gangs: the port `Quotas`, each gang's by whose queue it is."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ray_dra.coordinator.backends.kubernetes.kai import Kai
from ray_dra.coordinator.backends.kubernetes.kueue import Kueue
from ray_dra.coordinator.backends.kubernetes.objects import raycluster
from ray_dra.core.gangs.quota import Answer, Quota
from ray_dra.core.model.request import GangRequest
from ray_dra.ports.clock import Clock
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.ports.quota import Quotas
from ray_dra.translate.kube.kai import is_kai
from ray_dra.translate.kube.queues import queue_of


class Queues:
    """See the module. A RayCluster names one queue at a time; gangs keep the one that they began with."""

    def __init__(self, kube: Kube, view: Callable[[], KubeView], clock: Clock) -> None:
        self._kube, self._view = kube, view
        self.kueue, self.kai = Kueue(kube, view, clock), Kai(kube, view, clock)

    def queue_for(self, request: GangRequest) -> str:
        queue = queue_of(raycluster(self._view(), self._kube.namespace))
        return self._whose(queue).queue_for(request) if queue else ""

    def ask(self, quota: Quota, request: GangRequest) -> None:
        self._whose(quota.queue).ask(quota, request)

    def answer(self, quota: Quota, request: GangRequest) -> Answer | None:
        return self._whose(quota.queue).answer(quota, request)

    def keep(self, wanted: Collection[tuple[str, int]]) -> None:
        """To each those of all: of a record that lies aside nobody knows whose queue it is."""
        self.kueue.keep(wanted)
        self.kai.keep(wanted)

    @property
    def idle(self) -> bool:
        return self.kueue.idle and self.kai.idle

    def _whose(self, queue: str) -> Quotas:
        return self.kai if is_kai(queue) else self.kueue
