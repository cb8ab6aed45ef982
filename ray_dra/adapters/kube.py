"""The coordinator's view of Kubernetes, kept by watches, and its few writes: the port `Kube`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.lease import Lease
from ray_dra.errors import AlreadyThere, ApiUnavailable, KubernetesError, NotFound, WatchExpired
from ray_dra.ports import KubeView, Object
from ray_dra.translate.events import event_about
from ray_dra.translate.labels import DRIVER, TOPOLOGY
from ray_dra.translate.slices import read_node
from ray_dra.translate.workers import ATTEMPT_LABEL, CLUSTER_LABEL

WATCH_SECONDS = 300.0
AGAIN_SECONDS = 1.0  # after an error, before the next try
WRITERS = 16
SYNC_SECONDS = 30.0


class Mirror:
    """All objects of one kind, kept by a list and a watch in a thread of its own.

    `keep` makes of an object what is kept of it; a mirror of nodes would else hold tens of kilobytes for each.
    """

    def __init__(
        self,
        api: KubernetesApi,
        kind: str,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        keep: Callable[[Any], Any] = lambda thing: thing,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._api, self._kind, self._namespace = api, kind, namespace
        self._select = {"labels": labels, "fields": fields}
        self._keep, self._changed = keep, changed
        self._lock = threading.Lock()
        self._things: dict[tuple[str, str], Any] = {}
        self.version = 0  # grows with every change
        self.error: KubernetesError | None = None
        self.synced = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._follow, name=f"mirror-{kind}", daemon=True).start()

    def items(self) -> tuple[Any, ...]:
        with self._lock:
            return tuple(self._things.values())

    def stop(self) -> None:
        self._ended.set()

    def _follow(self) -> None:
        version = ""
        while not self._ended.is_set():
            try:
                if not version:
                    version = self._list()
                version = self._watch(version)
                self.error = None
            except WatchExpired:
                version = ""
            except KubernetesError as error:
                self.error = error
                version = version if isinstance(error, ApiUnavailable) else ""
                self._ended.wait(AGAIN_SECONDS)

    def _list(self) -> str:
        things: dict[tuple[str, str], Any] = {}
        version = ""
        for page, at in self._api.pages(self._kind, self._namespace, **self._select):
            version = at
            things.update((_key(thing), self._keep(thing)) for thing in page)
        with self._lock:
            self._things = things
            self.version += 1
        self.synced.set()
        self._changed()
        return version

    def _watch(self, version: str) -> str:
        events = self._api.watch(self._kind, self._namespace, version=version, seconds=WATCH_SECONDS, **self._select)
        for kind, thing in events:
            version = thing["metadata"]["resourceVersion"]
            if kind == "BOOKMARK":
                continue
            if self._take(kind, thing):
                self._changed()
            if self._ended.is_set():
                break
        return version

    def _take(self, kind: str, thing: Object) -> bool:
        """One event; False where nothing that is kept has changed, as with a node's heartbeat."""
        key, kept = _key(thing), None if kind == "DELETED" else self._keep(thing)
        with self._lock:
            if self._things.get(key) == kept:
                return False
            if kept is None:
                del self._things[key]
            else:
                self._things[key] = kept
            self.version += 1
        return True


