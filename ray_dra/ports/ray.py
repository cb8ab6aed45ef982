"""Ray as the coordinator sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


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
    """A Ray placement group that is not removed: its state, and the Ray node of each bundle (None: not placed)."""

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
    """A living worker process. `gpu_ids`: the GPU ids that its actor has, by placement group ("" for none);
    Ray does not say which GPU ids plain tasks have. `job`: the id of the job that it works for."""

    pid: int
    gpu_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    job: str = ""


class Ray(Protocol):
    """The coordinator's eyes on Ray."""

    def view(self) -> RayView:
        """One consistent look. Raises RayDraError when Ray does not answer."""

    def workers(self, node_id: str) -> tuple[Worker, ...]:
        """The worker processes that live on a node; none where the raylet is gone."""

    def remove_group(self, group: str) -> None:
        """Ask Ray to remove a placement group; harmless when it is gone."""
