"""What there is of each attempt at making a gang's workers, read off the labelled objects, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ray_dra.errors import NotFound
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.translate.names import ATTEMPT_LABEL, CLUSTER_LABEL


@dataclass
class Found:
    """The objects of one attempt."""

    groups: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    templates: list[Object] = field(default_factory=list)
    domains: list[Object] = field(default_factory=list)
    claims: list[Object] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Claims go with their pods."""
        return not (self.groups or self.pods or self.templates or self.domains)


def by_attempt(view: KubeView, namespace: str) -> dict[str, Found]:
    """Every object of ours under the attempt that it is for."""
    found: dict[str, Found] = {}
    groups = view.raycluster["spec"].get("workerGroupSpecs") or [] if view.raycluster else []
    for group in groups:
        attempt = _label(group["template"], ATTEMPT_LABEL)
        if attempt is not None:
            found.setdefault(attempt, Found()).groups.append(group)
    for kind, things in (
        ("pods", view.pods),
        ("templates", view.templates),
        ("domains", view.domains),
        ("claims", view.claims),
    ):
        for thing in things:
            attempt = _label(thing, ATTEMPT_LABEL)  # first: most things of others have none
            if attempt is None or not is_ours(view, namespace, thing):
                continue
            if kind != "pods" or not _lingers(view, thing):
                getattr(found.setdefault(attempt, Found()), kind).append(thing)
    return found


def is_ours(view: KubeView, namespace: str, thing: Object) -> bool:
    """Whether it is of a gang of this RayCluster."""
    cluster = view.raycluster
    return thing["metadata"].get("namespace") == namespace and (
        cluster is None or _label(thing, CLUSTER_LABEL) == cluster["metadata"]["name"]
    )


def is_for(thing: Object, attempts: frozenset[str]) -> bool:
    """Whether it is of one of these attempts."""
    return _label(thing, ATTEMPT_LABEL) in attempts


def lives(view: KubeView, node: str) -> bool:
    """Whether Kubernetes has the node, and it is ready."""
    found = view.nodes.get(node)
    return found is not None and found.ready


def raycluster(view: KubeView, namespace: str) -> Object:
    """Raises NotFound."""
    if view.raycluster is None:
        raise NotFound("The RayCluster is not there.", place=f"namespace {namespace}")
    return view.raycluster


def _lingers(view: KubeView, pod: Object) -> bool:
    """Deleted on a node that is lost: its kubelet will end it when it comes back, and till then nobody can. Its
    claim stays allocated, so that its devices are taken meanwhile."""
    node = pod["spec"].get("nodeName")
    return bool(pod["metadata"].get("deletionTimestamp")) and node is not None and not lives(view, node)


def _label(thing: Object, name: str) -> str | None:
    labels: Mapping[str, str] | None = thing["metadata"].get("labels") if "metadata" in thing else None
    return labels.get(name) if labels else None
