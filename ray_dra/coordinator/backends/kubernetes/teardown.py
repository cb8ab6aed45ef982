"""Giving workers back: groups suspended -> no pods -> groups removed -> pods, templates, ComputeDomains deleted.

Level-triggered like the making of them (`backend.py`): every look takes what no gang wants one step back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ray_dra.coordinator.backends.kubernetes.objects import Found, raycluster
from ray_dra.errors import ApiUnavailable, KubernetesError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.translate.kube.pods import group_of

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
            stopped = [group for group in there.groups if group.get("suspend") or group.get("replicas") == 0]
            if len(stopped) < len(there.groups):
                self._quiet.pop(name, None)
                self._stop_groups(view, there)
                return
            if there.pods:
                self._quiet.pop(name, None)
                return
            since = self._quiet.setdefault(name, self.clock())
            if self.clock() - since >= QUIET_SECONDS:
                self._remove_groups(view, {group["groupName"] for group in there.groups})
            return
        self._quiet.pop(name, None)
        calls = [
            lambda kind=kind, thing=thing: self.kube.delete(kind, thing["metadata"]["name"])
            for kind, things in (
                ("Pod", there.pods),
                ("ResourceClaimTemplate", there.templates),
                ("ComputeDomain", there.domains),
            )
            for thing in things
            if not thing["metadata"].get("deletionTimestamp")
        ]
        self.kube.together(calls)

    def _stop_groups(self, view: KubeView, there: Found) -> None:
        """Their pods end and are not made anew. Removing a group at once would orphan its pods for good; with Ray's
        autoscaler on, the operator refuses a suspended group, and takes one of no replicas."""
        cluster = raycluster(view, self.kube.namespace)
        change: list[Any] = []
        names = {group["groupName"] for group in there.groups}
        scaled = bool(cluster["spec"].get("enableInTreeAutoscaling"))
        for at, group in enumerate(cluster["spec"]["workerGroupSpecs"]):
            if group["groupName"] not in names:
                continue
            path = f"/spec/workerGroupSpecs/{at}"
            change.append({"op": "test", "path": f"{path}/groupName", "value": group["groupName"]})
            if not scaled:
                change.append({"op": "add", "path": f"{path}/suspend", "value": True})
                continue
            doomed = [p["metadata"]["name"] for p in there.pods if group_of(p) == group["groupName"]]
            for field_, value in (
                ("minReplicas", 0),
                ("replicas", 0),
                ("maxReplicas", 0),
                ("scaleStrategy", {"workersToDelete": doomed}),
            ):
                change.append({"op": "add", "path": f"{path}/{field_}", "value": value})
        self.kube.patch("RayCluster", cluster["metadata"]["name"], change)

    def _remove_groups(self, view: KubeView, names: set[str]) -> None:
        """From the last to the first, so that the earlier indices stay right within the one patch."""
        cluster = raycluster(view, self.kube.namespace)
        change: list[Any] = []
        groups = cluster["spec"]["workerGroupSpecs"]
        for at in reversed(range(len(groups))):
            if groups[at]["groupName"] in names:
                path = f"/spec/workerGroupSpecs/{at}"
                change.append({"op": "test", "path": f"{path}/groupName", "value": groups[at]["groupName"]})
                change.append({"op": "remove", "path": path})
        self.kube.patch("RayCluster", cluster["metadata"]["name"], change)
