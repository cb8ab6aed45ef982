"""Whether others place or queue on the nodes with GPUs, as far as `ray-dra check` can see it. Neighbour: `check.py`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ray_dra.ports.kube_objects import Claim, ResourceSlice
from ray_dra.ports.kubernetes import Object
from ray_dra.translate.kube.schedulers import ONE_SCHEDULER, contested_nodes, given_twice, meanings
from ray_dra.translate.lines import several

Line = tuple[str, bool | None, str]
"""Of a `check.Finding`: what, ok, said."""

MOST = 10


def of_labels(raycluster: Object) -> Iterator[Line]:
    """What others' labels on the RayCluster mean for gangs."""
    for name, said in meanings(raycluster["metadata"].get("labels") or {}):
        yield f"label {name}", True, said


def of_devices(claims: Collection[Claim], slices: Collection[ResourceSlice]) -> Iterator[Line]:
    """Devices that were given out twice."""
    what, found = "devices in two claims", given_twice(claims, slices)
    for each in found[:MOST]:
        yield what, False, f"{each}; {ONE_SCHEDULER}"
    if len(found) > MOST:
        yield what, False, f"and {len(found) - MOST} more"
    if not found:
        yield what, True, f"none of those in {several(len(claims), 'claim')}"


def of_nodes(pods: Collection[Object] | None, nodes: Collection[str]) -> Iterator[Line]:
    """Whether one scheduler alone places pods on each of these nodes. `pods`: all there are; None: who asks may not
    list them."""
    what = "one scheduler for each node with GPUs"
    if pods is None:
        yield what, None, "this cannot be told without the right to list all pods; nothing else needs that"
        return
    found = contested_nodes(pods, nodes)
    for node, names in list(found.items())[:MOST]:
        told = f"{' and '.join(names)} have placed pods with claims there, and may give out a device twice"
        yield f"node {node}", None, f"{told}; {ONE_SCHEDULER}"
    if len(found) > MOST:
        yield what, None, f"and {len(found) - MOST} more nodes have several"
    if not found:
        yield what, True, f"on {several(len(nodes), 'node')}, as the pods with claims say that run there now"
