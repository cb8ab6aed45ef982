"""What NVIDIA's DRA driver publishes for a machine: devices with its names, attributes, capacities and counters.

Pure: a simulated machine, its faults and its MIG state in, the dicts of `resource.k8s.io/v1` out. Each device also
carries what it stands for, which `prepare` needs. `partitions` has what MIG adds, `shares` what ConsumableShares adds,
`gates` the gates. Source of the names: kubernetes-sigs/dra-driver-nvidia-gpu, 0.5 line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from ray_dra.simulated.dra import partitions
from ray_dra.simulated.dra.gates import GATES
from ray_dra.simulated.dra.shares import share
from ray_dra.simulated.machine import DRIVER_VERSION, WHOLE_GPU
from ray_dra.simulated.mig import MigState, Part
from ray_dra.simulated.profile import MigProfile, SimulatedNode
from ray_dra.translate.names import DOMAIN_DRIVER
from ray_dra.translate.nvml.reading import APPLICATION_XIDS
from ray_dra.translate.vendors import NVIDIA

__all__ = ["GATES", "Pool", "Published", "device_classes", "domain_pool", "gpu_pool", "node_labels", "slices", "twin"]

CUDA_VERSION = "13.0.0"
DEVICES_A_SLICE = 128
DEVICES_A_SLICE_WITH_COUNTERS = 64  # with taints or counters: the API's own limits
NO_MIG = MigState()
FM_PARTITIONS = (  # Fabric Manager's, by the modules of the GPUs in each; of a box of eight
    (1, 2, 3, 4, 5, 6, 7, 8),
    (1, 2, 3, 4),
    (5, 6, 7, 8),
    (1, 3),
    (2, 4),
    (5, 7),
    (6, 8),
    *((module,) for module in range(1, 9)),
)


@dataclass(frozen=True)
class Published:
    """One device: its dict in a ResourceSlice, and what it is here. `kind`: gpu, mig, vfio, channel or daemon."""

    name: str
    kind: str
    body: Mapping[str, Any]
    gpu: int = -1
    mig: tuple[MigProfile, int] | None = None  # the partition's profile and first memory slice

    @property
    def driver(self) -> str:
        return DOMAIN_DRIVER if self.kind in ("channel", "daemon") else NVIDIA.driver


@dataclass(frozen=True)
class Pool:
    """Everything that one driver publishes for one node.

    Args:
        groups: devices that are published together; all but DynamicMIG publish one group.
        counters: None: no slice for counters; empty: an empty one.
    """

    driver: str
    groups: tuple[tuple[Published, ...], ...]
    counters: tuple[Mapping[str, Any], ...] | None = field(default=None)

    @property
    def devices(self) -> tuple[Published, ...]:
        return tuple(device for group in self.groups for device in group)

    def without(self, names: Iterable[str]) -> Pool:
        left_out = set(names)
        return replace(self, groups=tuple(tuple(d for d in g if d.name not in left_out) for g in self.groups))


def gpu_pool(
    node: SimulatedNode,
    faults: Mapping[str, Any],
    gates: frozenset[str] = frozenset(),
    mig: MigState = NO_MIG,
    *,
    consumable_shares: str = "",
) -> Pool:
    """The GPUs of a machine, their parts (static ones, or with DynamicMIG all that could be made), and with
    PassthroughSupport their VFIO twins.

    Args:
        consumable_shares: as the driver's flag, with the gate ConsumableShares.
    """
    opened = consumable_shares if "ConsumableShares" in gates else ""
    view = _View(node, faults, gates, mig, "" if opened == "disabled" else opened)
    if "DynamicMIG" not in gates:
        # NVIDIA's driver publishes in random order; by UUID is as random, and the same every time.
        devices = sorted(
            (device for gpu in range(node.profile.gpus) for device in view.static(gpu)),
            key=lambda d: (node.uuid(d.gpu), d.name),
        )
        return Pool(NVIDIA.driver, (tuple(devices),))
    groups = tuple(tuple(sorted(view.dynamic(gpu), key=lambda d: d.name)) for gpu in range(node.profile.gpus))
    if not node.profile.mig:
        return Pool(NVIDIA.driver, groups)
    counters = []
    for gpu in filter(view.can_part, range(node.profile.gpus)):
        shares = view.opened if view.opened.isdigit() and view.can_be_whole(gpu) else ""
        counters.append(partitions.counter_set(node.profile, gpu, shares))
    return Pool(NVIDIA.driver, groups, tuple(counters))


def twin(name: str) -> str | None:
    """The other device that is the same GPU, to be used as one or the other: gpu-3 and gpu-vfio-3."""
    kind, _, number = name.rpartition("-")
    return {"gpu": f"gpu-vfio-{number}", "gpu-vfio": f"gpu-{number}"}.get(kind)


def domain_pool(node: SimulatedNode) -> Pool:
    """The IMEX channel and daemon of a node. A node without a fabric publishes them too; Prepare refuses there."""
    bodies = {
        f"{kind}-0": {"name": f"{kind}-0", "attributes": {"type": {"string": kind}, "id": {"int": 0}}}
        for kind in ("channel", "daemon")
    }
    return Pool(DOMAIN_DRIVER, (tuple(Published(name, name[:-2], body) for name, body in bodies.items()),))


def node_labels(node: SimulatedNode) -> dict[str, str]:
    """What GPU Feature Discovery puts on the node; no clique for a box of its own."""
    labels = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": str(node.profile.gpus),
        "nvidia.com/gpu.product": node.profile.product.replace(" ", "-"),
    }
    if node.clique is not None:
        labels[NVIDIA.clique_label] = node.clique
    return labels


def slices(pool: Pool, node: str, generation: int, owner: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The pool as ResourceSlices; counters lie in one of their own, the first, as the API wants it since 1.35."""
    parts: list[dict[str, Any]] = []
    if pool.counters is not None:
        parts.append({"sharedCounters": [dict(c) for c in pool.counters]} if pool.counters else {})
    for group in pool.groups:
        bodies = [dict(d.body) for d in group]
        narrow = any("consumesCounters" in body or body.get("taints") for body in bodies)
        size = DEVICES_A_SLICE_WITH_COUNTERS if narrow else DEVICES_A_SLICE
        parts += [{"devices": bodies[at : at + size]} for at in range(0, len(bodies), size)] or [{}]
    metadata: dict[str, Any] = {"ownerReferences": [dict(owner)]} if owner is not None else {}
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"{node}-{pool.driver}-{at}", **metadata},
            "spec": {
                "driver": pool.driver,
                "nodeName": node,
                "pool": {"name": node, "generation": generation, "resourceSliceCount": len(parts)},
                **part,
            },
        }
        for at, part in enumerate(parts)
    ]


