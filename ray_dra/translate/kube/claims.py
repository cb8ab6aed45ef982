"""ResourceClaims: what they have, whose they are, and the devices that a gang's claim is for. Pure.

A gang's claim names its devices in one CEL expression, which this file writes and reads; what the request says of
their attributes and capacities are others, after it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing, SharingKind
from ray_dra.ports.kube_objects import Claim
from ray_dra.translate.kube.shapes import Raw, meta_of, text
from ray_dra.translate.names import COMPUTE_DOMAIN_API, DOMAIN_DRIVER, NODE_LABEL
from ray_dra.translate.vendors import BUS_ATTRIBUTE, NVIDIA, PRODUCT, VENDORS, Vendor

CHANNEL = "channel-"  # how the driver calls its channels of IMEX; a node's IMEX daemon is another device
_PART_CLASSES = {vendor.part_class for vendor in VENDORS.values() if vendor.part_class}
_NAMING = {  # how an expression that names devices begins; by bus ids any vendor's, and all of them read these alike
    vendor.in_cel("attributes", name): vendor
    for vendor in VENDORS.values()
    for name in (vendor.identity, vendor.parent)
    if name
}


def read_claim(thing: Raw) -> Claim:
    meta, said = thing["metadata"], meta_of(thing)
    allocation = (thing.get("status") or {}).get("allocation") or {}
    owners = meta.get("ownerReferences") or ()
    named, count = ((), 0) if said.attempt is None else _named_by(thing)
    pod: Raw = next((o for o in owners if o.get("controller") and _is_pod(o)), {})
    channels = [r for r in _results(allocation) if r["driver"] == DOMAIN_DRIVER]
    return Claim(
        *said,
        uid=text(meta["uid"]),
        created=text(meta.get("creationTimestamp", "")),
        pod=text(pod["uid"]) if pod else "",
        allocated=bool(allocation),
        devices=tuple(_devices_of(allocation)),
        named=named,
        count=count,
        domain=_domain_of(thing),
        domain_nodes=tuple(text(r["pool"]) for r in channels),
        domain_pod=text(pod.get("name", "")) if any(text(r["device"]).startswith(CHANNEL) for r in channels) else "",
    )


def claim_of(claim: Claim) -> tuple[str, str, str] | None:
    """(namespace, RayCluster, attempt) of a gang's claim, which a Pod owns; None for any other."""
    if claim.attempt is None or claim.raycluster is None or not claim.pod:
        return None
    return claim.namespace, claim.raycluster, claim.attempt


def expression_for(uuids: Sequence[str], vendor: Vendor = NVIDIA) -> str:
    """The devices by core's UUIDs. JSON's string literals are CEL's, too, so that no name can become code."""
    named = json.dumps([vendor.identity_of(uuid) for uuid in uuids], separators=(",", ":"))
    return f"{vendor.in_cel('attributes', vendor.identity)} in {named}"


def expression_for_buses(buses: Sequence[str]) -> str:
    """The devices of a node by their bus ids, which other nodes have as well."""
    listed = json.dumps(list(buses), separators=(",", ":"))
    return f"{NVIDIA.in_cel('attributes', BUS_ATTRIBUTE)} in {listed}"


def expression_for_kind(vendor: Vendor, kind: str) -> str:
    """Whole GPUs alone, or parts alone, of a device class that has others as well."""
    return f"{vendor.in_cel('attributes', 'type')} == {json.dumps(kind)}"


def expression_for_parts_of(gpu: str, vendor: Vendor = NVIDIA) -> str:
    """The parts of a GPU, by its UUID."""
    named = json.dumps([vendor.identity_of(gpu)], separators=(",", ":"))
    return f"{vendor.in_cel('attributes', vendor.parent)} in {named}"


def expression_for_profile(profile: str, vendor: Vendor = NVIDIA) -> str:
    return f"{vendor.in_cel('attributes', vendor.profile)} == {json.dumps(profile)}"


