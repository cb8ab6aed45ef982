"""Every error that ray-dra raises, in one tree.

    RayDraError
    +-- InvalidRequest (ValueError)        the request can never be right, whatever the cluster
    +-- InvalidAddress (ValueError)        ray.init("ray_dra://...") was given something unknown
    +-- InvalidSnapshot (ValueError)       a file is no cluster snapshot or request, or contradicts itself
    +-- UnsatisfiableError                 the cluster has no room; carries the shortfalls
    +-- GangTimeout (TimeoutError)         a wait ended; what it had held is given back
    +-- ReshapeFailed                      a gang's next shape could not be had; it has the old one again
    +-- NameTaken (ValueError)             another live gang has this name
    +-- GangGone                           the gang was removed, or its owner died
    +-- ClusterUnavailable (ConnectionError)  no Ray cluster answers at the address
    +-- CoordinatorUnavailable             the coordinator actor did not answer
    +-- NvmlError                          the driver library
    |   +-- NvmlMissing                    it is not there, or refuses to start
    |   +-- NvmlInconsistent               its answers contradict each other
    +-- KubernetesError                    the Kubernetes API; carries its status code and message
    |   +-- NotFound                       no such object, or the cluster does not serve this kind
    |   +-- AlreadyThere                   an object of this name exists
    |   +-- Conflict                       somebody wrote in between; read again
    |   +-- Rejected                       the object is invalid, or admission refused it
    |   +-- OverQuota                      a ResourceQuota of the namespace has no room for it now
    |   +-- NotAllowed                     this identity may not do that
    |   +-- WatchExpired                   the watch is too old to go on; list again
    |   +-- ApiUnavailable                 no connection, overload, or an error of the server's
    |   +-- NotLeading                     another coordinator has the RayCluster's lease, or may have it
    +-- IncompatibleRay                    this Ray moved a private part that we need
    +-- SimulationError                    the embedded cluster could not be started

Each carries four things a reader needs: the reason, the place, what was wanted and what was
available. Libraries' own errors are wrapped once, at the edge, as the cause.

An error's text is short (MOST_BYTES) and always encodes: it may repeat what a user typed, and it crosses processes.
"""

from __future__ import annotations

import reprlib
from typing import Any

MOST_BYTES = 2000
"""Most bytes of an error's text in UTF-8."""

_REASON, _PLACE, _WANTED, _AVAILABLE = 1000, 200, 350, 350  # bytes of each part; with their titles below MOST_BYTES


class RayDraError(Exception):
    """Base of all errors.

    `reason` is a sentence that says what to do, `place` where it happened (an argument, a node, a
    clique), `wanted` and `available` the two sides that did not meet. Each is cut when it is too long.
    """

    def __init__(self, reason: str, *, place: str = "", wanted: str = "", available: str = "") -> None:
        self.reason = cut(reason, _REASON)
        self.place = cut(place, _PLACE)
        self.wanted = cut(wanted, _WANTED)
        self.available = cut(available, _AVAILABLE)
        super().__init__(self.reason)

    def __str__(self) -> str:
        parts = [self.reason]
        for title, value in (
            ("where", self.place),
            ("wanted", self.wanted),
            ("available", self.available),
        ):
            if value:
                parts.append(f"{title}: {value}")
        return "\n  ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only arguments do not survive pickling by themselves, and these
        # cross from the coordinator actor to the driver.
        return _rebuild, (type(self), self.reason, dict(self.__dict__))


def cut(text: str, most: int) -> str:
    """`text` in at most `most` bytes of UTF-8; what does not encode (a lone surrogate) is written as \\udcff."""
    data = str(text)[: most + 1].encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return data.decode()
    return data[: most - 3].decode(errors="ignore") + "..."


def shown(value: object) -> str:
    """A value as an error says it: its repr, short whatever it is."""
    try:
        return cut(_SHORT.repr(value), 200)
    except Exception:  # an integer of 5,000 digits, a list in itself, an object whose repr fails
        return f"<{type(value).__name__}>"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 150
