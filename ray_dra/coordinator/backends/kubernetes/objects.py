"""What there is of each attempt at making a gang's workers, read off the labelled objects, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_dra.errors import NotFound
from ray_dra.ports.kube_objects import Claim, ClaimTemplate, ComputeDomain, OfGang, Pod, RayCluster, WorkerGroup
from ray_dra.ports.kubernetes import KubeView


@dataclass
class Found:
    """The objects of one attempt."""

    groups: list[WorkerGroup] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    templates: list[ClaimTemplate] = field(default_factory=list)
    domains: list[ComputeDomain] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Claims go with their pods."""
        return not (self.groups or self.pods or self.templates or self.domains)


def by_attempt(view: KubeView, namespace: str) -> dict[str, Found]:
    """Every object of ours under the attempt that it is for."""
    found: dict[str, Found] = {}

    def of(attempt: str) -> Found:
        return found.setdefault(attempt, Found())

    for group in view.raycluster.groups if view.raycluster is not None else ():
        if group.attempt is not None:
            of(group.attempt).groups.append(group)
    for pod in view.pods:
        if pod.attempt is not None and is_ours(view, namespace, pod) and not _lingers(view, pod):
            of(pod.attempt).pods.append(pod)
    for template in view.templates:
        if template.attempt is not None and is_ours(view, namespace, template):
            of(template.attempt).templates.append(template)
    for domain in view.domains:
        if domain.attempt is not None and is_ours(view, namespace, domain):
            of(domain.attempt).domains.append(domain)
    for claim in view.claims:  # most are others'
        if claim.attempt is not None and is_ours(view, namespace, claim):
            of(claim.attempt).claims.append(claim)
    return found


def is_ours(view: KubeView, namespace: str, thing: OfGang) -> bool:
    """Whether it is of a gang of this RayCluster."""
    cluster = view.raycluster
    return thing.namespace == namespace and (cluster is None or thing.raycluster == cluster.name)


def lives(view: KubeView, node: str) -> bool:
    """Whether Kubernetes has the node, and it is ready."""
    found = view.nodes.get(node)
    return found is not None and found.ready


def raycluster(view: KubeView, namespace: str) -> RayCluster:
    """Raises NotFound."""
    if view.raycluster is None:
        raise NotFound("The RayCluster is not there.", place=f"namespace {namespace}")
    return view.raycluster


def _lingers(view: KubeView, pod: Pod) -> bool:
    """Deleted on a node that is lost: its kubelet will end it when it comes back, and till then nobody can. Its
    claim stays allocated, so that its devices are taken meanwhile."""
    return pod.deleting and pod.node is not None and not lives(view, pod.node)
