"""Stand-ins for Ray's ports, for tests and for trying the coordinator without Ray.

They pass the same contract tests as the real adapters (tests/ports/test_contracts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ray_dra.ports.ray import GroupAnswer, NewGroup, RayGroup, RayNode, RayView, Worker
from ray_dra.translate.names import RAY_NODE_ID


class MemoryStore:
    """A Store in a dict. It outlives the coordinators that use it, as Ray's does."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self.data[key] = value

    def get(self, key: str) -> bytes | None:
        return self.data.get(key)

    def delete(self, key: str) -> None:
        self.data.pop(key, None)

    def keys(self, prefix: str) -> list[str]:
        return sorted(k for k in self.data if k.startswith(prefix))


@dataclass
class _Group:
    bundles: Sequence[Mapping[str, float]]
    selectors: Sequence[Mapping[str, str]]
    job: str
    state: str = "PENDING"
    nodes: list[str | None] = field(default_factory=list)
    gpu_ids: list[tuple[int, ...]] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)  # bundles in which a worker runs
    name: str = ""


class FakeRay:
    """Raylets, placement groups and workers, with Ray's habits: GPU ids lowest first, a killed node takes its
    bundles along, a removed group's workers end a moment later (`settle`)."""

    def __init__(self) -> None:
        self.nodes: dict[str, RayNode] = {}
        self.groups: dict[str, _Group] = {}
        self.tasks: dict[int, tuple[str, tuple[int, ...]]] = {}  # plain GPU tasks: pid -> raylet, GPU ids
        self.jobs: set[str] = set()
        self.actors: dict[str, str] = {}  # those that live: actor -> job
        self.drained: list[tuple[str, str, float]] = []  # raylets of which Ray was told that they end, why, and when
        self.unreachable: set[str] = set()  # raylets that Ray has not given up yet
        self._next = 0
        self._said: dict[str, tuple[RayNode, RayNode]] = {}  # raylets as they are, and as they were told last

    # -- the ports

    def view(self) -> RayView:
        nodes = tuple(map(self._seen, self.nodes.values()))
        groups = {
            name: RayGroup(name, g.state, tuple(g.nodes) or (None,) * len(g.bundles), tuple(g.bundles), g.name, g.job)
            for name, g in self.groups.items()
            if g.state != "REMOVED"
        }
        return RayView(nodes, groups, frozenset(self.jobs))

    def workers(self, node_id: str) -> tuple[Worker, ...]:
        found = [Worker(pid, job="other") for pid, (raylet, _) in self.tasks.items() if raylet == node_id]
        for name, group in self.groups.items():
            for bundle in group.workers:
                if group.nodes[bundle] == node_id and group.gpu_ids[bundle]:
                    found.append(Worker(1_000_000 + bundle, {name: group.gpu_ids[bundle]}))
        return tuple(found)

    def answers(self, node_id: str) -> bool:
        return node_id in self.nodes and node_id not in self.unreachable

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        before = self.groups.get(new.id)
        if again and before is not None:
            return GroupAnswer(removed=before.state == "REMOVED")
        taken = new.name and any(g.name == new.name and g.state != "REMOVED" for g in self.groups.values())
        if taken and (before is None or before.state == "REMOVED"):
            return GroupAnswer(refused=f"name {new.name!r} already exists")
        if before is None or before.state == "REMOVED":
            made = _Group(new.bundles, new.selectors, "" if new.detached or new.actor else new.job, name=new.name)
            made.nodes, made.gpu_ids = [None] * len(new.bundles), [()] * len(new.bundles)
            self.groups[new.id] = made
            self.place()
        return GroupAnswer()

    def drain(self, node_id: str, why: str, deadline: float) -> None:
        if node_id in self.nodes and self.nodes[node_id].alive:
            self.nodes[node_id] = replace(self.nodes[node_id], drains=True)
            self.drained.append((node_id, why, deadline))

    def actor_ended(self, actor: str) -> bool:
        return actor not in self.actors

    def has_actors(self, job: str) -> bool:
        return job in self.actors.values()

    def remove_group(self, group: str) -> None:
        if group in self.groups:
            self.groups[group].state = "REMOVED"

    # -- what happens in the world

    def add_node(
        self,
        raylet: str,
        *,
        gpus: int,
        cpus: float = 16,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        total = {"GPU": float(gpus), "CPU": float(cpus), **(resources or {})}
        self.nodes[raylet] = RayNode(raylet, True, dict(labels or {}), total, total)
        self.place()

    def kill_node(self, raylet: str) -> None:
        self.nodes[raylet] = replace(self.nodes[raylet], alive=False)
        self.tasks = {t: use for t, use in self.tasks.items() if use[0] != raylet}
        for group in self.groups.values():
            if group.state == "CREATED" and raylet in group.nodes:
                group.state = "RESCHEDULING"
                for i, node in enumerate(group.nodes):
                    if node == raylet:
                        group.nodes[i] = None
                        group.workers.discard(i)

    def create_group(
        self, bundles: Sequence[Mapping[str, float]], selectors: Sequence[Mapping[str, str]], job: str = ""
    ) -> str:
        self._next += 1
        name = f"{self._next:036x}"
        self.groups[name] = _Group(bundles, selectors, job, nodes=[None] * len(bundles), gpu_ids=[()] * len(bundles))
        self.place()
        return name

    def place(self) -> None:
        """Ray's scheduler: place every waiting bundle of a group, or none."""
        for group in self.groups.values():
            if group.state not in ("PENDING", "RESCHEDULING"):
                continue
            before = (list(group.nodes), list(group.gpu_ids))
            for i, bundle in enumerate(group.bundles):
                if group.nodes[i] is not None:
                    continue
                for node in self.nodes.values():
                    labels = {**node.labels, RAY_NODE_ID: node.id}
                    fits = all(self._available(node).get(r, 0) >= n for r, n in bundle.items())
                    if (
                        node.alive
                        and not node.drains
                        and fits
                        and all(labels.get(k) == v for k, v in group.selectors[i].items())
                    ):
                        group.gpu_ids[i] = self._free_gpu_ids(node)[: int(bundle.get("GPU", 0))]
                        group.nodes[i] = node.id
                        break
                else:
                    group.nodes, group.gpu_ids = before
                    break
            else:
                group.state = "CREATED"

    def start_task(self, raylet: str, gpus: int) -> tuple[int, tuple[int, ...]] | None:
        """A plain GPU task; (pid, GPU ids), or None where it does not fit."""
        gpu_ids = self._free_gpu_ids(self.nodes[raylet])[:gpus]
        if len(gpu_ids) < gpus:
            return None
        self._next += 1
        self.tasks[self._next] = (raylet, gpu_ids)
        return self._next, gpu_ids

    def settle(self) -> None:
        """Workers of removed groups end, and jobs' groups with their jobs."""
        for group in self.groups.values():
            if group.job and group.job not in self.jobs:
                group.state = "REMOVED"
            if group.state == "REMOVED":
                group.workers.clear()
        self.place()

    def _holders(self, raylet: str) -> list[tuple[Mapping[str, float], tuple[int, ...]]]:
        found: list[tuple[Mapping[str, float], tuple[int, ...]]] = [
            ({"GPU": float(len(gpu_ids))}, gpu_ids) for node, gpu_ids in self.tasks.values() if node == raylet
        ]
        for group in self.groups.values():
            for i, node in enumerate(group.nodes):
                if node == raylet and (group.state != "REMOVED" or i in group.workers):
                    found.append((group.bundles[i], group.gpu_ids[i]))
        return found

    def _seen(self, node: RayNode) -> RayNode:
        """With what is available, the same value for as long as nothing of it changes."""
        available = self._available(node)
        said, seen = self._said.get(node.id, (None, node))
        if said is not node or seen.available != available:
            seen = replace(node, available=available)
            self._said[node.id] = node, seen
        return seen

    def _available(self, node: RayNode) -> dict[str, float]:
        left = dict(node.total)
        for bundle, _ in self._holders(node.id):
            for resource, amount in bundle.items():
                left[resource] = left.get(resource, 0.0) - amount
        return left

    def _free_gpu_ids(self, node: RayNode) -> tuple[int, ...]:
        taken = {gpu_id for _, gpu_ids in self._holders(node.id) for gpu_id in gpu_ids}
        return tuple(s for s in range(int(node.total["GPU"])) if s not in taken)
