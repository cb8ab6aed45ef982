"""What runtime needs from the world, as small Protocols, and the plain values that cross them.

Adapters fulfil these with one library each; the fakes that ship in `ray_dra.simulated` pass the same
contract tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

MAP = "map/"  # key of a placement group's bundle-to-GPUs map: the coordinator writes it, workers read it

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
    Ray does not say which slots plain tasks have."""

    pid: int
    slots: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Ray(Protocol):
    """The coordinator's eyes on Ray."""

    def view(self) -> RayView:
        """One consistent look. Raises RayDraError when Ray does not answer."""

    def workers(self, node_id: str) -> tuple[Worker, ...]:
        """The worker processes that live on a node; none where the raylet is gone."""

    def remove_group(self, group: str) -> None:
        """Ask Ray to remove a placement group; harmless when it is gone."""


class Store(Protocol):
    """Durable keys and values; every put is atomic and has happened when it returns."""

    def put(self, key: str, value: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def delete(self, key: str) -> None: ...

    def keys(self, prefix: str) -> list[str]: ...


class Clock(Protocol):
    def __call__(self) -> float:
        """Seconds, monotonic."""
