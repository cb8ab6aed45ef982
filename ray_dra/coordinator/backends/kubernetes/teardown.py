"""Giving workers back: groups suspended -> no pods -> groups removed -> pods, templates, ComputeDomains deleted.

Level-triggered like the making of them (`backend.py`): every look takes what no gang wants one step back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from ray_dra.coordinator.backends.kubernetes.objects import Found, raycluster
from ray_dra.errors import ApiUnavailable, KubernetesError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import OfGang
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.translate.kube.raycluster import groups_removed, groups_stopped

QUIET_SECONDS = 1.0  # without pods, before a group is removed


class Teardown:
    """See the module."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self.kube, self.clock = kube, clock
        self._quiet: dict[str, float] = {}  # attempt -> since when it has no pods

    def step(self, view: KubeView, found: Mapping[str, Found], wanted: Collection[str]) -> None:
        """One step back for every attempt that is not wanted. Errors are met again at the next look; a server that
        does not answer is not waited for once for each."""
        for name, there in found.items():
            if name not in wanted and not there.nothing:
                try:
                    self._undo(view, name, there)
                except KubernetesError as error:
                    if isinstance(error, ApiUnavailable) and error.silent:
                        return

    def _undo(self, view: KubeView, name: str, there: Found) -> None:
        if there.groups:
            stopped = [group for group in there.groups if group.stopped]
            if len(stopped) < len(there.groups):
                self._quiet.pop(name, None)
                self._stop_groups(view, there)
                return
            if there.pods:
                self._quiet.pop(name, None)
                return
            since = self._quiet.setdefault(name, self.clock())
            if self.clock() - since >= QUIET_SECONDS:
                self._remove_groups(view, {group.name for group in there.groups})
            return
        self._quiet.pop(name, None)
        things_of: tuple[tuple[str, Sequence[OfGang]], ...] = (
            ("Pod", there.pods),
            ("ResourceClaimTemplate", there.templates),
            ("ComputeDomain", there.domains),
        )
        calls = [
            partial(self.kube.delete, kind, thing.name)
            for kind, things in things_of
            for thing in things
            if not thing.deleting
        ]
        self.kube.together(calls)

    def _stop_groups(self, view: KubeView, there: Found) -> None:
        cluster = raycluster(view, self.kube.namespace)
        pods = {group.name: [pod.name for pod in there.pods if pod.group == group.name] for group in there.groups}
        self.kube.patch("RayCluster", cluster.name, groups_stopped(cluster, pods))

    def _remove_groups(self, view: KubeView, names: set[str]) -> None:
        cluster = raycluster(view, self.kube.namespace)
        self.kube.patch("RayCluster", cluster.name, groups_removed(cluster, names))