def device_classes() -> list[dict[str, Any]]:
    """The five DeviceClasses of NVIDIA's chart."""

    def kind_is(kind: str, driver: str, more: str = "") -> str:
        return f"device.driver == '{driver}' && device.attributes['{driver}'].type == '{kind}'{more}"

    channel_zero = f" && device.attributes['{DOMAIN_DRIVER}'].id == 0"
    found = {
        "gpu.nvidia.com": kind_is("gpu", NVIDIA.driver),
        "mig.nvidia.com": kind_is("mig", NVIDIA.driver),
        "vfio.gpu.nvidia.com": kind_is("vfio", NVIDIA.driver),
        "compute-domain-daemon.nvidia.com": kind_is("daemon", DOMAIN_DRIVER),
        "compute-domain-default-channel.nvidia.com": kind_is("channel", DOMAIN_DRIVER, channel_zero),
    }
    extended = {"gpu.nvidia.com": {"extendedResourceName": "nvidia.com/gpu"}}
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": name},
            "spec": {"selectors": [{"cel": {"expression": expression}}], **extended.get(name, {})},
        }
        for name, expression in found.items()
    ]


def fabric_partition(gpus: Iterable[int]) -> int | None:
    """The Fabric Manager's partition that is exactly these GPUs."""
    modules = tuple(sorted(gpu + 1 for gpu in gpus))
    return FM_PARTITIONS.index(modules) if modules in FM_PARTITIONS else None


