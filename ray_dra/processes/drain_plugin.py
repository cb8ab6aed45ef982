"""Answers NVSentinel's DrainRequests, in a Deployment (kube/nvsentinel).

Run as `python -m ray_dra.processes.drain_plugin`. Level-triggered: each look lists the requests of its own namespace,
looks at their pods, and says what is left; what it was told before it started it sees again. It ends no gang's pod:
the gang's coordinator does, by what the gang has declared about faults. Other pods it has evicted, as the node drainer
itself would, whose budgets may be against it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import KubernetesError, NotFound
from ray_dra.translate.kube.drain_requests import (
    DrainRequest,
    Remaining,
    answer,
    eviction,
    read_drain_request,
    remaining,
)
from ray_dra.translate.kube.shapes import UNREADABLE, why_unreadable
from ray_dra.translate.lines import on_one_line
from ray_dra.translate.names import POD_NAMESPACE_VARIABLE

LOOK_SECONDS = 5.0
KIND = "DrainRequest"


class Api(Protocol):
    """What of `KubernetesApi` is used."""

    def items(self, kind: str, namespace: str | None = None) -> list[dict[str, Any]]: ...
    def find(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None: ...
    def post(
        self, kind: str, name: str, subresource: str, body: dict[str, Any], namespace: str | None = None
    ) -> Any: ...
    def patch(
        self, kind: str, name: str, change: dict[str, Any], namespace: str | None = None, *, subresource: str = ""
    ) -> Any: ...


def look(api: Api, namespace: str, wall: Callable[[], float], say: Callable[[str], object]) -> None:
    """Take every request of the namespace one step further. What fails for one is said, and met again.

    Raises:
        KubernetesError: the requests cannot be listed.
    """
    for thing in api.items(KIND, namespace):
        try:
            request = read_drain_request(thing)
            if not (request.complete or request.deleting):
                _serve(api, request, wall, say)
        except KubernetesError as error:
            say(f"{_name(thing)}: {error.reason} ({error.place or error.available})")
        except UNREADABLE as error:
            say(f"{_name(thing)}: it cannot be read: {why_unreadable(error)}")


def _serve(api: Api, request: DrainRequest, wall: Callable[[], float], say: Callable[[str], object]) -> None:
    found = (api.find("Pod", name, namespace) for namespace, name in request.pods)
    left = remaining(request, [pod for pod in found if pod is not None])
    for pod in left:
        if not (pod.gang or pod.ending):
            _evict(api, pod, say)
    change = answer(request, left, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall())))
    if change is not None:
        api.patch(KIND, request.name, change, request.namespace, subresource="status")
        condition = change["status"]["conditions"][-1]
        say(f"{request.namespace}/{request.name}: {condition['reason']}: {condition['message']}")


def _evict(api: Api, pod: Remaining, say: Callable[[str], object]) -> None:
    try:
        api.post("Pod", pod.name, "eviction", eviction(pod), pod.namespace)
    except NotFound:
        pass
    except KubernetesError as error:  # a budget is against it, say; asked again at the next look
        say(f"{pod.namespace}/{pod.name} is not evicted: {error.available or error.reason}")


def _name(thing: object) -> str:
    meta = thing.get("metadata") if isinstance(thing, dict) else None
    return str(meta.get("name", "a request")) if isinstance(meta, dict) else "a request"


def main() -> None:
    """Until SIGTERM. POD_NAMESPACE, by the downward API, is where the requests are made."""
    namespace = os.environ[POD_NAMESPACE_VARIABLE]
    api = KubernetesApi()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    before: set[str] = set()
    while not ended.is_set():
        said: list[str] = []
        try:
            look(api, namespace, time.time, said.append)
        except KubernetesError as error:
            said.append(str(error))
        for what in said:
            if what not in before:  # the same every few seconds is said once
                print(on_one_line(what), file=sys.stderr, flush=True)
        before = set(said)
        ended.wait(LOOK_SECONDS)


if __name__ == "__main__":
    main()
