"""Which GPUs the devices of a pool are, or are parts of.

Somebody's claim may have a MIG partition, the passthrough twin of a GPU, or a share. What it has a part of cannot be
given whole to anybody else. Shares need nothing here: under ConsumableShares many claims have the GPU by its own name.
Neighbour: `slices.py`, which reads the whole GPUs of the same ResourceSlices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ray_dra.ports.kube_objects import PublishedDevice, ResourceSlice
from ray_dra.translate.vendors import BUS_ATTRIBUTE, NVIDIA, VENDORS, Vendor


@dataclass(frozen=True, slots=True)
class Parts:
    """The devices of a pool.

    Attributes:
        gpus: names of whole GPUs.
        of: name of any other device -> the GPUs that it takes something of; none for a partition of a GPU that is not
            offered whole.
        vendor: whose they are.
    """

    gpus: frozenset[str] = frozenset()
    of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    vendor: Vendor = NVIDIA

    def taken_with(self, device: str) -> frozenset[str] | None:
        """The GPUs that whoever has this device has all or something of; None: nothing tells which."""
        if device in self.gpus:
            return frozenset((device,))
        return self.of.get(device, self._by_name(device))

    def devices_of(self, gpus: Collection[str]) -> frozenset[str]:
        """The devices that are all of one of these GPUs, or something of it."""
        return frozenset((*gpus, *(name for name, of in self.of.items() if not of.isdisjoint(gpus))))

    def _by_name(self, device: str) -> frozenset[str] | None:
        named = self.vendor.by_name.match(device)
        gpu = self.vendor.named.format(named[1]) if named else ""
        return frozenset((gpu,)) if gpu in self.gpus else None


def parts_of(slices: Iterable[ResourceSlice]) -> Parts:
    """The devices of a pool by its ResourceSlices, of every generation: a claim may be older than the newest.

    A device is a part of the GPU whose UUID it calls its parent's, of one on the same bus id, of those with which it
    shares counters, and of the one that its name is made from.
    """
    pool = list(slices)
    vendor = VENDORS.get(pool[0].driver, NVIDIA) if pool else NVIDIA
    devices = [device for each in pool for device in each.devices]
    wholes = [device for device in devices if device.text("type") == vendor.whole]
    named = Parts(frozenset(device.name for device in wholes), vendor=vendor)
    by_mark: dict[tuple[str, str], set[str]] = {}
    for device in wholes:
        for mark in _marks(device, vendor.identity):
            by_mark.setdefault(mark, set()).add(device.name)
    of: dict[str, frozenset[str]] = {}
    for device in devices:
        name = device.name
        if name in named.gpus:
            continue
        found = set(named.taken_with(name) or ())
        for mark in _marks(device, vendor.parent):
            found |= by_mark.get(mark, set())
        if found or device.text(vendor.parent):
            of[name] = of.get(name, frozenset()) | found
    return Parts(named.gpus, of, vendor)


def _marks(device: PublishedDevice, identity: str) -> Iterable[tuple[str, str]]:
    """What a part has in common with its GPU. `identity`: the attribute that names the GPU."""
    for attribute in (identity, BUS_ATTRIBUTE):
        value = device.text(attribute)
        if value:
            yield ("identity" if attribute == identity else attribute), value
    for counter_set in device.counter_sets:
        yield "counters", counter_set