_SHORT.maxlong = 60
_SHORT.maxlevel = 4


def _rebuild(error_type: type[RayDraError], reason: str, state: dict[str, Any]) -> RayDraError:
    error = error_type.__new__(error_type)
    Exception.__init__(error, reason)
    error.__dict__.update(state)
    return error


class InvalidRequest(RayDraError, ValueError):
    """The request can never be met: an empty bundle list, a negative count, a contradiction."""


class InvalidAddress(RayDraError, ValueError):
    """The address behind `ray_dra://` names something unknown; `available` lists what is allowed."""


class InvalidSnapshot(RayDraError, ValueError):
    """A file that should hold a cluster or a request does not, or what it holds cannot be."""


class UnsatisfiableError(RayDraError):
    """The cluster has no room for the gang. `shortfalls` holds the typed reasons."""

    def __init__(self, reason: str, *, shortfalls: tuple[Any, ...] = (), **where: str) -> None:
        super().__init__(reason, **where)
        self.shortfalls = shortfalls


def unsatisfiable(reason: str, shortfalls: tuple[Any, ...]) -> UnsatisfiableError:
    """The error of a no; the first shortfall says where, wanted and available."""
    first = shortfalls[0]
    return UnsatisfiableError(
        reason,
        shortfalls=shortfalls,
        place=str(first.place),
        wanted=first.wanted_text,
        available=first.available_text,
    )


class GangTimeout(RayDraError, TimeoutError):
    """A wait ended before the gang was ready; everything it held has been given back."""


class ReshapeFailed(RayDraError):
    """The next shape of a gang could not be had; the gang has the shape that it had before."""


class NameTaken(RayDraError, ValueError):
    """A live gang of this namespace has the name already."""


class GangGone(RayDraError):
    """The gang was removed, or the program that owned it has ended."""


class ClusterUnavailable(RayDraError, ConnectionError):
    """Nothing that speaks as a Ray cluster does answers at the address, or not in time."""


class CoordinatorUnavailable(RayDraError):
    """The coordinator actor did not answer in time."""


class NvmlError(RayDraError):
    """The NVIDIA driver library could not be used on a node."""


class NvmlMissing(NvmlError):
    """libnvidia-ml.so.1 is not there, or refuses to start."""


class NvmlInconsistent(NvmlError):
    """The driver's answers contradict each other, so nothing is planned on them."""


class KubernetesError(RayDraError):
    """The Kubernetes API said no. `status` is HTTP's code, 0 where there was no answer."""

    status = 0


class NotFound(KubernetesError):
    """There is no such object, or the cluster does not serve this kind."""


class AlreadyThere(KubernetesError):
    """An object of this name exists already."""


class Conflict(KubernetesError):
    """The object changed since it was read, or a JSON patch's test failed; read it again."""


class Rejected(KubernetesError):
    """The object is invalid, or admission refused it."""


class OverQuota(KubernetesError):
    """A ResourceQuota of the namespace has no room for the object; it may have later."""


class NotAllowed(KubernetesError):
    """This identity lacks the role; `wanted` names the verb and the kind."""


class WatchExpired(KubernetesError):
    """The server no longer has the changes since this version; list again."""


class ApiUnavailable(KubernetesError):
    """No connection, too many requests, or the server failed; the same request may be sent again."""

    @property
    def silent(self) -> bool:
        """There was no answer at all: the next request would wait as long for nothing."""
        return self.status == 0

    @property
    def garbled(self) -> bool:
        """There was an answer, and it is none of Kubernetes': a proxy's page, a line that was cut."""
        return 0 < self.status < 400


class NotLeading(KubernetesError):
    """The RayCluster's lease is another coordinator's, or may be; nothing was written."""


class IncompatibleRay(RayDraError):
    """A private part of Ray that the GPU pinning needs has moved; the text names it."""


class SimulationError(RayDraError):
    """The embedded cluster, or its simulated driver library, could not be started."""
