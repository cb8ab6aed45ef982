"""What an API server answers: objects, events of a watch, and its no as one of our errors, wrapped here, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray_dra.errors import (
    AlreadyThere,
    ApiUnavailable,
    Conflict,
    KubernetesError,
    NotAllowed,
    NotFound,
    OverQuota,
    Rejected,
    WatchExpired,
)

Object = dict[str, Any]


def version_of(thing: Mapping[str, Any]) -> Any:
    """The version of an object or a list; None where it has none."""
    meta = thing.get("metadata")
    return meta.get("resourceVersion") if isinstance(meta, dict) else None


def object_of(data: bytes, place: str) -> Object:
    """The JSON object that the server sent. Raises ApiUnavailable for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise garbled(place, "JSON", data) from error
    if not isinstance(found, dict):
        raise garbled(place, "a JSON object", data)
    return found


def garbled(place: str, wanted: str, said: object) -> ApiUnavailable:
    text = said[:200].decode(errors="replace") if isinstance(said, bytes) else repr(said)[:200]
    error = ApiUnavailable(
        "The answer is none of Kubernetes': is a proxy in between?", place=place, wanted=wanted, available=text
    )
    error.status = 200
    return error


def event_of(event: Object, place: str) -> tuple[str, Object]:
    kind, thing = event.get("type"), event.get("object")
    if not isinstance(thing, dict) or kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"):
        raise garbled(place, "an event", event)
    if kind == "ERROR":
        code = thing.get("code")
        raise error_of(code if isinstance(code, int) else 500, json.dumps(thing).encode(), f"watch {place}")
    if not isinstance(version_of(thing), str):
        raise garbled(place, "an object with a version", event)
    return kind, thing


# The answer, with 422, when a JSON patch's `test` does not hold; an invalid object is named in its message.
_TEST_FAILED = "the server rejected our request due to an error in our request"


# An API server that has just started does not serve, or has not read, what an admission policy asks. With 422 and 403.
_POLICY_NOT_READY = ("denied request: failed to configure policy: ", "not yet synced to use for admission")


# A 403 is mostly a missing role. Of what else is forbidden, the words of the server say what it was.
_FORBIDDEN: tuple[tuple[str, type[KubernetesError], str], ...] = (
    ("violates PodSecurity", Rejected, "Pod Security of the namespace refuses the pod."),
    ("exceeded quota: ", OverQuota, "A ResourceQuota of the namespace has no room for it."),
    (" usage per ", Rejected, "A LimitRange of the namespace refuses it."),
    ("limit to request ratio per ", Rejected, "A LimitRange of the namespace refuses it."),
    ("admission webhook ", Rejected, "An admission webhook refuses it."),
)


def _forbidden(message: str, place: str) -> KubernetesError:
    for words, kind, said in _FORBIDDEN:
        if words in message:
            return kind(said, place=place, available=message)
    return NotAllowed("This identity may not do that; see the roles under kube/.", wanted=place, available=message)


def error_of(status: int, body: bytes, place: str) -> KubernetesError:
    """The typed error for an answer of the API server's."""
    try:
        said = json.loads(body)
        message, reason = str(said.get("message", "")), str(said.get("reason", ""))
    except (ValueError, RecursionError, AttributeError):  # the last: it is no object
        message, reason = body.decode(errors="replace")[:500], ""
    error: KubernetesError
    if status == 404:
        error = NotFound("There is no such object.", place=place, available=message)
    elif status == 409 and reason == "AlreadyExists":
        error = AlreadyThere("An object of this name exists.", place=place, available=message)
    elif status == 409 or (status == 422 and message == _TEST_FAILED):
        error = Conflict("The object changed in between; read it again.", place=place, available=message)
    elif status == 410:
        error = WatchExpired("The watch is too old to go on; list again.", place=place, available=message)
    elif status in (403, 422) and any(words in message for words in _POLICY_NOT_READY):
        error = ApiUnavailable("An admission policy cannot be asked yet.", place=place, available=message)
    elif status in (401, 403):
        error = _forbidden(message, place)
    elif status in (400, 422):
        error = Rejected("The API server refuses the object.", place=place, available=message)
    elif status == 429 or status >= 500 or status == 0:
        error = ApiUnavailable("The Kubernetes API cannot answer now.", place=place, available=message)
    else:
        error = KubernetesError("The Kubernetes API said no.", place=place, available=message)
    error.status = status
    return error
