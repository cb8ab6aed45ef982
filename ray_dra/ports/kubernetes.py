"""Kubernetes as the coordinator sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray_dra.ports.kube_objects import (
    Claim,
    ClaimTemplate,
    ComputeDomain,
    DeviceTaintRule,
    KubeNode,
    NodeLinks,
    Pod,
    PodGroup,
    RayCluster,
    RayService,
    ResourceFlavor,
    ResourceSlice,
    Workload,
)

Object = Mapping[str, Any]  # a Kubernetes object to be made, or a merge patch, as `translate.kube` writes it


@dataclass(frozen=True, slots=True)
class KubeView:
    """One look, from watches. `slices`, `taint_rules` and `claims` are of the whole cluster, the others of the
    RayCluster's namespace and, but for the RayCluster and its RayService, ours by their label. `raycluster_gone`: there
    is no RayCluster; one that is None otherwise cannot be read."""

    raycluster: RayCluster | None = None
    raycluster_gone: bool = False
    rayservice: RayService | None = None
    nodes: Mapping[str, KubeNode] = field(default_factory=dict)
    slices: tuple[ResourceSlice, ...] = ()
    taint_rules: tuple[DeviceTaintRule, ...] = ()
    claims: tuple[Claim, ...] = ()
    pods: tuple[Pod, ...] = ()
    templates: tuple[ClaimTemplate, ...] = ()
    domains: tuple[ComputeDomain, ...] = ()
    domains_unread: bool = False  # there is one that cannot be read
    topologies: tuple[NodeLinks, ...] = ()  # of the topology agents' ConfigMaps
    workloads: tuple[Workload, ...] | None = None  # Kueue's; None where they are not looked at, or not yet
    flavors: Mapping[str, ResourceFlavor] = field(default_factory=dict)
    pod_groups: tuple[PodGroup, ...] | None = None  # KAI's; None where they are not looked at, or not yet
    gang_pod_groups: tuple[PodGroup, ...] = ()  # Kubernetes' own, where they are looked at
    version: int = 0  # grows with every change


class Kube(Protocol):
    """The coordinator's hands on Kubernetes, in the RayCluster's namespace. KubernetesErrors pass through."""

    namespace: str
    raycluster: str  # its name, also while the view has none
    compute_domains: bool  # the cluster serves ComputeDomains
    kueue: bool  # and Kueue's Workloads
    kai: bool  # and KAI Scheduler's PodGroups
    taint_rules: bool  # and DeviceTaintRules

    @property
    def requests_left(self) -> bool:
        """Whether there were Workloads of ours before this coordinator began, as far as it may read them."""

    def view(self) -> KubeView: ...

    def watch_queues(self) -> None:
        """Have Kueue's objects in the view from soon on. Who needs no queue needs no right to read them."""

    def watch_pod_groups(self) -> None:
        """The same of KAI's. Those that were there before this coordinator began are looked at without being asked."""

    def gang_scheduling(self, probe: Object) -> str:
        """The version by which PodGroups of Kubernetes' own are served; "" where they are not, may not be read, or
        where the API server would leave the one out that the pod `probe` names. It is asked once, and they are in the
        view from then on. Those that were there before this coordinator began are looked at without being asked."""

    def create(self, thing: Object) -> str:
        """The uid of what was made; "" where one of this name is there, which is no error: names are ours, and say
        what is in them."""

    def patch(self, kind: str, name: str, change: Object) -> None:
        """A merge patch."""

    def delete(self, kind: str, name: str) -> None:
        """Harmless when it is gone."""

    def lead(self) -> str:
        """Take or keep the RayCluster's lease; "" while it is ours, else who has it and for how long. Each write asks,
        too, and raises NotLeading."""

    def problems(self) -> tuple[str, ...]:
        """Why the view may differ from what is there: watches that fail or are silent, objects that cannot be read."""

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        """An event about the RayCluster, for `kubectl describe`. Nobody waits for it, and nothing fails with it."""

    def together(self, calls: Sequence[Callable[[], object]]) -> None:
        """Make these calls side by side; the first error is raised when all are done. Where there is no answer to one,
        those that have not begun are left out."""
