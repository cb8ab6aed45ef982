"""Ray as the coordinator sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class RayNode:
    """A raylet: `total` and `available` resources, and what others than our gangs hold. `drains`: Ray starts nothing
    new there, as it will end (`Ray.drain`)."""

    id: str
    alive: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    total: Mapping[str, float] = field(default_factory=dict)
    available: Mapping[str, float] = field(default_factory=dict)
    hostname: str = ""
    head: bool = False
    drains: bool = False


@dataclass(frozen=True, slots=True)
class RayGroup:
    """A Ray placement group that is not removed: its state, and the Ray node of each bundle (None: not placed). `job`:
    the id of the job that made it."""

    id: str
    state: str
    nodes: tuple[str | None, ...] = ()
    bundles: tuple[Mapping[str, float], ...] = ()
    name: str = ""
    job: str = ""


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


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A placement group for Ray's control store, under the id that a program has already.

    Attributes:
        selectors: the label selector of each bundle.
        job, actor: who made it; "" for no actor. It ends with both of them, or with the actor alone where it
            `outlives_job`, or not at all where it is `detached`.
    """

    id: str
    name: str
    strategy: str
    bundles: tuple[Mapping[str, float], ...]
    selectors: tuple[Mapping[str, str], ...]
    job: str
    actor: str = ""
    outlives_job: bool = False
    detached: bool = False


class GroupAnswer(NamedTuple):
    """What Ray said to a new placement group. `removed`: it had one of this id and has removed it; `refused`: why it
    did not take it, "" where it did."""

    removed: bool = False
    refused: str = ""


class Ray(Protocol):
    """The coordinator's eyes on Ray."""

    def view(self) -> RayView:
        """One consistent look. Raises RayDraError when Ray does not answer."""

    def workers(self, node_id: str) -> tuple[Worker, ...]:
        """The worker processes that live on a node; none where the raylet is gone."""

    def answers(self, node_id: str) -> bool:
        """Whether a raylet that Ray lists as alive can be reached at all; True of one that is only slow."""

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        """Register a placement group. `again`: look first whether Ray has, or had, it already; without it, one that was
        removed would be taken up anew. Raises RayDraError when Ray does not answer."""

    def drain(self, node_id: str, why: str, deadline: float) -> None:
        """Tell Ray that a raylet ends at the deadline (Unix time): Ray's libraries hear of it, what runs there runs on,
        and nothing new is started. It cannot be taken back. Harmless for one that was told already. Raises
        RayDraError when Ray does not answer, or the raylet is gone."""

    def actor_ended(self, actor: str) -> bool:
        """Whether an actor has ended for good; one that Ray does not know has. Raises RayDraError when Ray does not
        answer."""

    def has_actors(self, job: str) -> bool:
        """Whether an actor of a job lives, or may yet; a job that Ray does not know has none. Raises RayDraError when
        Ray does not answer."""

    def remove_group(self, group: str) -> None:
        """Ask Ray to remove a placement group; harmless when it is gone."""
