"""Nodes: machines with devices, their links and resources; and the topology order of nodes. Immutable values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray_dra.core.model.device import Device, DomainId
from ray_dra.core.model.parts import PartedGpu

Links = tuple[tuple[int, ...], ...]
"""Symmetric matrix over a node's devices, by position: active NVLinks between two (0: none)."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine (a compute tray, a box, a virtual machine).

    Attributes:
        name: stable over restarts of the raylet; the Kubernetes node or the physical host.
        ray_node_id: Ray's id of the raylet that runs there now; None when none does.
        devices: in NVML's order; positions in this tuple are the bits of the planner's masks.
        links: see `Links`; empty means no two devices are linked.
        ancestors: like `links`, NVML's topology level between two (0 internal .. 50 system); empty: unknown.
        resources: what the raylet offers besides devices, e.g. {"CPU": 64.0, "memory": bytes}.
        order: position in the rack (the tray), None when unknown; ties break by name.
        parted: its GPUs that are given out in parts, some of them whole as well.
        spare: kept for repairs, and lent to small preemptible gangs only.
        unshared: (way to share a GPU, why its GPUs cannot be shared so); see `gpu_sharing.SharingKind`.
        ready: False while the node is lost, silent or being drained; `reason` says why.
    """

    name: str
    devices: tuple[Device, ...] = ()
    ray_node_id: str | None = None
    links: Links = ()
    ancestors: Links = ()
    resources: Mapping[str, float] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    order: int | None = None
    ready: bool = True
    reason: str = ""
    spare: bool = False
    parted: tuple[PartedGpu, ...] = ()
    unshared: tuple[tuple[str, str], ...] = ()

    @property
    def clique(self) -> DomainId | None:
        """The clique of the node's devices; None when no device has one."""
        for device in self.devices:
            if device.clique is not None:
                return device.clique
        return None

    @property
    def products(self) -> tuple[str, ...]:
        return tuple(sorted({d.product for d in self.devices if d.product is not None}))


def natural(text: str) -> str:
    """Sort key in which n2 comes before n10; two texts that differ have keys that differ."""
    return _NUMBER.sub(_padded, text) + "\x00" + text


_NUMBER = re.compile(r"[0-9]+")


def _padded(number: re.Match[str]) -> str:
    return number[0].zfill(12)


def node_order(node: Node) -> str:
    """Topology order as a sort key: clique, tray, node; so that neighbouring ranks are neighbours in hardware."""
    tray = node.order if node.order is not None else 1 << 30
    return f"{natural(node.clique or '~')}\x00{tray:012d}\x00{natural(node.name)}"