class KubeAdapter:
    """The port `Kube` for one RayCluster. `changed` is called, from any thread, when what concerns gangs has changed.

    Raises:
        KubernetesError: the first lists cannot be had; says which right is missing.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        raycluster: str,
        *,
        holder: str = "",
        changed: Callable[[], None] = lambda: None,
        patience: float = SYNC_SECONDS,
    ) -> None:
        """`holder`: who asks for the RayCluster's lease; the same after a restart, so that it need not wait.
        `patience`: seconds for which the API server may be away now."""
        self._api, self.namespace, self.raycluster = api, namespace, raycluster
        deadline = time.monotonic() + patience
        self.compute_domains = _served(api, deadline)
        ours = f"{CLUSTER_LABEL}={raycluster}"
        self._mirrors = {
            "raycluster": Mirror(api, "RayCluster", namespace, fields=f"metadata.name={raycluster}", changed=changed),
            "nodes": Mirror(api, "Node", keep=read_node, changed=changed),
            "slices": Mirror(api, "ResourceSlice", fields=f"spec.driver={DRIVER}"),
            "claims": Mirror(api, "ResourceClaim", keep=_claim),
            "pods": Mirror(api, "Pod", namespace, labels=ours, changed=changed),
            "topologies": Mirror(api, "ConfigMap", namespace, labels=f"{TOPOLOGY}=true", changed=changed),
            "templates": Mirror(api, "ResourceClaimTemplate", namespace, changed=changed),
        }
        if self.compute_domains:
            self._mirrors["domains"] = Mirror(api, "ComputeDomain", namespace, labels=ours)
        self._lease = Lease(api, namespace, f"ray-dra-{raycluster}", holder)
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="kube")
        for mirror in self._mirrors.values():
            while not mirror.synced.wait(0.02):
                if mirror.error is not None and not isinstance(mirror.error, ApiUnavailable):
                    raise mirror.error
                if time.monotonic() > deadline:
                    raise mirror.error or ApiUnavailable("The Kubernetes API did not answer in time.", place=api.server)
        self._lease.asked.wait(SYNC_SECONDS)

    def view(self) -> KubeView:
        found = {name: mirror.items() for name, mirror in self._mirrors.items()}
        clusters = found["raycluster"]
        return KubeView(
            raycluster=clusters[0] if clusters else None,
            nodes={node.name: node for node in found["nodes"]},
            slices=found["slices"],
            claims=found["claims"],
            pods=found["pods"],
            templates=found["templates"],
            domains=found.get("domains", ()),
            topologies=found["topologies"],
            version=sum(mirror.version for mirror in self._mirrors.values()),
        )

    def create(self, thing: Object, *, dry_run: bool = False) -> None:
        with suppress(AlreadyThere):
            self._api.create(thing, self.namespace, dry_run=dry_run)

    def patch(self, kind: str, name: str, change: list[Any] | Object) -> None:
        self._api.patch(kind, name, change, self.namespace)

    def delete(self, kind: str, name: str) -> None:
        self._api.delete(kind, name, self.namespace)

    def lead(self) -> str:
        return self._lease.missing()

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        cluster = next(iter(self._mirrors["raycluster"].items()), None)
        if cluster is not None:
            event = event_about(cluster, reason, message, warning=warning)
            self._writers.submit(lambda: self._api.create(event, self.namespace))

    def together(self, calls: Sequence[Callable[[], object]]) -> None:
        side_by_side(self._writers, calls)

    def close(self) -> None:
        for mirror in self._mirrors.values():
            mirror.stop()
        self._lease.stop()
        self._writers.shutdown(wait=False)


def _served(api: KubernetesApi, deadline: float) -> bool:
    """Whether the cluster has ComputeDomains. Raises NotFound where it lacks what gangs cannot do without."""
    while True:
        try:
            for kind, needed in (
                ("ResourceSlice", "Kubernetes 1.34 or newer (resource.k8s.io/v1)"),
                ("RayCluster", "KubeRay"),
            ):
                if not api.serves(kind):
                    raise NotFound(f"This cluster does not serve {kind}s.", place=api.server, wanted=needed)
            return api.serves("ComputeDomain")
        except ApiUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_SECONDS)


def side_by_side(writers: Executor, calls: Sequence[Callable[[], object]]) -> None:
    """See `Kube.together`."""
    silent = threading.Event()

    def make(call: Callable[[], object]) -> None:
        if silent.is_set():
            return
        try:
            call()
        except ApiUnavailable as error:
            if error.silent:
                silent.set()
            raise

    waiting = [writers.submit(make, call) for call in calls]
    errors = [error for each in waiting if (error := each.exception()) is not None]
    if errors:
        raise errors[0]


def _key(thing: Object) -> tuple[str, str]:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def _claim(thing: Object) -> Object:
    """Where a claim lies and whose it is; while a gang's is not allocated, also which devices it is for."""
    meta, allocation = thing["metadata"], (thing.get("status") or {}).get("allocation")
    wanted = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")
    kept = {"metadata": {name: meta[name] for name in wanted if name in meta}, "status": {"allocation": allocation}}
    return kept if allocation or ATTEMPT_LABEL not in (meta.get("labels") or {}) else {**kept, "spec": thing["spec"]}
