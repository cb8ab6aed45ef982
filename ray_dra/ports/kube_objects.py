"""Kubernetes objects as types: of each kind what the coordinator needs, made once where an object arrives.

Only `translate.kube` makes them from what an API server sends, and only it knows that form; the coordinator, its
backends and the mirrors of `adapters.mirror` have these. A name, label or state that nobody asks for is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ray_dra.core.model.device import Attribute
from ray_dra.core.model.node import Links

NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True, slots=True)
class KubeNode:
    """The fields of a Node that the planner needs. `cpus` and `memory` (bytes) are allocatable; taints are (key, value,
    effect); `device_plugin`: the resource as which a device plugin offers its GPUs, "" for none; `images`: the names of
    those that it lists; `conditions`: those that say something of its hardware, and are true, by name."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True
    unschedulable: bool = False
    taints: tuple[tuple[str, str, str], ...] = ()
    cpus: float = 0.0
    memory: float = 0.0
    device_plugin: str = ""
    images: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OfGang:
    """What every object of a gang's attempt has. `attempt` and `raycluster` are our labels, None for others' objects;
    `deleting`: Kubernetes deletes it, sooner or later."""

    name: str
    namespace: str = ""
    attempt: str | None = None
    raycluster: str | None = None
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class ClaimTemplate(OfGang):
    """A ResourceClaimTemplate."""


@dataclass(frozen=True, slots=True)
class ComputeDomain(OfGang):
    """`waiting`: its nodes on which IMEX is not ready yet."""

    waiting: tuple[str, ...] = ()
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Pod(OfGang):
    """A worker.

    Attributes:
        node: where it is bound; None: nowhere yet.
        gated: our gate is closed. gates: other gates that are.
        pending: why it is not bound yet; waiting: why its containers have not started, "" once they have.
        prepared: its node has made ready what its containers need, the claims' devices included; images come next.
        failed: why it has ended in failure; "" unless it has. ended: in either way.
        warm: which images it is there to pull; None for a gang's worker. pulled: its node has had all its images.
    """

    uid: str = ""
    node: str | None = None
    gated: bool = False
    gates: tuple[str, ...] = ()
    pending: str = ""
    waiting: str = ""
    prepared: bool = False
    failed: str = ""
    ended: bool = False
    warm: str | None = None
    pulled: bool = False

    @property
    def no_image(self) -> bool:
        """Whether an image cannot be had, as opposed to: is being pulled."""
        return self.waiting.startswith(NO_IMAGE)


@dataclass(frozen=True, slots=True)
class Claim(OfGang):
    """A ResourceClaim, anybody's.

    Attributes:
        created: its time stamp, which sorts as text.
        pod: uid of the Pod that controls it, "" for none. Whoever may create claims may set labels; an owner can be
            made up, too, but Kubernetes' collector deletes what has an owner that does not exist.
        allocated: it has its devices.
        devices: (node, device) that it has, GPUs or parts of them; none by an administrator's access, which takes
            nothing from anyone.
        named: UUIDs of the devices that a gang's claim is for; count: how many of them it wants.
        domain: uid of the ComputeDomain that its pod joins, "" for none or one that it does not tell.
        domain_nodes: nodes on which it has a channel of IMEX, or is an IMEX daemon's.
        domain_pod: name of the Pod that joins a ComputeDomain by it, "" where it joins none or is an IMEX daemon's.
    """

    uid: str = ""
    created: str = ""
    pod: str = ""
    allocated: bool = False
    devices: tuple[tuple[str, str], ...] = ()
    named: tuple[str, ...] = ()
    count: int = 0
    domain: str = ""
    domain_nodes: tuple[str, ...] = ()
    domain_pod: str = ""

    @property
    def age(self) -> tuple[str, str]:
        """Orders claims from the oldest on, alike for everyone who sees them."""
        return self.created, self.uid


