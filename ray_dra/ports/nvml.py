"""Readings: what NVML said about one node, before any of it is interpreted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkReading:
    """One NVLink. `remote` is "gpu", "switch", "other", or None where the driver hides it (virtual machines)."""

    active: bool
    remote: str | None = None
    remote_bus: str | None = None


@dataclass(frozen=True, slots=True)
class FabricReading:
    """nvmlGpuFabricInfo: raw numbers, see the rules in `translate.nvml.reading`. `cluster_uuid` in UUID form."""

    state: int
    status: int
    cluster_uuid: str
    clique_id: int
    health_mask: int = 0
    health_summary: int = 0


@dataclass(frozen=True, slots=True)
class MigReading:
    """A MIG device. `name`: such as "NVIDIA H100 80GB HBM3 MIG 1g.10gb"; None where the driver does not say."""

    uuid: str
    gpu_instance: int
    compute_instance: int
    slices: int
    memory_mb: int
    name: str | None = None


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
    chassis_slot: int | None = None
    tray: int | None = None
    recovery: int | None = None
    remap_failed: bool = False
    lost: bool = False
    xids: tuple[int, ...] = ()
    compute_capability: str | None = None


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
