"""What there is of each attempt at making a gang's workers, read off the labelled objects, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_dra.errors import NotFound
from ray_dra.ports.kube_objects import Claim, ComputeDomain, OfGang, Pod, PodGroup, RayCluster
from ray_dra.ports.kubernetes import Kube, KubeView


@dataclass
class Found:
    """The objects of one attempt."""

    pods: list[Pod] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    domains: list[ComputeDomain] = field(default_factory=list)
    groups: list[PodGroup] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """A claim that is being deleted has its devices until its pod has ended, and is not waited for: the pod is. So
        is a PodGroup that does."""
        lasting = any(not thing.deleting for thing in (*self.claims, *self.groups))
        return not (self.pods or self.domains or lasting)


def by_attempt(view: KubeView, kube: Kube) -> dict[str, Found]:
    """Every object of ours under the attempt that it is for."""
    found: dict[str, Found] = {}
    lingering: set[str] = set()

    def of(attempt: str) -> Found:
        return found.setdefault(attempt, Found())

    for pod in view.pods:
        if pod.attempt is not None and is_ours(kube, pod):
            if lingers(view, pod):
                lingering.add(pod.uid)
            else:
                of(pod.attempt).pods.append(pod)
    for domain in view.domains:
        if domain.attempt is not None and is_ours(kube, domain):
            of(domain.attempt).domains.append(domain)
    for group in (*(view.pod_groups or ()), *view.gang_pod_groups):
        if group.attempt is not None and is_ours(kube, group):
            of(group.attempt).groups.append(group)
    for claim in view.claims:  # most are others'
        if claim.attempt is not None and is_ours(kube, claim) and claim.pod not in lingering:
            of(claim.attempt).claims.append(claim)
    return found


def is_ours(kube: Kube, thing: OfGang) -> bool:
    """Whether it is of a gang of this RayCluster, which may be deleted or unreadable by now; others' are none of ours
    then either."""
    return (thing.namespace, thing.raycluster) == (kube.namespace, kube.raycluster)


def lives(view: KubeView, node: str) -> bool:
    """Whether Kubernetes has the node, and it is ready."""
    found = view.nodes.get(node)
    return found is not None and found.ready


def raycluster(view: KubeView, namespace: str) -> RayCluster:
    """Raises NotFound."""
    if view.raycluster is None:
        raise NotFound("The RayCluster is not there.", place=f"namespace {namespace}")
    return view.raycluster


def lingers(view: KubeView, pod: Pod) -> bool:
    """Deleted on a node that is lost: its kubelet will end it when it comes back, and till then nobody can. Its
    claim stays allocated, so that its devices are taken meanwhile."""
    return pod.deleting and pod.node is not None and not lives(view, pod.node)
