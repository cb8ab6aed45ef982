"""A Kubernetes Lease that one coordinator at a time has: whoever does not have it writes nothing.

The rule of client-go's leader election: a lease that its holder has not renewed for its duration, by the watcher's own
clock since it last saw it change, may be taken; clocks of machines are never compared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import AlreadyThere, Conflict, KubernetesError
from ray_dra.translate.names import PROBLEMS_ANNOTATION

logger = logging.getLogger("ray_dra")

DURATION_SECONDS = 15
RENEW_SECONDS, ASK_SECONDS = 4.0, 1.0
SAFE_SECONDS = 10.0  # after the last renewal; beyond, another may already have it
MOST_BYTES = 8192  # of what the lease says besides


class Lease:
    """Asked for and renewed in a thread of its own, so that an API server that hangs holds up nobody."""

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        name: str,
        holder: str,
        clock: Callable[[], float] = time.monotonic,
        problems: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`problems`: what the holder cannot see as it should; the lease says it, for `ray-dra check`."""
        self._problems = problems
        self._api, self._namespace, self._name, self._holder = api, namespace, name, holder
        self._clock = clock
        self._renewed: float | None = None  # when it was last renewed by us
        self._seen: tuple[str, float] = ("", 0.0)  # another's renewal, and when it was first seen
        self._other = "the lease has not been asked for yet"
        self._ended = threading.Event()
        self.asked = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.thread.start()

    def missing(self) -> str:
        """ "" while the lease is ours; else why not."""
        renewed = self._renewed
        if renewed is not None and self._clock() - renewed < SAFE_SECONDS:
            return ""
        return self._other or f"the lease {self._name} could not be renewed"

    def stop(self) -> None:
        self._ended.set()

    def _keep(self) -> None:
        while not self._ended.is_set():
            now = self._clock()
            try:
                self._other = self._take(now)
                self._renewed = None if self._other else now
            except KubernetesError as error:
                self._other = str(error).splitlines()[0]
            except Exception as error:  # whatever came as an answer, the lease is asked for again
                if not self._other.startswith("the lease cannot be read"):
                    logger.error("the lease %s cannot be read", self._name, exc_info=error)
                self._other = f"the lease cannot be read: {error!r:.200}"
            self.asked.set()
            self._ended.wait(ASK_SECONDS if self._other else RENEW_SECONDS)

    def _take(self, now: float) -> str:
        found = self._api.find("Lease", self._name, self._namespace)
        try:
            if found is None:
                self._api.create(self._lease({}), self._namespace)
                return ""
            spec = found.get("spec") or {}
            holder = spec.get("holderIdentity")
            if holder not in (None, "", self._holder):
                renewal = f"{holder} {spec.get('renewTime')}"
                if renewal != self._seen[0]:
                    self._seen = (renewal, now)
                left = _seconds(spec.get("leaseDurationSeconds")) - (now - self._seen[1])
                if left > 0:
                    return f"another coordinator ({holder}) has the lease {self._name}, for {left:.0f} s more"
            self._api.replace(self._lease(found["metadata"]))
            return ""
        except (AlreadyThere, Conflict):
            return f"another coordinator was quicker to the lease {self._name}"

    def _lease(self, found: dict[str, Any]) -> dict[str, Any]:
        version = {"resourceVersion": found["resourceVersion"]} if found else {}
        said = "\n".join(self._problems()).encode(errors="replace")[:MOST_BYTES].decode(errors="ignore")
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                **version,
                "annotations": {PROBLEMS_ANNOTATION: said},
            },
            "spec": {"holderIdentity": self._holder, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now},
        }


def _seconds(told: object) -> float:
    """A duration that its holder gives; ours where it gives none that can be one."""
    known = isinstance(told, int | float) and not isinstance(told, bool) and 0 < told < 86400
    return float(told) if known else float(DURATION_SECONDS)  # type: ignore[arg-type]
