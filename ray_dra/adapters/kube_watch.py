"""The coordinator's view of Kubernetes, kept by watches, and its few writes: the port `Kube`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ray_dra.adapters.gang_scheduling import pod_group_api, why_ungrouped
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.lease import Lease
from ray_dra.adapters.mirror import AGAIN_SECONDS, Mirror
from ray_dra.adapters.write_limits import Writers
from ray_dra.errors import AlreadyThere, ApiUnavailable, InvalidRequest, KubernetesError, NotFound, NotLeading
from ray_dra.ports.kube_objects import Claim, WriteLimits
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.ports.metrics import LEASE, NO_METRICS, WATCH_AGE, Metrics
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.ending import read_rayservice
from ray_dra.translate.kube.events import event_about
from ray_dra.translate.kube.gang_scheduling import read_gang_pod_group
from ray_dra.translate.kube.kai import read_pod_group
from ray_dra.translate.kube.kuberay_operator import domain_of, problems_of, read_kuberay
from ray_dra.translate.kube.kueue import read_flavor, read_workload
from ray_dra.translate.kube.pods import read_pod
from ray_dra.translate.kube.published_links import read_topology
from ray_dra.translate.kube.raycluster import MOST_AT_ONCE, driver_of, read_raycluster, write_limits
from ray_dra.translate.kube.shapes import kind_in, read_domain, read_template
from ray_dra.translate.kube.slices import read_node, read_slice
from ray_dra.translate.kube.taint_rules import read_taint_rule
from ray_dra.translate.names import (
    CLUSTER_LABEL,
    KUBERAY_CLUSTER_LABEL,
    KUBERAY_NODE_TYPE_LABEL,
    TOPOLOGY_LABEL,
)

logger = logging.getLogger("ray_dra")

METER_SECONDS = 5.0
MOST_PROBLEMS = 20  # that are told one by one
SYNC_SECONDS = 30.0
LIST_SECONDS = 5.0  # for which the first list of what gangs can do without is waited for
RESOLVER = Path("/etc/resolv.conf")
T = TypeVar("T")


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
        changed: Callable[[], object] = lambda: None,
        sync_seconds: float = SYNC_SECONDS,
        resolver: Path = RESOLVER,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """`holder`: who asks for the RayCluster's lease; the same after a restart, so that it need not wait.
        `sync_seconds`: for which the API server may be away now. `resolver`: in a pod, names the DNS domain.
        `metrics`: how the lease and the watches are."""
        self._metrics, self._metered = metrics, -METER_SECONDS
        self._api, self.namespace, self.raycluster = api, namespace, raycluster
        self._domain: str | None = None
        self._changed = changed
        deadline = time.monotonic() + sync_seconds
        served = _answered(lambda: _served(api), deadline)
        self.compute_domains, self.kueue, self.taint_rules, self.kai = served
        with suppress(OSError):
            self._domain = domain_of(resolver.read_text(errors="replace"))
        ours = f"{CLUSTER_LABEL}={raycluster}"
        self.requests_left = self.kueue and _answered(lambda: _has(api, "Workload", namespace, ours), deadline)
        self._gang_scheduling: str | None = None  # None: nobody has asked yet
        self._gangs_api = _answered(lambda: pod_group_api(api), deadline)
        gangs_left = bool(self._gangs_api) and _answered(
            lambda: _has(api, kind_in(self._gangs_api, "PodGroup"), namespace, ours), deadline
        )
        groups_left = self.kai and _answered(lambda: _has(api, "PodGroup", namespace, ours), deadline)
        clusters = Mirror(
            api, "RayCluster", namespace, fields=f"metadata.name={raycluster}", keep=read_raycluster, changed=changed
        )
        try:
            self._await(clusters, deadline)
        except BaseException:
            clusters.stop()
            raise
        driver = driver_of(next(iter(clusters.items()), None))  # as it is now: another from the next start on
        self._mirrors = {
            "raycluster": clusters,
            "nodes": Mirror(api, "Node", keep=read_node, changed=changed),
            "slices": Mirror(api, "ResourceSlice", fields=f"spec.driver={driver}", keep=read_slice),
            "claims": Mirror(api, "ResourceClaim", keep=read_claim, changed=changed, concerns=self._is_of_gangs),
            "pods": Mirror(api, "Pod", namespace, labels=ours, keep=read_pod, changed=changed),
            "topologies": Mirror(
                api, "ConfigMap", namespace, labels=f"{TOPOLOGY_LABEL}=true", keep=read_topology, changed=changed
            ),
            "heads": Mirror(
                api,
                "Pod",
                namespace,
                labels=f"{KUBERAY_CLUSTER_LABEL}={raycluster},{KUBERAY_NODE_TYPE_LABEL}=head",
                keep=read_kuberay,
            ),
            "templates": Mirror(api, "ResourceClaimTemplate", namespace, keep=read_template, changed=changed),
        }
        if self.compute_domains:
            self._mirrors["domains"] = Mirror(
                api, "ComputeDomain", namespace, labels=ours, keep=read_domain, changed=changed
            )
        self._lease = Lease(api, namespace, f"ray-dra-{raycluster}", holder, problems=self.problems)
        self._pool = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="kube")
        self._writers = Writers(self._pool, self._limits)
        self._logged: frozenset[str] = frozenset()
        try:
            self._sync(deadline)
            if self.taint_rules:
                self._watch_taint_rules()
            if groups_left:
                self.watch_pod_groups()
            if gangs_left:
                self._watch_gang_pod_groups()
        except BaseException:
            self.close()
            raise

    def _sync(self, deadline: float) -> None:
        for mirror in self._mirrors.values():
            self._await(mirror, deadline)
        self._lease.asked.wait(SYNC_SECONDS)

    def _await(self, mirror: Mirror, deadline: float) -> None:
        while not mirror.synced.wait(0.02):
            error = mirror.error
            if error is not None and not isinstance(error, ApiUnavailable):
                raise error
            if time.monotonic() > deadline:
                raise error or ApiUnavailable("The Kubernetes API did not answer in time.", place=self._api.server)

    def _watch_taint_rules(self) -> None:
        """Without the right to read them, plans are made as if there were none, and `problems` says so."""
        self._watch_also(taint_rules=Mirror(self._api, "DeviceTaintRule", keep=read_taint_rule, changed=self._changed))
        self._lists("taint_rules")

    def _watch_gang_pod_groups(self) -> bool:
        """Whether they can be read."""
        if "gang_pod_groups" not in self._mirrors:
            kind, ours = kind_in(self._gangs_api, "PodGroup"), f"{CLUSTER_LABEL}={self.raycluster}"
            self._watch_also(
                gang_pod_groups=Mirror(
                    self._api, kind, self.namespace, labels=ours, keep=read_gang_pod_group, changed=self._changed
                )
            )
        return self._lists("gang_pod_groups")

    def _lists(self, name: str) -> bool:
        """Whether what gangs can do without has been listed, soon."""
        mirror, until = self._mirrors[name], time.monotonic() + LIST_SECONDS
        while not mirror.synced.wait(0.02) and mirror.error is None and time.monotonic() < until:
            pass
        return mirror.synced.is_set()

    def _is_of_gangs(self, claim: Claim) -> bool:
        return claim.namespace == self.namespace and claim.raycluster == self.raycluster

    def view(self) -> KubeView:
        self._log_problems()
        self._meter()
        groups_known = self._known("pod_groups")
        queues_known = self._known(
            "workloads", "flavors"
        )  # before they are read, or those that are listed meanwhile were none
        found = {name: mirror.items() for name, mirror in self._mirrors.items()}
        cluster = next(iter(found["raycluster"]), None)
        if cluster is not None:
            self._watch_service(cluster.service)
            kuberay = next(iter(found["heads"]), cluster.kuberay)
            cluster = replace(cluster, kuberay=replace(kuberay, domain=self._domain or kuberay.domain))
        return KubeView(
            raycluster=cluster,
            raycluster_gone=cluster is None and not self._mirrors["raycluster"].left_out,
            rayservice=next(iter(found.get("rayservice", ())), None),
            nodes={node.name: node for node in found["nodes"]},
            slices=found["slices"],
            taint_rules=found.get("taint_rules", ()),
            claims=found["claims"],
            pods=found["pods"],
            templates=found["templates"],
            domains=found.get("domains", ()),
            domains_unread="domains" in self._mirrors and self._mirrors["domains"].left_out,
            topologies=found["topologies"],
            workloads=found.get("workloads") if queues_known else None,
            flavors={flavor.name: flavor for flavor in found.get("flavors", ())},
            pod_groups=found.get("pod_groups") if groups_known else None,
            gang_pod_groups=found.get("gang_pod_groups", ()),
            version=sum(mirror.version for mirror in self._mirrors.values()),
        )

    def _meter(self) -> None:
        now = time.monotonic()
        if now - self._metered >= METER_SECONDS:
            self._metered = now
            self._metrics.put(LEASE, float(not self._lease.missing()))
            ages: dict[str, float] = {}
            for mirror in self._mirrors.values():
                ages[mirror.kind] = max(mirror.silent, ages.get(mirror.kind, 0.0))
            for kind, age in ages.items():
                self._metrics.put(WATCH_AGE, age, kind)

    def _watch_service(self, name: str) -> None:
        """Watch the RayService that made the RayCluster, once that is known. Without the right to, gangs hear nothing
        of its upgrade, and `problems` says so."""
        if name and "rayservice" not in self._mirrors:
            fields = f"metadata.name={name}"
            self._watch_also(
                rayservice=Mirror(
                    self._api,
                    "RayService",
                    self.namespace,
                    fields=fields,
                    keep=read_rayservice,
                    changed=self._changed,
                )
            )

    def watch_queues(self) -> None:
        if "workloads" in self._mirrors:
            return
        api, ours = self._api, f"{CLUSTER_LABEL}={self.raycluster}"
        self._watch_also(
            workloads=Mirror(api, "Workload", self.namespace, labels=ours, keep=read_workload, changed=self._changed),
            flavors=Mirror(api, "ResourceFlavor", keep=read_flavor, changed=self._changed),
        )

    def _watch_also(self, **mirrors: Mirror) -> None:
        self._mirrors = {**self._mirrors, **mirrors}  # another dict: others' threads go through the old one

    def watch_pod_groups(self) -> None:
        if "pod_groups" not in self._mirrors:
            ours = f"{CLUSTER_LABEL}={self.raycluster}"
            self._watch_also(
                pod_groups=Mirror(
                    self._api, "PodGroup", self.namespace, labels=ours, keep=read_pod_group, changed=self._changed
                )
            )

    def gang_scheduling(self, probe: Object) -> str:
        if self._gang_scheduling is None:
            self._gangs_api = pod_group_api(self._api)  # the server may be another than at the start
            lacks = why_ungrouped(self._api, self._gangs_api, probe, self.namespace)
            if not lacks and not self._watch_gang_pod_groups():
                lacks = f"{kind_in(self._gangs_api, 'PodGroup')}s cannot be read"
            if lacks:
                logger.warning("Kubernetes: gangs are in no PodGroup of its scheduler's: %s", lacks)
            self._gang_scheduling = "" if lacks else self._gangs_api
        return self._gang_scheduling

    def _known(self, *names: str) -> bool:
        watched = [self._mirrors[name] for name in names if name in self._mirrors]
        return bool(watched) and all(mirror.synced.is_set() for mirror in watched)

    def problems(self) -> tuple[str, ...]:
        found = [problem for mirror in self._mirrors.values() for problem in mirror.problems()]
        found += [problem for head in self._mirrors["heads"].items() for problem in problems_of(head)]
        more = len(found) - MOST_PROBLEMS
        return (*found[:MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else ()))

    def _log_problems(self) -> None:
        found = frozenset(self.problems())
        for problem in sorted(found - self._logged):
            logger.warning("Kubernetes: %s", problem)
        self._logged = found

    def create(self, thing: Object) -> str:
        self._must_lead()
        with suppress(AlreadyThere):
            made = self._api.create(thing, self.namespace)
            return str(made["metadata"]["uid"])
        return ""

    def patch(self, kind: str, name: str, change: Object) -> None:
        self._must_lead()
        self._api.patch(kind, name, change, self.namespace)

    def delete(self, kind: str, name: str) -> None:
        self._must_lead()
        self._api.delete(kind, name, self.namespace)

    def lead(self) -> str:
        return self._lease.missing()

    def _must_lead(self) -> None:
        """Before each write: of a thousand that are made together, the last may begin minutes after the first."""
        self._writers.wait()
        missing = self._lease.missing()
        if missing:
            raise NotLeading(f"{missing}; nothing is written.", place=f"RayCluster {self.namespace}/{self.raycluster}")

    def _limits(self) -> WriteLimits:
        """As the RayCluster sets them; the usual ones while it is not there, or says nothing that can be read."""
        for cluster in self._mirrors["raycluster"].items():
            with suppress(InvalidRequest):
                return write_limits(cluster)
        return WriteLimits()

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        cluster = next(iter(self._mirrors["raycluster"].items()), None)
        if cluster is not None:
            event = event_about(cluster, reason, message, warning=warning)
            self._pool.submit(lambda: self.create(event))

    def together(self, calls: Sequence[Callable[[], object]]) -> None:
        self._writers.together(calls)

    def close(self) -> None:
        for mirror in self._mirrors.values():
            mirror.stop()
        self._lease.stop()
        self._pool.shutdown(wait=False)


def _answered(ask: Callable[[], T], deadline: float) -> T:
    """The API server's answer, which may be away until `deadline`."""
    while True:
        try:
            return ask()
        except ApiUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_SECONDS)


def _has(api: KubernetesApi, kind: str, namespace: str, ours: str) -> bool:
    """Whether there are objects of ours of this kind. Who has no right to read them has made none."""
    try:
        return any(page for page, _ in api.pages(kind, namespace, labels=ours))
    except ApiUnavailable:
        raise
    except KubernetesError:
        return False


def _served(api: KubernetesApi) -> tuple[bool, bool, bool, bool]:
    """Whether it serves ComputeDomains, Kueue, DeviceTaintRules and KAI's PodGroups. Raises NotFound where it lacks
    what gangs need."""
    for kind, needed in (
        ("ResourceSlice", "Kubernetes 1.34 or newer (resource.k8s.io/v1)"),
        ("RayCluster", "KubeRay"),
    ):
        if not api.serves(kind):
            raise NotFound(f"This cluster does not serve {kind}s.", place=api.server, wanted=needed)
    kinds = ("ComputeDomain", "Workload", "DeviceTaintRule", "PodGroup")
    domains, kueue, taint_rules, kai = map(api.serves, kinds)
    return domains, kueue, taint_rules, kai
