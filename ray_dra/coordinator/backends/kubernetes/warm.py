"""The images of gangs' workers, pulled on nodes with GPUs before a gang needs them, where the RayCluster asks for it.

Level-triggered, like the making of workers: every look reads which pods are there and which nodes list the images,
makes some that lack, and deletes those that have ended or that nobody wants any more. What it remembers is for thrift.
Neighbours: `translate.kube.warm` makes the pods; `backend.py` calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ray_dra.coordinator.backends.kubernetes.objects import is_ours, lingers
from ray_dra.errors import KubernetesError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import Pod
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.translate.kube.warm import WarmImages

MOST_PODS = 8  # at once: a registry serves a few well, and gangs' own pods come first
BIND_SECONDS = 60.0  # for a pod to be bound to its node
AGAIN_SECONDS = 600.0  # until a node that was given up is tried again
MOST_NAMED = 5  # nodes in a sentence


class Warming:
    """See the module."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube, self._clock = kube, clock
        self._images = WarmImages(None)
        self._done: set[str] = set()  # nodes on which a pod has ended: they have the images, whether they list them
        self._listed: set[str] = set()  # nodes that have listed them
        self._given_up: dict[str, tuple[float, str]] = {}  # node -> until when, and why
        self._refused: tuple[float, str] = (0.0, "")  # until when no pod can be made, and why
        self._unbound: dict[str, float] = {}  # pod -> since when it waits for its node
        self._pods = 0
        self._rests: tuple[int, float] | None = None  # the view in which nothing was to be done, and until when

    @property
    def idle(self) -> bool:
        """Whether no pod is left, as far as the last look tells."""
        return not self._pods

    def problems(self) -> tuple[str, ...]:
        """Where images cannot be had."""
        now, found = self._clock(), dict[str, list[str]]()
        for node, (until, why) in self._given_up.items():
            if until > now:
                found.setdefault(why, []).append(node)
        said = [f"images are not pulled on {_some(nodes)}: {why}" for why, nodes in found.items()]
        until, why = self._refused
        return (*said, *([f"images are not pulled: {why}"] if until > now else []))

    def step(self, view: KubeView, usable: Callable[[], Sequence[str]]) -> None:
        """One step further. `usable`: the nodes with GPUs on which pods may run. Errors are met at a later look."""
        pods = [pod for pod in view.pods if pod.warm is not None and is_ours(self._kube, pod)]
        pods = [pod for pod in pods if not lingers(view, pod)]
        self._pods = len(pods)
        now = self._clock()
        if not pods and self._rests is not None and self._rests[0] == view.version and now < self._rests[1]:
            return
        self._read(view)
        nodes = usable() if self._images.key else ()
        places = {self._images.name(node): node for node in nodes}
        self._forget(view)
        working, calls = set(), list[Callable[[], object]]()
        for pod in pods:
            node = places.get(pod.name) if pod.warm == self._images.key else None
            if node is None or self._over(pod, node, now):
                if not pod.deleting:
                    calls.append(partial(self._kube.delete, "Pod", pod.name))
            else:
                working.add(node)
        self._unbound = {name: since for name, since in self._unbound.items() if any(p.name == name for p in pods)}
        if self._images.key and self._refused[0] <= now:
            lacking = [node for node in nodes if node not in working and self._lacks(view, node, now)]
            calls += [partial(self._make, node) for node in lacking[: max(0, MOST_PODS - len(pods))]]
        self._pods = len(pods) or len(calls)
        due = [until for until, _ in (*self._given_up.values(), self._refused) if until > now]
        self._rests = (view.version, min([now + BIND_SECONDS, *due])) if not pods and not calls else None
        try:
            self._kube.together(calls)
        except KubernetesError as error:
            self._refused = now + BIND_SECONDS, str(error).splitlines()[0]

    def _read(self, view: KubeView) -> None:
        """What is to be pulled now."""
        images = WarmImages(view.raycluster)
        if images.key != self._images.key:
            self._done, self._listed, self._given_up, self._refused = set(), set(), {}, (0.0, "")
        self._images = images

    def _forget(self, view: KubeView) -> None:
        """Nodes that have listed the images and do no more have lost them; so may those that are gone."""
        listed = {name for name, node in view.nodes.items() if self._images.there(node)}
        self._done = {name for name in self._done if name in listed or name in view.nodes.keys() - self._listed}
        self._listed = listed

    def _over(self, pod: Pod, node: str, now: float) -> bool:
        """Whether a pod has done what it can."""
        if pod.ended or pod.pulled:
            if pod.pulled:
                self._done.add(node)
            else:
                self._give_up(node, pod.failed, now)
            return True
        if pod.no_image:
            self._give_up(node, pod.waiting, now)
            return True
        if pod.node is None and now - self._unbound.setdefault(pod.name, now) > BIND_SECONDS:
            self._give_up(node, pod.pending.replace(pod.name, "its pod"), now)
            return True
        return False

    def _give_up(self, node: str, why: str, now: float) -> None:
        self._given_up[node] = now + AGAIN_SECONDS, " ".join(why.split())

    def _lacks(self, view: KubeView, node: str, now: float) -> bool:
        if node in self._done or node in self._listed or node not in view.nodes:
            return False
        return self._given_up.get(node, (0.0, ""))[0] <= now

    def _make(self, node: str) -> None:
        self._kube.create(self._images.pod(node))


def _some(nodes: list[str]) -> str:
    more = len(nodes) - MOST_NAMED
    return ", ".join(sorted(nodes)[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