class CounterSet(NamedTuple):
    """Counters that the devices of a pool share, or what one of them consumes of a set."""

    name: str
    counters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PublishedDevice:
    """A device of a ResourceSlice.

    Attributes:
        capacity: quantities as they are written.
        taints: (key=value, effect).
        consumes: of a set of counters, what it uses up.
        several: several claims can have it at once. whole: of its capacity a claim gets all, unless it asks for less.
    """

    name: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    capacity: Mapping[str, str | int | float] = field(default_factory=dict)
    taints: tuple[tuple[str, str], ...] = ()
    consumes: tuple[CounterSet, ...] = ()
    several: bool = False
    whole: bool = True

    @property
    def counter_sets(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.consumes)

    def text(self, name: str) -> str | None:
        """An attribute that is a text."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class ResourceSlice:
    """A part of a driver's pool. `version` changes with every change; `node`: whose devices they are, "" for none;
    `count`: so many slices the pool has in this generation; `counters`: the sets that the pool's devices share."""

    name: str
    version: str
    driver: str
    node: str
    generation: int
    count: int
    devices: tuple[PublishedDevice, ...] = ()
    counters: tuple[CounterSet, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceTaintRule:
    """A taint that an administrator gives to devices.

    Attributes:
        taint: (key=value and whose it is, effect).
        selects: it has a selector; a rule without one chooses no device.
        driver, pool, device: that it chooses; "" for any.
        guard: whose it is, of a guard of ours or of another RayCluster's (`translate.kube.guards`); "" of any other.
    """

    name: str
    taint: tuple[str, str]
    selects: bool = True
    driver: str = ""
    pool: str = ""
    device: str = ""
    guard: str = ""


@dataclass(frozen=True, slots=True)
class Toleration:
    """Of pods, for taints of nodes. An empty key tolerates every key, an empty effect every effect."""

    key: str = ""
    exists: bool = False  # the value does not matter
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class NodeRequirement:
    """Of a pod's node affinity: what a node's label has to be; `of_field`: one of its fields, instead of a label."""

    key: str
    operator: str
    values: tuple[str, ...] = ()
    of_field: bool = False

    def __str__(self) -> str:
        return " ".join([self.key, self.operator, ", ".join(self.values)]).strip()


@dataclass(frozen=True, slots=True)
class Placing:
    """What a pod says of the nodes on which it may run.

    Attributes:
        selector: labels that a node has to have.
        terms: required, as alternatives, all requirements of one; None: nothing is.
        runtime: its runtime class; "" for the usual one.
    """

    tolerations: tuple[Toleration, ...] = ()
    selector: tuple[tuple[str, str], ...] = ()
    terms: tuple[tuple[NodeRequirement, ...], ...] | None = None
    runtime: str = ""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """A worker group of a RayCluster. `spec`: as it is there, for `translate.kube` to copy."""

    name: str
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RayAuth:
    """How Ray's processes prove who they are. `secret`: the Secret that has the token, "" for the one that KubeRay
    makes; `by_kubernetes`: the token is the pod's service account's."""

    secret: str = ""
    by_kubernetes: bool = False


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a RayCluster says of all its workers, whatever their group.

    Attributes:
        head_service: the Service of the head; "" for the one named after the RayCluster. head_port: of its GCS.
        ray_version: as the user gives it.
        auth: Ray's authentication; None: there is none.
        fault_tolerant: the GCS outlives the head.
        own_command: KubeRay adds no command to the containers.
        serving: a RayService made the RayCluster.
        autoscaled: Ray's autoscaler runs.
        never_restarted: containers are not restarted, because Ray's autoscaler v2 makes new pods.
        head_env: names of the environment that the user gives the head's Ray container.
        old_autoscaler: Ray's autoscaler runs in its version 1.
    """

    head_service: str = ""
    head_port: str = "6379"
    ray_version: str = ""
    auth: RayAuth | None = None
    fault_tolerant: bool = False
    own_command: bool = False
    serving: bool = False
    autoscaled: bool = False
    never_restarted: bool = False
    head_env: frozenset[str] = frozenset()
    old_autoscaler: bool = False


@dataclass(frozen=True, slots=True)
class KubeRay:
    """KubeRay's operator, as the pod that it made for the head shows it.

    Attributes:
        version: such as v1.6.2; "" where it is not known.
        shell: the command that `ray start` is given to.
        probes: it gives pods probes.
        env: the head's environment before what every pod is given.
        tls: it makes the certificates for Ray.
        differences: in which pods are not as we know them.
        domain: of the cluster's DNS.
    """

    version: str = ""
    shell: tuple[str, ...] = ("/bin/bash", "-c", "--")
    probes: bool = True
    env: tuple[Mapping[str, Any], ...] = ()
    tls: bool = False
    differences: tuple[str, ...] = ()
    domain: str = "cluster.local"


class WriteLimits(NamedTuple):
    """Of the coordinator's writes to the API server. `per_second`: 0 for no limit."""

    at_once: int = 16
    per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class RayCluster:
    """KubeRay's cluster, which gangs' workers join.

    Attributes:
        template: the name of the group that gangs' workers are copies of; placing: of its pods.
        workers: what holds for all workers.
        kuberay: the operator that runs here.
        settings: its annotations that are ours.
        deleting: Kubernetes deletes it. suspended: KubeRay ends all its pods, until it is let go on.
        service: the RayService that made it; "" for none.
        queued: Kueue queues it, as a whole.
    """

    name: str
    namespace: str
    uid: str
    groups: tuple[WorkerGroup, ...] = ()
    template: str = ""
    placing: Placing = field(default_factory=Placing)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    kuberay: KubeRay = field(default_factory=KubeRay)
    settings: Mapping[str, str] = field(default_factory=dict)
    deleting: bool = False
    suspended: bool = False
    service: str = ""
    queued: bool = False


@dataclass(frozen=True, slots=True)
class RayService:
    """KubeRay's service.

    Attributes:
        active: the RayCluster that serves; pending: the one that is to. "" for none.
        delay: seconds after which a RayCluster that is neither any more is deleted.
        deleting: Kubernetes deletes it, and with it all of its RayClusters.
    """

    name: str
    active: str = ""
    pending: str = ""
    delay: int = 60
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class NodeLinks:
    """What the topology agent of a node has published: `uuids` in NVML's order, `links` and `ancestors` as of
    `core.model.node.Node`."""

    node: str
    uuids: tuple[str | None, ...]
    links: Links
    ancestors: Links


@dataclass(frozen=True, slots=True)
class Workload(OfGang):
    """Kueue's, of our making: a gang's request for its quota.

    Attributes:
        active: nobody has turned it off.
        admitted: it has its quota; stays true where it is evicted.
        evicted: the reason, where its quota was taken back or it has finished; "" otherwise.
        said: what Kueue says of it.
        flavors: pod set -> the names of the ResourceFlavors that it was admitted with.
    """

    active: bool = True
    admitted: bool = False
    evicted: str = ""
    said: str = ""
    flavors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodGroup(OfGang):
    """KAI Scheduler's or Kubernetes' own, of our making: an attempt's pods, to be taken whole.

    Attributes:
        evicted: when KAI has ended them, as it writes that; "" where it has not.
        reason: why it does not take them, in its one word; said: in its own sentence. "" where it says nothing.
        kind: by which it is deleted; of Kubernetes' own with version and group.
    """

    evicted: str = ""
    reason: str = ""
    said: str = ""
    kind: str = "PodGroup"


@dataclass(frozen=True, slots=True)
class ResourceFlavor:
    """Kueue's: a kind of nodes that there is a quota of. `labels`: of these nodes."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