@dataclass(frozen=True)
class _View:
    """A machine as its driver sees it. `opened`: how a device is shared by several claims, "" where it is not."""

    node: SimulatedNode
    faults: Mapping[str, Any]
    gates: frozenset[str]
    mig: MigState
    opened: str

    def can_part(self, gpu: int) -> bool:
        """DynamicMIG: Ampere changes MIG mode with a reset alone, so it has parts only where the mode is on already."""
        return bool(self.node.profile.mig) and (gpu in self.mig.on or not self.node.profile.resets_for_mig)

    def can_be_whole(self, gpu: int) -> bool:
        """DynamicMIG: where MIG mode is on, it has to go off without a reset."""
        return gpu not in self.mig.on or not self.node.profile.resets_for_mig

    def static(self, gpu: int) -> list[Published]:
        """A GPU in MIG mode is published by its parts alone, and not at all without any."""
        if gpu in self.mig.on:
            return [self._static_part(part) for part in self.mig.of(gpu)]
        found = [self._whole(gpu, {"memory": {"value": f"{self.node.profile.memory_gib}Gi"}})]
        if "PassthroughSupport" in self.gates:
            found.append(self._vfio(gpu))
        return found

    def dynamic(self, gpu: int) -> list[Published]:
        profile = self.node.profile
        if not self.can_part(gpu):
            return self.static(gpu)
        found = [self._dynamic_part(gpu, mig, start) for mig in profile.mig for start in mig.starts]
        if self.can_be_whole(gpu):
            found.append(self._whole(gpu, partitions.most_of_all(profile), partitions.whole(profile)))
        return found

    def _whole(
        self, gpu: int, capacity: partitions.Quantities, consumes: partitions.Quantities | None = None
    ) -> Published:
        body: dict[str, Any] = {
            "name": f"gpu-{gpu}",
            "attributes": {
                **self._attributes(gpu, "gpu"),
                "uuid": {"string": self.node.uuid(gpu)},
                **self._module(gpu),
            },
            "capacity": capacity,
        }
        return self._published(body, "gpu", gpu, None, (WHOLE_GPU, WHOLE_GPU), consumes)

    def _vfio(self, gpu: int) -> Published:
        """As the PCI bus shows it, without NVIDIA's kernel driver: no NVML, so another UUID, and fewer attributes."""
        profile, bus = self.node.profile, f"0000:{0x10 + gpu:02x}:00.0"
        window = 1 << (profile.memory_gib - 1).bit_length()  # the card's memory, to the next power of two
        shown = self._attributes(gpu, "vfio")
        shown = {name: shown[name] for name in ("type", "productName", *(n for n in shown if "/" in n))}
        body: dict[str, Any] = {
            "name": f"gpu-vfio-{gpu}",
            "attributes": {
                **shown,
                "uuid": {"string": str(uuid5(NAMESPACE_DNS, bus))},
                "deviceID": {"string": f"0x{profile.pci_device_id >> 16:04x}"},
                "vendorID": {"string": f"0x{profile.pci_device_id & 0xFFFF:04x}"},
                "iommuFDEnabled": {"bool": True},
                **self._module(gpu),
            },
            "capacity": {"addressableMemory": {"value": f"{window}Gi"}},
        }
        return self._published(body, "vfio", gpu, None, None)

    def _static_part(self, part: Part) -> Published:
        mig = self.node.profile.mig_profile(part.profile)
        body = self._part(part.gpu, mig, part.start)
        body["attributes"]["uuid"] = {"string": part.uuid}
        body["capacity"] |= partitions.memory_slices(part.start, part.size)
        instances = (part.gpu_instance, part.compute_instance)
        return self._published(body, "mig", part.gpu, (mig, part.start), instances)

    def _dynamic_part(self, gpu: int, mig: MigProfile, start: int) -> Published:
        """It has no UUID before it is prepared."""
        body = self._part(gpu, mig, start)
        return self._published(body, "mig", gpu, (mig, start), None, partitions.part(mig, start))

    def _part(self, gpu: int, mig: MigProfile, start: int) -> dict[str, Any]:
        return {
            "name": partitions.part_name(gpu, mig, start),
            "attributes": {
                **self._attributes(gpu, "mig"),
                "profile": {"string": mig.profile},
                "parentUUID": {"string": self.node.uuid(gpu)},
            },
            "capacity": partitions.capacities(mig),
        }

    def _attributes(self, gpu: int, kind: str) -> dict[str, Any]:
        profile = self.node.profile
        attributes: dict[str, Any] = {
            "type": {"string": kind},
            "productName": {"string": profile.product},
            "brand": {"string": "Tesla" if profile.product.startswith("Tesla") else "Nvidia"},
            "architecture": {"string": profile.architecture},
            "cudaComputeCapability": {"version": _version(profile.compute_capability)},
            "driverVersion": {"version": _version(DRIVER_VERSION)},
            "cudaDriverVersion": {"version": CUDA_VERSION},
            "resource.kubernetes.io/pciBusID": {"string": f"0000:{0x10 + gpu:02x}:00.0"},
            "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:{profile.pcie_root(gpu):02x}"},
        }
        if profile.numa:
            numa = profile.numa[gpu]
            listed = "DRAListTypeAttributes" in self.gates
            attributes["resource.kubernetes.io/numaNode"] = {"ints": [numa]} if listed else {"int": numa}
        if profile.addressing:
            attributes["addressingMode"] = {"string": profile.addressing}
        return attributes

    def _module(self, gpu: int) -> dict[str, Any]:
        """Of a box whose Fabric Manager parts it: the GPU's module, and its partition of each size."""
        if "FabricManagerPartitioning" not in self.gates or self.node.profile.fabric != "box":
            return {}
        mine = {len(modules): at for at, modules in enumerate(FM_PARTITIONS) if gpu + 1 in modules}
        return {"gpuModuleID": {"int": gpu + 1}} | {f"partition{size}": {"int": at} for size, at in mine.items()}

    def _published(
        self,
        body: dict[str, Any],
        kind: str,
        gpu: int,
        mig: tuple[MigProfile, int] | None,
        instances: tuple[int, int] | None,
        consumes: partitions.Quantities | None = None,
    ) -> Published:
        """`instances`: the GPU instance and compute instance whose events are this device's."""
        if consumes is not None:
            body["consumesCounters"] = [{"counterSet": f"gpu-{gpu}-counter-set", "counters": consumes}]
        if self.opened and kind != "vfio":
            share(body, self.opened)
        if "NVMLDeviceHealthCheck" in self.gates and (taints := self._taints(gpu, instances)):
            body["taints"] = list(taints)
        return Published(body["name"], kind, body, gpu, mig)

    def _taints(self, gpu: int, instances: tuple[int, int] | None) -> Sequence[Mapping[str, Any]]:
        """As the health gate sets them: never NoExecute, and None for what is the program's fault. One lost GPU taints
        all of the node; an event of a whole GPU is not one of its parts."""
        found = []
        xids = [
            code
            for _, on, code, *of in self.faults.get("xids", ())
            if on == gpu and (tuple(of) or (WHOLE_GPU, WHOLE_GPU)) == instances
        ]
        if xids:
            effect = "None" if xids[-1] in APPLICATION_XIDS else "NoSchedule"
            found.append({"key": "gpu.nvidia.com/xid", "value": str(xids[-1]), "effect": effect})
        if self.faults.get("lost"):
            found.append({"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"})
        return found


def _version(text: str) -> str:
    """As semantic versions are written: three numbers, no leading zeros."""
    numbers = [str(int(part)) for part in text.split(".")]
    return ".".join([*numbers, "0", "0"][:3])
