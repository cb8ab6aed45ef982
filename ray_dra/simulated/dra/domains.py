"""ComputeDomains, as NVIDIA's driver does them as seen from outside.

Pure parts for the controller (the channel's claim template, the status), and what a node does when a claim with an IMEX
channel lands on it: it takes the domain's label and waits until it is Ready there. One domain on a node at a time, at
most 18 nodes in one domain of a clique.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray_dra.adapters.kube_answers import Object
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.simulated.dra import DOMAIN_LABEL
from ray_dra.simulated.dra.prepare import PrepareError
from ray_dra.translate.names import COMPUTE_DOMAIN_API, DOMAIN_DRIVER
from ray_dra.translate.vendors import NVIDIA

MOST_NODES = 18  # in one IMEX domain
WAIT_SECONDS = 20.0  # within one call of the kubelet's, which then asks again
TARGET_LABEL = "resource.nvidia.com/computeDomainTarget"  # of claim templates: for whose pods
FINALIZER = "resource.nvidia.com/computeDomain"
CHANNEL_CLASS = "compute-domain-default-channel.nvidia.com"


def channel_template(domain: Mapping[str, Any]) -> Object:
    """The claim template that a ComputeDomain names, through which pods join it."""
    meta, channel = domain["metadata"], domain["spec"]["channel"]
    parameters = {
        "apiVersion": COMPUTE_DOMAIN_API,
        "kind": "ComputeDomainChannelConfig",
        "domainID": meta["uid"],
        "allocationMode": channel.get("allocationMode", "Single"),
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": channel["resourceClaimTemplate"]["name"],
            "namespace": meta["namespace"],
            "labels": {DOMAIN_LABEL: meta["uid"], TARGET_LABEL: "Workload"},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "spec": {
                "devices": {
                    "requests": [
                        {
                            "name": "channel",
                            "exactly": {
                                "deviceClassName": CHANNEL_CLASS,
                                "allocationMode": "ExactCount",
                                "count": 1,
                            },
                        }
                    ],
                    "config": [
                        {"requests": ["channel"], "opaque": {"driver": DOMAIN_DRIVER, "parameters": parameters}}
                    ],
                }
            }
        },
    }


def status_of(
    domain: Mapping[str, Any],
    nodes: Iterable[Mapping[str, Any]],
    *,
    joined: Mapping[str, float],
    now: float,
    after: float,
) -> Object:
    """The domain's status from the nodes that carry its label: Ready once there are enough, and none is not ready.
    A node without a clique counts; its daemon has nothing to join.

    Args:
        joined: when each node was first seen with the label, in seconds.
        after: how long a simulated IMEX daemon takes to be ready, in seconds.
    """
    old = {node["name"]: node for node in (domain.get("status") or {}).get("nodes") or ()}
    labelled = {node["metadata"]["name"]: node for node in nodes}
    # Those that are in stay in, in their places; the others follow by name.
    order = [name for name in old if name in labelled] + sorted(name for name in labelled if name not in old)
    in_clique: Counter[str] = Counter()
    indices = {old[name]["index"] for name in order if name in old}
    free = iter(index for index in range(len(order) + len(old)) if index not in indices)
    entries = []
    for name in order:
        clique = labelled[name]["metadata"].get("labels", {}).get(NVIDIA.clique_label, "")
        in_clique[clique] += 1
        ready = now - joined.get(name, now) >= after and (not clique or in_clique[clique] <= MOST_NODES)
        entries.append(
            {
                "name": name,
                "ipAddress": _address(labelled[name]),
                "cliqueID": clique,
                "index": old[name]["index"] if name in old else next(free),
                "status": "Ready" if ready else "NotReady",
            }
        )
    all_there = len(entries) >= domain["spec"].get("numNodes", 0)
    ready = all_there and all(entry["status"] == "Ready" for entry in entries)
    status: Object = {"status": "Ready" if ready else "NotReady"}
    return status | {"nodes": entries} if entries or "nodes" in (domain.get("status") or {}) else status


def _address(node: Mapping[str, Any]) -> str:
    addresses: Sequence[Mapping[str, str]] = (node.get("status") or {}).get("addresses") or ()
    return next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")


class NodeDomains:
    """What one node does for ComputeDomains: `prepare.Domains` over the Kubernetes API."""

    def __init__(self, api: KubernetesApi, node: str) -> None:
        self._api, self._node = api, node

    def named(self, domain: str) -> tuple[str, str]:
        meta = self._find(domain)["metadata"]
        return meta["namespace"], meta["name"]

    def _find(self, domain: str) -> Object:
        found = next((d for d in self._api.items("ComputeDomain") if d["metadata"]["uid"] == domain), None)
        if found is None or found["metadata"].get("deletionTimestamp"):
            raise PrepareError(f"ComputeDomain not found: {domain}")
        return found

    def enter(self, domain: str, namespace: str) -> bool:
        found = self._find(domain)
        if found["metadata"]["namespace"] != namespace:
            raise PrepareError(
                f"the claim's namespace {namespace} is not that of its ComputeDomain, {found['metadata']['namespace']}"
            )
        node = self._api.get("Node", self._node)
        labels = node["metadata"].get("labels", {})
        other = labels.get(DOMAIN_LABEL, domain)
        if other != domain:
            raise PrepareError(f"{self._node} is in another ComputeDomain, {other}; a node is in one at a time")
        self._label(domain)
        self._wait_ready(found["metadata"]["name"], namespace)
        return NVIDIA.clique_label in labels

    def leave(self, domain: str) -> None:
        if self.current() == domain:
            self._label(None)

    def current(self) -> str | None:
        """The domain whose label the node carries."""
        label = self._api.get("Node", self._node)["metadata"].get("labels", {}).get(DOMAIN_LABEL)
        return None if label is None else str(label)

    def _label(self, domain: str | None) -> None:
        self._api.patch("Node", self._node, {"metadata": {"labels": {DOMAIN_LABEL: domain}}})

    def _wait_ready(self, name: str, namespace: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = self._api.get("ComputeDomain", name, namespace)
            entries = (found.get("status") or {}).get("nodes") or ()
            if any(entry["name"] == self._node and entry["status"] == "Ready" for entry in entries):
                return
            if time.monotonic() > deadline:
                raise PrepareError(
                    f"{self._node} is not Ready in ComputeDomain {namespace}/{name} yet"
                    f" ({len(entries)} nodes, at most {MOST_NODES} of one clique)"
                )
            time.sleep(0.2)
