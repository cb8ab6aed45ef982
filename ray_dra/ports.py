"""What runtime needs from the world, as small Protocols, and the plain values that cross them.

Adapters fulfil these with one library each; the fakes that ship in `ray_dra.simulated` pass the same
contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

# Keys in the store that the coordinator shares with workers. MAP: a placement group's bundle-to-GPUs map. SLOT_KEY:
# what a gang's pod must find by NVML; VERIFIED_KEY: that it did; GO_KEY: the barrier, open for an attempt's pods.
MAP = "map/"
SLOT_KEY, VERIFIED_KEY, GO_KEY = "slot/", "verified/", "go/"

# -- readings: what NVML said about one node, before any of it is interpreted


@dataclass(frozen=True, slots=True)
class LinkReading:
    """One NVLink. `remote` is "gpu", "switch", "other", or None where the driver hides it (virtual machines)."""

    active: bool
    remote: str | None = None
    remote_bus: str | None = None


@dataclass(frozen=True, slots=True)
class FabricReading:
    """nvmlGpuFabricInfo: raw numbers, see the rules in `translate.reading`. `cluster_uuid` in UUID form."""

    state: int
    status: int
    cluster_uuid: str
    clique_id: int
    health_mask: int = 0
    health_summary: int = 0


@dataclass(frozen=True, slots=True)
class MigReading:
    uuid: str
    gpu_instance: int
    compute_instance: int
    slices: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU. None stands for "the driver does not say"; `lost` for a GPU that fell off the bus."""

    index: int
    uuid: str | None
    name: str | None = None
    bus: str | None = None
    numa: int | None = None
    memory: int | None = None
    links: tuple[LinkReading | None, ...] = ()
    fabric: FabricReading | None = None
    mig: bool = False
    migs: tuple[MigReading, ...] = ()
    chassis: str | None = None
    slot: int | None = None
    tray: int | None = None
    recovery: int | None = None
    remap_failed: bool = False
    lost: bool = False
    xids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeReading:
    """One full probe.

    `p2p[i][j]`: whether NVML says that NVLink connects two GPUs (None: unknown); `ancestors[i][j]`:
    NVML's topology level. `error` says why there is no reading (library missing, hung, inconsistent).
    """

    driver: str | None = None
    gpus: tuple[GpuReading, ...] = ()
    p2p: tuple[tuple[bool | None, ...], ...] = ()
    ancestors: tuple[tuple[int, ...], ...] = ()
    error: str | None = None


# -- Ray as the coordinator sees it


@dataclass(frozen=True, slots=True)
class RayNode:
    """A raylet: `total` and `available` resources, and what others than our gangs hold."""

    id: str
    alive: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    total: Mapping[str, float] = field(default_factory=dict)
    available: Mapping[str, float] = field(default_factory=dict)
    hostname: str = ""
    head: bool = False


@dataclass(frozen=True, slots=True)
class RayGroup:
    """A Ray placement group: its state, and the Ray node of each bundle (None: not placed)."""

    id: str
    state: str
    nodes: tuple[str | None, ...] = ()
    bundles: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RayView:
    """One look at Ray: raylets, placement groups, and the ids of the jobs that are running."""

    nodes: tuple[RayNode, ...] = ()
    groups: Mapping[str, RayGroup] = field(default_factory=dict)
    jobs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Worker:
    """A living worker process. `slots`: the GPU slots that its actor has, by placement group ("" for none);
    Ray does not say which slots plain tasks have. `job`: the id of the job that it works for."""

    pid: int
    slots: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    job: str = ""


class Ray(Protocol):
    """The coordinator's eyes on Ray."""

    def view(self) -> RayView:
        """One consistent look. Raises RayDraError when Ray does not answer."""

    def workers(self, node_id: str) -> tuple[Worker, ...]:
        """The worker processes that live on a node; none where the raylet is gone."""

    def remove_group(self, group: str) -> None:
        """Ask Ray to remove a placement group; harmless when it is gone."""


# -- Kubernetes as the coordinator sees it


@dataclass(frozen=True, slots=True)
class KubeNode:
    """What matters of a Node. `cpus` and `memory` (bytes) are allocatable; taints are (key, value, effect);
    `device_plugin`: a device plugin offers its GPUs."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True
    unschedulable: bool = False
    taints: tuple[tuple[str, str, str], ...] = ()
    cpus: float = 0.0
    memory: float = 0.0
    device_plugin: bool = False


Object = Mapping[str, Any]  # a Kubernetes object as its dict


@dataclass(frozen=True, slots=True)
class KubeView:
    """One look, from watches. `slices` and `claims` are of the whole cluster, the others of the RayCluster's namespace
    and, but for the RayCluster, ours by their label."""

    raycluster: Object | None = None
    nodes: Mapping[str, KubeNode] = field(default_factory=dict)
    slices: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    templates: tuple[Object, ...] = ()
    domains: tuple[Object, ...] = ()
    topologies: tuple[Object, ...] = ()  # ConfigMaps of the topology agent
    version: int = 0  # grows with every change


class Kube(Protocol):
    """The coordinator's hands on Kubernetes, in the RayCluster's namespace. KubernetesErrors pass through."""

    namespace: str
    compute_domains: bool  # the cluster serves ComputeDomains

    def view(self) -> KubeView: ...

    def create(self, thing: Object, *, dry_run: bool = False) -> None:
        """AlreadyThere is no error here: names are ours, and say what is in them."""

    def patch(self, kind: str, name: str, change: list[Any] | Object) -> None: ...

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


class Store(Protocol):
    """Durable keys and values; every put is atomic and has happened when it returns."""

    def put(self, key: str, value: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def delete(self, key: str) -> None: ...

    def keys(self, prefix: str) -> list[str]: ...


class Clock(Protocol):
    def __call__(self) -> float:
        """Seconds, monotonic."""
