"""What every reader of Kubernetes objects needs, and the kinds of which little more than names matters. Pure.

The API server holds objects to their kinds, but not to what they mean: a quantity may be out of range, a driver may
publish what nobody expects, and a proxy in between may send anything. So each object becomes a type once, where it
arrives (`adapters.mirror.Mirror`), and whatever a user of it would stumble over later, in the middle of a look at
the whole cluster, is met here, where only the one object is left out.

The other kinds are read beside what is done with them: `pods`, `claims`, `slices` (and Nodes), `raycluster`,
`published_links`. Each reader raises one of UNREADABLE for what it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ray_dra.ports.kube_objects import ClaimTemplate, ComputeDomain
from ray_dra.translate.names import ATTEMPT_LABEL, CLUSTER_LABEL

# What a reader raises for an object of another shape than Kubernetes' own.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

Raw = Mapping[str, Any]  # an object as the API server sends it


def why_unreadable(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


class Meta(NamedTuple):
    """Fields of `kube_objects.OfGang`, in its order."""

    name: str
    namespace: str
    attempt: str | None
    raycluster: str | None
    deleting: bool


def meta_of(thing: Raw) -> Meta:
    meta = thing["metadata"]
    labels = labels_of(thing)
    return Meta(
        text(meta["name"]),
        text(meta.get("namespace", "")),
        labels.get(ATTEMPT_LABEL),
        labels.get(CLUSTER_LABEL),
        bool(meta.get("deletionTimestamp")),
    )


def kind_in(api: str, kind: str) -> str:
    """How a kind is called of which there is another of the same name."""
    return f"{api} {kind}"


def labels_of(thing: Raw) -> Mapping[str, str]:
    return texts(thing["metadata"].get("labels") or {})


def read_template(thing: Raw) -> ClaimTemplate:
    return ClaimTemplate(*meta_of(thing))


def read_domain(thing: Raw) -> ComputeDomain:
    nodes = (thing.get("status") or {}).get("nodes") or ()
    waiting = tuple(str(node.get("name")) for node in nodes if node.get("status") != "Ready")
    return ComputeDomain(*meta_of(thing), waiting, text(thing["metadata"].get("uid", "")))


def text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.100} is no text")
    return value


def texts(value: Any) -> Mapping[str, str]:
    """A mapping of texts, such as labels."""
    for key, each in mapping(value).items():
        text(key), text(each)
    return mapping(value)


def mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.100} is no mapping")
    return value


def whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r:.100} is no whole number")
    return value
