"""The ComputeDomain controller: `python -m ray_dra.simulated.dra.controller [--kubeconfig FILE]`. One in a cluster.

Level-triggered: every round reads all ComputeDomains and the nodes that carry a domain's label, and makes true what
is not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ray_dra.adapters.kube_answers import Object
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import AlreadyThere, Conflict, KubernetesError, NotFound
from ray_dra.simulated.dra import DOMAIN_LABEL
from ray_dra.simulated.dra.domains import FINALIZER, channel_template, status_of


class DomainController:
    """Reconciles all ComputeDomains of a cluster.

    Args:
        after: how long a simulated IMEX daemon takes to be ready on a node, in seconds.
    """

    def __init__(self, api: KubernetesApi, *, after: float) -> None:
        self._api, self._after = api, after
        self._joined: dict[tuple[str, str], float] = {}  # (domain's uid, node): when first seen

    def round(self) -> None:
        """Once over everything. An error with one domain does not hold up the others."""
        now = time.monotonic()
        by_domain: dict[str, list[Object]] = {}
        for node in self._api.items("Node", labels=DOMAIN_LABEL):
            by_domain.setdefault(node["metadata"]["labels"][DOMAIN_LABEL], []).append(node)
        domains = self._api.items("ComputeDomain")
        seen = {(uid, node["metadata"]["name"]) for uid, nodes in by_domain.items() for node in nodes}
        self._joined = {key: self._joined.get(key, now) for key in seen}
        for domain in domains:
            nodes = by_domain.get(domain["metadata"]["uid"], [])
            try:
                if domain["metadata"].get("deletionTimestamp"):
                    self._undo(domain, nodes)
                else:
                    self._make(domain, nodes, now)
            except (Conflict, AlreadyThere, NotFound):
                pass  # somebody was quicker; the next round sees it
            except KubernetesError as error:
                print(f"{domain['metadata']['namespace']}/{domain['metadata']['name']}: {error}", flush=True)

    def _make(self, domain: Object, nodes: list[Object], now: float) -> None:
        meta = domain["metadata"]
        if FINALIZER not in meta.get("finalizers", ()):
            finalizers = [*meta.get("finalizers", ()), FINALIZER]
            self._patch(domain, {"metadata": {"finalizers": finalizers, "resourceVersion": meta["resourceVersion"]}})
            return
        template = channel_template(domain)
        if self._template(domain) is None:
            self._api.create(template, meta["namespace"])
        joined = {node: at for (uid, node), at in self._joined.items() if uid == meta["uid"]}
        status = status_of(domain, nodes, joined=joined, now=now, after=self._after)
        if status != domain.get("status"):
            self._patch(domain, {"status": status}, subresource="status")

    def _undo(self, domain: Object, nodes: list[Object]) -> None:
        meta = domain["metadata"]
        for node in nodes:
            self._api.patch("Node", node["metadata"]["name"], {"metadata": {"labels": {DOMAIN_LABEL: None}}})
        template = self._template(domain)
        if template is not None and template["metadata"].get("labels", {}).get(DOMAIN_LABEL) == meta["uid"]:
            name = template["metadata"]["name"]
            kept = [f for f in template["metadata"].get("finalizers", ()) if f != FINALIZER]
            self._api.patch("ResourceClaimTemplate", name, {"metadata": {"finalizers": kept}}, meta["namespace"])
            self._api.delete("ResourceClaimTemplate", name, meta["namespace"])
        kept = [f for f in meta.get("finalizers", ()) if f != FINALIZER]
        self._patch(domain, {"metadata": {"finalizers": kept}})

    def _template(self, domain: Object) -> Object | None:
        name = domain["spec"]["channel"]["resourceClaimTemplate"]["name"]
        return self._api.find("ResourceClaimTemplate", name, domain["metadata"]["namespace"])

    def _patch(self, domain: Object, change: Mapping[str, Any], subresource: str = "") -> None:
        meta = domain["metadata"]
        self._api.patch("ComputeDomain", meta["name"], change, meta["namespace"], subresource=subresource)


def main(
    kubeconfig: Annotated[str | None, typer.Option(help="Default: the pod's service account.")] = None,
    ready_after: Annotated[float, typer.Option(help="Seconds until a node's IMEX daemon is ready.")] = 1.0,
    period: Annotated[float, typer.Option(help="Seconds between two rounds.")] = 0.5,
) -> None:
    """Serve ComputeDomains without IMEX: the claim template, the nodes' status, the labels' end."""
    controller = DomainController(KubernetesApi(kubeconfig), after=ready_after)
    while True:
        try:
            controller.round()
        except KubernetesError as error:
            print(error, flush=True)
        time.sleep(period)


if __name__ == "__main__":
    typer.run(main)
