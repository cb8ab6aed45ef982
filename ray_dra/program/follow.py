"""Brings gangs to their placement groups while the program does something else, once `ready()` was asked for.

However many gangs and copies of their handles, a program has a few threads for them and one call waiting for each gang.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from ray_dra.errors import CoordinatorUnavailable
from ray_dra.processes.calls import coordinator

THREADS = 8
AGAIN_SECONDS = 1.0

_Place = Callable[[], Any]
_lock = threading.Lock()
_references: dict[str, Any] = {}  # by the gang's id, until they resolve
_due: queue.SimpleQueue[_Place] = queue.SimpleQueue()
_threads: list[threading.Thread] = []


def follow(gang: str, place: _Place) -> Any:
    """An ObjectRef that resolves when the gang is ready; `place` places it, or returns what to wait for first."""
    with _lock:
        reference = _references.get(gang)
        if reference is None:
            # For as long as it takes: a coordinator may die more often than other calls are sent again.
            wait = coordinator().await_ready.options(max_task_retries=-1)
            reference = wait.remote(gang, ray.get_runtime_context().get_job_id())
            _references[gang] = reference
            reference.future().add_done_callback(lambda _: _references.pop(gang, None))
            _due.put(place)
            if len(_threads) < min(THREADS, len(_references)):
                _threads.append(threading.Thread(target=_follow_for_ever, daemon=True))
                _threads[-1].start()
        return reference


def _follow_for_ever() -> None:
    while True:
        place = _due.get()
        try:
            first = place()
            if first is not None:
                first.future().add_done_callback(lambda _, place=place: _due.put(place))
        except CoordinatorUnavailable:
            if ray.is_initialized():
                time.sleep(AGAIN_SECONDS)
                _due.put(place)
        except Exception:  # whoever holds the ObjectRef hears of it from the coordinator
            pass
