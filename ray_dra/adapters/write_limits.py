"""How fast the coordinator writes to the API server: so many at once, and so many a second.

Whoever runs the cluster sets both (annotations of the RayCluster); an API server with priority and fairness needs
neither, and a small one is kept free for others by them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from ray_dra.errors import ApiUnavailable
from ray_dra.ports.kube_objects import WriteLimits


class Writers:
    """Makes calls side by side in the threads of `pool`, within limits that may change meanwhile."""

    def __init__(self, pool: Executor, limits: Callable[[], WriteLimits]) -> None:
        self._pool, self._limits = pool, limits
        self._lock = threading.Lock()
        self._next = 0.0  # when the next write may begin

    def wait(self) -> None:
        """Before each write: until it may begin."""
        rate = self._limits().per_second
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + 1.0 / rate
        time.sleep(begin - now)

    def together(self, calls: Sequence[Callable[[], object]]) -> None:
        """See `Kube.together`."""
        silent = threading.Event()
        errors: list[Exception] = []
        left = iter(calls)

        def make() -> None:
            while not silent.is_set():
                with self._lock:
                    call = next(left, None)
                if call is None:
                    return
                try:
                    call()
                except Exception as error:
                    errors.append(error)
                    if isinstance(error, ApiUnavailable) and error.silent:
                        silent.set()

        for each in [self._pool.submit(make) for _ in range(min(self._limits().at_once, len(calls)))]:
            each.result()
        if errors:
            raise errors[0]
