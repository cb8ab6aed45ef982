"""What is kept of each kind of Kubernetes object, once every reader of it has had a try. Pure.

The API server holds objects to their kinds, but not to what they mean: a quantity may be out of range, a driver may
publish what nobody expects, and a proxy in between may send anything. Whatever a reader would stumble over later, in
the middle of a look at the whole cluster, is met here, where only the one object is left out
(`adapters.kube_watch.Mirror`). Nodes: `slices.read_node`.

Each raises one of UNREADABLE for what it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kubernetes import KubeNode, Object
from ray_dra.translate.kube.parts import parts_of
from ray_dra.translate.kube.pods import gated, group_of, imex_readiness, no_image, signs, why_failed, why_pending
from ray_dra.translate.kube.slices import devices_of, node_from_slices
from ray_dra.translate.kube.workers import claim_age, claim_of, named_by, refuse_unfit, worker_template
from ray_dra.translate.names import ATTEMPT_LABEL

# What a reader raises for an object of another shape than Kubernetes' own.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def why_unreadable(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def read_labelled(thing: Object) -> Object:
    """An object of which only the name and the labels matter here."""
    meta = thing["metadata"]
    _texts(meta["name"])
    for some in ("labels", "annotations"):
        for key, value in (_mapping(meta.get(some) or {})).items():
            _texts(key, value)
    return thing


def read_pod(thing: Object) -> Object:
    read_labelled(thing)
    _texts(thing["metadata"]["uid"], thing["spec"].get("nodeName") or "")
    _texts(*(gate["name"] for gate in thing["spec"].get("schedulingGates") or ()))
    _mapping(thing.get("status") or {})
    for reader in (gated, group_of, no_image, why_pending, why_failed):
        reader(thing)
    signs([thing])
    return thing


def read_domain(thing: Object) -> Object:
    imex_readiness([read_labelled(thing)])
    return thing


def read_slice(thing: Object) -> Object:
    spec, pool = thing["spec"], thing["spec"]["pool"]
    _texts(thing["metadata"]["resourceVersion"], spec["driver"], pool["name"], spec.get("nodeName", ""))
    if not isinstance(pool["generation"], int) or not isinstance(pool["resourceSliceCount"], int):
        raise TypeError("a pool's generation and resourceSliceCount are whole numbers")
    node = node_from_slices(KubeNode(spec.get("nodeName", "")), [thing])
    _texts(*(device.id.device for device in node.devices), *parts_of([thing]).of)
    return thing


def read_raycluster(thing: Object) -> Object:
    read_labelled(thing)
    meta, spec = thing["metadata"], _mapping(thing["spec"])
    _texts(meta["namespace"], meta["uid"], meta["resourceVersion"])
    for group in spec.get("workerGroupSpecs") or ():
        _texts(group["groupName"])
        _mapping(_mapping(group["template"].get("metadata") or {}).get("labels") or {})
    with suppress(InvalidRequest):  # said to whoever asks for a gang
        refuse_unfit(thing)
        worker_template(thing)
    return thing


def read_claim(thing: Object) -> Object:
    """Where a claim lies and whose it is; while a gang's is not allocated, also which devices it is for."""
    read_labelled(thing)
    meta, allocation = thing["metadata"], (thing.get("status") or {}).get("allocation")
    wanted = ("name", "namespace", "uid", "labels", "ownerReferences", "creationTimestamp", "deletionTimestamp")
    kept = {"metadata": {name: meta[name] for name in wanted if name in meta}, "status": {"allocation": allocation}}
    _texts(meta["uid"], meta.get("namespace", ""), *claim_age(kept))
    for node, device in devices_of(kept):
        _texts(node, device)
    claim_of(kept)
    if ATTEMPT_LABEL not in (meta.get("labels") or {}):
        return kept
    named_by(thing)
    return {**kept, "spec": thing["spec"]}


def _texts(*values: object) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{value!r:.100} is no text")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.100} is no mapping")
    return value
