"""A mirror of all objects of one kind, kept by a list and a watch in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import ApiUnavailable, KubernetesError, WatchExpired
from ray_dra.ports.kubernetes import Object
from ray_dra.translate.kube.shapes import UNREADABLE, why_unreadable

logger = logging.getLogger("ray_dra")

WATCH_SECONDS = 300.0
SILENT_SECONDS = WATCH_SECONDS + 60.0  # a watch ends before that, so that a silence that is longer is a fault
SHORT_SECONDS = 1.0  # a watch that ends so soon without a word did not work
AGAIN_SECONDS, MOST_AGAIN_SECONDS = 1.0, 8.0  # after an error, before the next try
GO_ON_TRIES = 3  # that a watch is begun again where it broke, before everything is listed anew


class Mirror:
    """All objects of one kind, kept by a list and a watch in a thread of its own.

    `keep` makes of an object what is kept of it; a mirror of nodes would else hold tens of kilobytes for each. An
    object of which it can make nothing is left out, and `problems` says so, as of a view that cannot be kept up.
    `changed` is called when something of what `concerns` somebody has changed, from the mirror's thread.
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
        changed: Callable[[], object] = lambda: None,
        concerns: Callable[[Any], bool] = lambda kept: True,
    ) -> None:
        self._api, self.kind, self._namespace = api, kind, namespace
        self._select = {"labels": labels, "fields": fields}
        self._keep, self._changed, self._concerns = keep, changed, concerns
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

    @property
    def left_out(self) -> bool:
        """Whether there is an object that cannot be read."""
        with self._lock:
            return bool(self._left_out)

    def problems(self) -> list[str]:
        """Why the mirror may differ from the cluster; empty if all is well."""
        error = self.error
        found = [] if error is None else [f"{self.kind}s cannot be watched: {_first_line(error)}"]
        if self.silent > SILENT_SECONDS:
            found.append(f"no word of {self.kind}s for over {SILENT_SECONDS:.0f} s: plans are made on what there was")
        with self._lock:
            left_out = list(self._left_out.items())
        return found + [f"{self.kind} {'/'.join(filter(None, key))} is left out: {why}" for key, why in left_out]

    @property
    def silent(self) -> float:
        """Seconds since the server last said anything."""
        return time.monotonic() - self._heard

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
            logger.error("what came of %ss could not be taken", self.kind, exc_info=error)
            known = KubernetesError(
                "What came could not be taken.", place=f"the watch of {self.kind}s", available=repr(error)[:200]
            )
            known.__cause__ = error
            error = known
        self.error = error

    def _list(self) -> None:
        things: dict[tuple[str, str], Any] = {}
        left_out: dict[tuple[str, str], str] = {}
        version = ""
        for page, at in self._api.pages(self.kind, self._namespace, **self._select):
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
            self.kind, self._namespace, version=first, seconds=WATCH_SECONDS, began=self._began, **self._select
        )
        for kind, thing in events:
            self._heard = time.monotonic()
            if kind != "BOOKMARK" and self._take(kind, thing):
                self._changed()
            self._at = thing["metadata"]["resourceVersion"]
            if self._ended.is_set():
                break
        if self._at == first and time.monotonic() - began < SHORT_SECONDS:
            raise ApiUnavailable("The watch ends as soon as it begins.", place=f"the watch of {self.kind}s")
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
        """Take in one event; False if nothing that concerns anybody has changed, e.g. for a node's heartbeat."""
        key = _key(thing)
        made: dict[Any, Any] = {}
        left_out: dict[Any, str] = {}
        if kind != "DELETED":
            self._read(key, thing, made, left_out)
        with self._lock:
            self._left_out.pop(key, None)
            self._left_out |= left_out
            before, after = self._things.get(key), made.get(key)
            if before == after:
                return False
            if made:
                self._things |= made
            else:
                del self._things[key]
            self.version += 1
        return any(kept is not None and self._concerns(kept) for kept in (before, after))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _key(thing: Object) -> tuple[str, str]:
    """Raises one of UNREADABLE."""
    key = thing["metadata"].get("namespace", ""), thing["metadata"]["name"]
    if not all(isinstance(part, str) for part in key):
        raise TypeError(f"a name is a text, not {key}")
    return key
