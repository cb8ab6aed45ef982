"""Sandboxes for agents: an agent-sandbox Sandbox that shares the claim of a gang of one bundle (`api.sandbox`).

The gang is planned, queued and recorded as any other. The Sandbox is made with the rights of the program, not with the
coordinator's: whoever may make Sandboxes may have any pod made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.core.model.allocation import Grant
from ray_dra.core.model.checked import number, text
from ray_dra.errors import GangGone, GangTimeout, InvalidRequest, KubernetesError
from ray_dra.program.gang_handle import GangPlacementGroup
from ray_dra.translate.kube.sandboxes import (
    is_ready,
    read_sandbox_template,
    read_template,
    said_of,
    sandbox_name,
    sandbox_object,
    workers_of,
)
from ray_dra.translate.names import CLUSTER_NAMESPACE_VARIABLE, SANDBOX_API

POLL_SECONDS = 0.5
MOST_SECONDS = 365 * 86400.0


class Place(NamedTuple):
    """Where Sandboxes are made, and by whom."""

    api: KubernetesApi
    namespace: str

    @classmethod
    def here(cls, namespace: str | None) -> Place:
        """Raises InvalidRequest where it cannot be told which namespace, or the cluster has no Sandboxes."""
        named = os.environ.get(CLUSTER_NAMESPACE_VARIABLE, "")
        if namespace is not None:
            named = text(namespace, "namespace", empty=True) or named
        if not named:
            raise InvalidRequest(
                "A Sandbox is made beside a RayCluster on Kubernetes; say in which namespace.",
                place="namespace",
                available=f"namespace=..., or {CLUSTER_NAMESPACE_VARIABLE} as in KubeRay's pods",
            )
        api = KubernetesApi()
        if not api.serves("Sandbox"):
            raise InvalidRequest(
                "The cluster has no Sandboxes: agent-sandbox is not installed, or an old one.",
                place=api.server,
                wanted=SANDBOX_API,
            )
        return cls(api, named)

    def template(self, template: Mapping[str, Any] | str) -> dict[str, Any]:
        """Of a SandboxTemplate of the namespace, or as it is."""
        if isinstance(template, str):
            return read_sandbox_template(self.api.get("SandboxTemplate", template, self.namespace))
        return read_template(template)

    def make(self, spec: Mapping[str, Any], gang: GangPlacementGroup) -> Sandbox:
        """The Sandbox on a gang that is ready."""
        allocation = gang.allocation
        if allocation is None:
            raise GangGone("The gang has no worker any more.", place=gang.id)
        (worker,) = workers_of(allocation)
        pods = self.api.items("Pod", self.namespace, fields=f"metadata.name={worker.name}")
        if not pods:
            raise KubernetesError(
                "The gang's worker is no pod of this namespace: a Sandbox shares its claim.",
                place=f"{self.namespace}/{worker.name}",
            )
        made = sandbox_object(spec, gang.id, worker, pods[0]["metadata"]["uid"], self.namespace)
        self.api.create(made, self.namespace)
        return Sandbox(gang, sandbox_name(worker), self)


class Sandbox:
    """A Sandbox with a GPU. A context manager that removes it.

    Attributes:
        gang: the gang of one bundle whose claim it shares; it ends with it.
        name, namespace: the Sandbox's, and its pod's.
    """

    def __init__(self, gang: GangPlacementGroup, name: str, place: Place) -> None:
        self.gang, self.name, self.namespace = gang, name, place.namespace
        self._api = place.api

    @property
    def devices(self) -> tuple[Grant, ...]:
        """What it has; () once it has ended."""
        try:
            allocation = self.gang.allocation
        except GangGone:
            return ()
        return tuple(allocation.grants) if allocation is not None else ()

    def wait(self, timeout: float = 600.0) -> None:
        """Until agent-sandbox says that it is ready.

        Raises:
            GangTimeout: it was not in time. It is left as it is.
            GangGone: it has ended.
        """
        until = time.monotonic() + number(timeout, "timeout", least=0.0, most=MOST_SECONDS)
        while True:
            found = self._api.find("Sandbox", self.name, self.namespace)
            if found is None:
                raise GangGone("The Sandbox has ended.", place=f"{self.namespace}/{self.name}")
            if is_ready(found):
                return
            if time.monotonic() >= until:
                raise GangTimeout(
                    "The Sandbox was not ready in time.",
                    place=f"{self.namespace}/{self.name}",
                    wanted=f"{timeout:g} s",
                    available=said_of(found) or "nothing is said of it: does agent-sandbox's controller run?",
                )
            time.sleep(POLL_SECONDS)

    def remove(self) -> None:
        """The Sandbox ends, then its GPU is given back."""
        try:
            self._api.delete("Sandbox", self.name, self.namespace)
        finally:
            self.gang.remove()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Sandbox({self.namespace}/{self.name})"