def demands_on(criteria: DeviceCriteria, vendor: Vendor = NVIDIA) -> tuple[str, ...]:
    """What a request says of its devices, in CEL: beside their names, so that the cluster holds to it as well."""
    found = []
    if criteria.products:
        # As UTF-8: JSON writes what is beyond \uffff as a pair of surrogates, to CEL two other characters.
        names = json.dumps(list(criteria.products), separators=(",", ":"), ensure_ascii=False)
        found.append(f"{vendor.attribute(PRODUCT)} in {names}")
    for selector in criteria.selectors:
        if isinstance(selector.value, int):
            has, value = vendor.in_cel("capacity", selector.name), f'quantity("{selector.value}")'
        else:
            has, value = vendor.attribute(selector.name), f'semver("{".".join(map(str, selector.value))}")'
        found.append(f"{has}.compareTo({value}) {selector.operator.value} 0")
    return tuple(found)


def shared_by(sharing: GpuSharing, vendor: Vendor) -> dict[str, Any]:
    """The configuration of a claim's devices, in the form of NVIDIA, the one vendor that has any. It names no request:
    there is one."""
    made: dict[str, Any] = {"strategy": sharing.kind.value}
    if sharing.kind is SharingKind.TIME_SLICING:
        made["timeSlicingConfig"] = {"interval": sharing.interval}
    else:
        limits: dict[str, Any] = {}
        if sharing.threads is not None:
            limits["defaultActiveThreadPercentage"] = sharing.threads
        if sharing.memory:
            limits["defaultPinnedDeviceMemoryLimit"] = f"{sharing.mebibytes}Mi"
        made["mpsConfig"] = limits
    parameters = {"apiVersion": COMPUTE_DOMAIN_API, "kind": vendor.sharing_config, "sharing": made}
    return {"opaque": {"driver": vendor.driver, "parameters": parameters}}


def _named_by(thing: Raw) -> tuple[tuple[str, ...], int]:
    """The devices that a gang's claim names (one selector of each request), and how many it counts; of parts that are
    to be made, their GPU; none for another's form. What names a device on its node alone is read with the node."""
    node = str((thing["metadata"].get("annotations") or {}).get(NODE_LABEL, ""))
    requests: Sequence[Raw] = ((thing.get("spec") or {}).get("devices") or {}).get("requests") or ()
    named: list[str] = []
    total = 0
    for request in requests:
        exactly = request.get("exactly") or {}
        if len(requests) > 1 and exactly.get("deviceClassName") not in _PART_CLASSES:
            return (), 0  # of whole devices there is one request
        selectors: Sequence[Raw] = exactly.get("selectors") or ()
        count = exactly.get("count", 1)
        if not selectors or not isinstance(count, int):
            return (), 0
        read = (_names_in(selector["cel"]["expression"], node) for selector in selectors)
        each = [names for names in read if names is not None]
        if len(each) != 1:
            return (), 0
        named += [name for name in each[0] if len(requests) == 1 or name not in named]
        total += count
    return tuple(named), total


@functools.lru_cache(maxsize=1024)  # a claim is read at each of its changes, and says the same
def _names_in(expression: str, node: str) -> tuple[str, ...] | None:
    """Of an expression as `expression_for` and `expression_for_parts_of` write it; None of any other."""
    head, _, names = expression.partition(" in ")
    vendor = _NAMING.get(head)
    try:
        found = json.loads(names) if vendor is not None else []
    except (ValueError, RecursionError):  # anybody's claim may say anything, and what it has counts all the same
        return None
    if vendor is None or not isinstance(found, list) or not (node or vendor.unique):
        return None
    return tuple(vendor.key(node, name) or "" for name in found if isinstance(name, str))


def _is_pod(owner: Raw) -> bool:
    return (owner.get("apiVersion"), owner.get("kind")) == ("v1", "Pod")


def _domain_of(thing: Raw) -> str:
    """The ComputeDomain that a claim's configuration names: of a channel's claim, and of a daemon's."""
    for config in ((thing.get("spec") or {}).get("devices") or {}).get("config") or ():
        opaque = config.get("opaque") or {}
        domain = (opaque.get("parameters") or {}).get("domainID")
        if opaque.get("driver") == DOMAIN_DRIVER and isinstance(domain, str):
            return domain
    return ""


def _results(allocation: Raw) -> Sequence[Raw]:
    return (allocation.get("devices") or {}).get("results") or ()


def _devices_of(allocation: Raw) -> Iterator[tuple[str, str]]:
    for result in _results(allocation):
        if result["driver"] in VENDORS and not result.get("adminAccess"):
            yield text(result["pool"]), text(result["device"])
