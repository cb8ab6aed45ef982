"""The coordinator's view of Kubernetes, kept by watches, and its few writes: the port `Kube`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.lease import Lease
from ray_dra.errors import AlreadyThere, ApiUnavailable, KubernetesError, NotFound, NotLeading, WatchExpired
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.events import event_about
from ray_dra.translate.kube.pods import read_pod
from ray_dra.translate.kube.published_links import read_topology
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.shapes import UNREADABLE, read_domain, read_template, why_unreadable
from ray_dra.translate.kube.slices import read_node, read_slice
from ray_dra.translate.names import CLUSTER_LABEL, DRIVER, TOPOLOGY_LABEL

logger = logging.getLogger("ray_dra")

WATCH_SECONDS = 300.0
SILENT_SECONDS = WATCH_SECONDS + 60.0  # a watch ends before that, so that a silence that is longer is a fault
SHORT_SECONDS = 1.0  # a watch that ends so soon without a word did not work
AGAIN_SECONDS, MOST_AGAIN_SECONDS = 1.0, 8.0  # after an error, before the next try
GO_ON_TRIES = 3  # that a watch is begun again where it broke, before everything is listed anew
MOST_PROBLEMS = 20  # that are told one by one
WRITERS = 16
SYNC_SECONDS = 30.0


class Mirror:
    """All objects of one kind, kept by a list and a watch in a thread of its own.

    `keep` makes of an object what is kept of it; a mirror of nodes would else hold tens of kilobytes for each. An
    object of which it can make nothing is left out, and `problems` says so, as of a view that cannot be kept up.
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
        self._left_out: dict[tuple[str, str], str] = {}  # what cannot be read, and why
        self.version = 0  # grows with every change
        self.error: KubernetesError | None = None
        self.synced = threading.Event()
        self._at = ""  # the version that all this is of; "": list it anew
        self._heard = time.monotonic()  # when the server last said anything
        self._ended = threading.Event()
        self._hang_up: Callable[[], None] | None = None  # ends the watch that is open
        self.thread = threading.Thread(target=self._follow, name=f"mirror-{kind}", daemon=True)
        self.thread.start()

    def items(self) -> tuple[Any, ...]:
        with self._lock:
            return tuple(self._things.values())

    def problems(self) -> list[str]:
        """Why the mirror may differ from the cluster; empty if all is well."""
        error = self.error
        found = [] if error is None else [f"{self._kind}s cannot be watched: {_first_line(error)}"]
        if time.monotonic() - self._heard > SILENT_SECONDS:
            found.append(f"no word of {self._kind}s for over {SILENT_SECONDS:.0f} s: plans are made on what there was")
        with self._lock:
            left_out = list(self._left_out.items())
        return found + [f"{self._kind} {'/'.join(filter(None, key))} is left out: {why}" for key, why in left_out]

    def stop(self) -> None:
        self._ended.set()
        if self._hang_up is not None:
            self._hang_up()

    def _follow(self) -> None:
        """Nothing that a server sends may end this: plans would be made for ever on what there was then."""
        failures = 0
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                if not self._at:
                    self._list()
                self._watch()
                failures = 0
                continue
            except WatchExpired:
                self._at = ""
            except Exception as error:
                if not self._ended.is_set():
                    self._note(error)
                if not isinstance(error, ApiUnavailable) or error.garbled or failures >= GO_ON_TRIES:
                    self._at = ""
            failures = 1 if time.monotonic() - began > MOST_AGAIN_SECONDS else failures + 1
            self._ended.wait(min(AGAIN_SECONDS * 2 ** (min(failures, 10) - 1), MOST_AGAIN_SECONDS))

    def _note(self, error: Exception) -> None:
        if not isinstance(error, KubernetesError):
            logger.error("what came of %ss could not be taken", self._kind, exc_info=error)
            known = KubernetesError(
                "What came could not be taken.", place=f"the watch of {self._kind}s", available=repr(error)[:200]
            )
            known.__cause__ = error
            error = known
        self.error = error

    def _list(self) -> None:
        things: dict[tuple[str, str], Any] = {}
        left_out: dict[tuple[str, str], str] = {}
        version = ""
        for page, at in self._api.pages(self._kind, self._namespace, **self._select):
            version, self._heard = at, time.monotonic()
            for number, thing in enumerate(page):
                try:
                    key = _key(thing)
                except UNREADABLE as error:
                    left_out["", f"without a name ({number} in a list)"] = why_unreadable(error)
                    continue
                self._read(key, thing, things, left_out)
            if self._ended.is_set():
                break
        with self._lock:
            self._things, self._left_out = things, left_out
            self.version += 1
        self._at = version
        self.synced.set()
        self._changed()

    def _watch(self) -> None:
        began, first = time.monotonic(), self._at
        events = self._api.watch(
            self._kind, self._namespace, version=first, seconds=WATCH_SECONDS, began=self._began, **self._select
        )
        for kind, thing in events:
            self._heard = time.monotonic()
            if kind != "BOOKMARK" and self._take(kind, thing):
                self._changed()
            self._at = thing["metadata"]["resourceVersion"]
            if self._ended.is_set():
                break
        if self._at == first and time.monotonic() - began < SHORT_SECONDS:
            raise ApiUnavailable("The watch ends as soon as it begins.", place=f"the watch of {self._kind}s")
        self._heard = time.monotonic()

    def _began(self, end: Callable[[], None]) -> None:
        self._heard, self.error, self._hang_up = time.monotonic(), None, end
        if self._ended.is_set():
            end()

    def _read(self, key: tuple[str, str], thing: Object, things: dict[Any, Any], left_out: dict[Any, str]) -> None:
        try:
            things[key] = self._keep(thing)
        except UNREADABLE as error:
            left_out[key] = why_unreadable(error)

    def _take(self, kind: str, thing: Object) -> bool:
        """Take in one event; False if nothing that the mirror keeps has changed, e.g. for a node's heartbeat."""
        key = _key(thing)
        made: dict[Any, Any] = {}
        left_out: dict[Any, str] = {}
        if kind != "DELETED":
            self._read(key, thing, made, left_out)
        with self._lock:
            self._left_out.pop(key, None)
            self._left_out |= left_out
            if self._things.get(key) == made.get(key):
                return False
            if made:
                self._things |= made
            else:
                del self._things[key]
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
            "raycluster": Mirror(
                api,
                "RayCluster",
                namespace,
                fields=f"metadata.name={raycluster}",
                keep=read_raycluster,
                changed=changed,
            ),
            "nodes": Mirror(api, "Node", keep=read_node, changed=changed),
            "slices": Mirror(api, "ResourceSlice", fields=f"spec.driver={DRIVER}", keep=read_slice),
            "claims": Mirror(api, "ResourceClaim", keep=read_claim),
            "pods": Mirror(api, "Pod", namespace, labels=ours, keep=read_pod, changed=changed),
            "topologies": Mirror(
                api, "ConfigMap", namespace, labels=f"{TOPOLOGY_LABEL}=true", keep=read_topology, changed=changed
            ),
            "templates": Mirror(api, "ResourceClaimTemplate", namespace, keep=read_template, changed=changed),
        }
        if self.compute_domains:
            self._mirrors["domains"] = Mirror(api, "ComputeDomain", namespace, labels=ours, keep=read_domain)
        self._lease = Lease(api, namespace, f"ray-dra-{raycluster}", holder, problems=self.problems)
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="kube")
        self._logged: frozenset[str] = frozenset()
        try:
            self._sync(deadline)
        except BaseException:
            self.close()
            raise

    def _sync(self, deadline: float) -> None:
        for mirror in self._mirrors.values():
            while not mirror.synced.wait(0.02):
                error = mirror.error
                if error is not None and not isinstance(error, ApiUnavailable):
                    raise error
                if time.monotonic() > deadline:
                    raise error or ApiUnavailable("The Kubernetes API did not answer in time.", place=self._api.server)
        self._lease.asked.wait(SYNC_SECONDS)

    def view(self) -> KubeView:
        self._log_problems()
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

    def problems(self) -> tuple[str, ...]:
        found = [problem for mirror in self._mirrors.values() for problem in mirror.problems()]
        more = len(found) - MOST_PROBLEMS
        return (*found[:MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else ()))

    def _log_problems(self) -> None:
        found = frozenset(self.problems())
        for problem in sorted(found - self._logged):
            logger.warning("Kubernetes: %s", problem)
        self._logged = found

    def create(self, thing: Object, *, dry_run: bool = False) -> None:
        self._must_lead()
        with suppress(AlreadyThere):
            self._api.create(thing, self.namespace, dry_run=dry_run)

    def patch(self, kind: str, name: str, change: list[Any] | Object) -> None:
        self._must_lead()
        self._api.patch(kind, name, change, self.namespace)

    def delete(self, kind: str, name: str) -> None:
        self._must_lead()
        self._api.delete(kind, name, self.namespace)

    def lead(self) -> str:
        return self._lease.missing()

    def _must_lead(self) -> None:
        """Before each write: of a thousand that are made together, the last may begin minutes after the first."""
        missing = self._lease.missing()
        if missing:
            raise NotLeading(f"{missing}; nothing is written.", place=f"RayCluster {self.namespace}/{self.raycluster}")

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        cluster = next(iter(self._mirrors["raycluster"].items()), None)
        if cluster is not None:
            event = event_about(cluster, reason, message, warning=warning)
            self._writers.submit(lambda: self.create(event))

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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _key(thing: Object) -> tuple[str, str]:
    """Raises one of UNREADABLE."""
    key = thing["metadata"].get("namespace", ""), thing["metadata"]["name"]
    if not all(isinstance(part, str) for part in key):
        raise TypeError(f"a name is a text, not {key}")
    return key
