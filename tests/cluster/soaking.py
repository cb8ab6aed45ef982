"""What the soaks on this cluster share: who watches, all the time, that no device is anybody's twice."""

from __future__ import annotations

import collections
import threading
from types import TracebackType

from ray_dra.errors import KubernetesError
from tests.cluster.cluster import Cluster
from tests.cluster.world import prepared_twice


class Watch:
    """Looks until it is left. `twice`: (node, device) that were readied for two claims, or allocated to two."""

    def __init__(self, cluster: Cluster, every: float = 0.5) -> None:
        self.cluster, self.every = cluster, every
        self.twice: set[tuple[str, str]] = set()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(self.every):
            self.twice |= prepared_twice(self.cluster)
            try:
                self.twice |= allocated_twice(self.cluster)
            except KubernetesError:  # the API server may be a victim
                pass


def allocated_twice(cluster: Cluster) -> set[tuple[str, str]]:
    """(node, device) of GPUs that two claims of any namespace have."""
    count: collections.Counter[tuple[str, str]] = collections.Counter()
    for claim in cluster.api.items("ResourceClaim"):
        allocation = claim.get("status", {}).get("allocation") or {}
        for result in allocation.get("devices", {}).get("results", ()):
            if result["driver"] == "gpu.nvidia.com" and not (result.get("adminAccess") or result.get("shareID")):
                count[result["pool"], result["device"]] += 1
    return {device for device, claims in count.items() if claims > 1}
