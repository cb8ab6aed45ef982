"""What NVIDIA's DRA driver publishes for a machine: devices with its names, attributes, capacities and counters.

Pure: a simulated machine and its faults in, the dicts of `resource.k8s.io/v1` out. Each device also carries what it
stands for, which `prepare` needs. Source of the names: kubernetes-sigs/dra-driver-nvidia-gpu, 0.5 line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_dra.simulated.dra import DOMAIN_DRIVER
from ray_dra.simulated.machine import DRIVER_VERSION
from ray_dra.simulated.profile import MigProfile, SimulatedNode
from ray_dra.translate.names import CLIQUE_LABEL, DRIVER
from ray_dra.translate.nvml.reading import APPLICATION_XIDS

CUDA_VERSION = "13.0.0"
DEVICES_A_SLICE = 128
DEVICES_A_SLICE_WITH_COUNTERS = 64  # with taints or counters: the API's own limits

GATES = frozenset({"TimeSlicingSettings", "MPSSupport", "DynamicMIG", "PassthroughSupport", "NVMLDeviceHealthCheck"})

ENGINES = ("copyEngines", "decoders", "encoders", "jpegEngines", "ofaEngines")


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
        return DOMAIN_DRIVER if self.kind in ("channel", "daemon") else DRIVER


@dataclass(frozen=True)
class Pool:
    """Everything that one driver publishes for one node."""

    driver: str
    devices: tuple[Published, ...]
    counters: tuple[Mapping[str, Any], ...] = field(default=())


def gpu_pool(node: SimulatedNode, faults: Mapping[str, Any], gates: frozenset[str] = frozenset()) -> Pool:
    """The GPUs of a machine, their partitions (static ones, or with DynamicMIG all that could be made), and with
    PassthroughSupport their VFIO twins."""
    health = "NVMLDeviceHealthCheck" in gates
    dynamic = "DynamicMIG" in gates and bool(node.profile.mig)
    partitions = list(faults.get("partitions", {}).items())
    devices: list[Published] = []
    for gpu in range(node.profile.gpus):
        taints = _taints(gpu, faults) if health else []
        static = [(uuid, *rest) for uuid, (on, *rest) in partitions if on == gpu] if not dynamic else []
        if static:
            devices += [_static_partition(node, gpu, each, taints) for each in static]
            continue
        devices.append(_whole(node, gpu, taints, dynamic))
        if "PassthroughSupport" in gates:
            devices.append(_vfio(node, gpu, taints))
        if dynamic:
            devices += [
                _partition(node, gpu, mig, start, taints, consumes=True)
                for mig in node.profile.mig
                for start in mig.starts
            ]
    # NVIDIA's driver publishes in random order; by UUID is as random, and the same every time.
    devices.sort(key=lambda d: (node.uuid(d.gpu), d.name))
    return Pool(DRIVER, tuple(devices), tuple(_counters(node)) if dynamic else ())


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
    return Pool(DOMAIN_DRIVER, tuple(Published(name, name[:-2], body) for name, body in bodies.items()))


def node_labels(node: SimulatedNode) -> dict[str, str]:
    """What GPU Feature Discovery puts on the node; no clique for a box of its own."""
    labels = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": str(node.profile.gpus),
        "nvidia.com/gpu.product": node.profile.product.replace(" ", "-"),
    }
    if node.clique is not None:
        labels[CLIQUE_LABEL] = node.clique
    return labels


def slices(pool: Pool, node: str, generation: int, owner: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The pool as ResourceSlices; counters lie in slices of their own, as the API wants it."""
    narrow = bool(pool.counters) or any(d.body.get("taints") for d in pool.devices)
    size = DEVICES_A_SLICE_WITH_COUNTERS if narrow else DEVICES_A_SLICE
    parts: list[dict[str, Any]] = []
    if pool.counters:
        parts.append({"sharedCounters": [dict(c) for c in pool.counters]})
    bodies = [dict(d.body) for d in pool.devices]
    parts += [{"devices": bodies[at : at + size]} for at in range(0, len(bodies), size)]
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
        "gpu.nvidia.com": kind_is("gpu", DRIVER),
        "mig.nvidia.com": kind_is("mig", DRIVER),
        "vfio.gpu.nvidia.com": kind_is("vfio", DRIVER),
        "compute-domain-daemon.nvidia.com": kind_is("daemon", DOMAIN_DRIVER),
        "compute-domain-default-channel.nvidia.com": kind_is("channel", DOMAIN_DRIVER, channel_zero),
    }
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": name},
            "spec": {"selectors": [{"cel": {"expression": expression}}]},
        }
        for name, expression in found.items()
    ]


# -- one device


def _attributes(node: SimulatedNode, gpu: int, kind: str) -> dict[str, Any]:
    profile = node.profile
    group = next((i for i, members in enumerate(profile.pcie_switches) if gpu in members), None)
    root = group if group is not None else (profile.numa[gpu] if profile.numa else 0)
    attributes: dict[str, Any] = {
        "type": {"string": kind},
        "productName": {"string": profile.product},
        "brand": {"string": "Tesla" if profile.product.startswith("Tesla") else "Nvidia"},
        "architecture": {"string": profile.architecture},
        "cudaComputeCapability": {"version": _version(profile.compute_capability)},
        "driverVersion": {"version": _version(DRIVER_VERSION)},
        "cudaDriverVersion": {"version": CUDA_VERSION},
        "resource.kubernetes.io/pciBusID": {"string": f"0000:{0x10 + gpu:02x}:00.0"},
        "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:{root * 0x10:02x}"},
    }
    if profile.numa:
        attributes["resource.kubernetes.io/numaNode"] = {"int": profile.numa[gpu]}
    return attributes


def _whole(node: SimulatedNode, gpu: int, taints: list[dict[str, Any]], counted: bool) -> Published:
    body: dict[str, Any] = {
        "name": f"gpu-{gpu}",
        "attributes": {**_attributes(node, gpu, "gpu"), "uuid": {"string": node.uuid(gpu)}},
        "capacity": {"memory": {"value": f"{node.profile.memory_gib}Gi"}},
    }
    if counted:
        everything = next(_counters(node, gpu))
        body["consumesCounters"] = [{"counterSet": everything["name"], "counters": everything["counters"]}]
    return _published(body, "gpu", gpu, None, taints)


def _vfio(node: SimulatedNode, gpu: int, taints: list[dict[str, Any]]) -> Published:
    body = {
        "name": f"gpu-vfio-{gpu}",
        "attributes": {**_attributes(node, gpu, "vfio"), "uuid": {"string": node.uuid(gpu)}},
        "capacity": {"addressableMemory": {"value": f"{node.profile.memory_gib}Gi"}},
    }
    return _published(body, "vfio", gpu, None, taints)


def _static_partition(
    node: SimulatedNode, gpu: int, made: tuple[str, int, int, int], taints: list[dict[str, Any]]
) -> Published:
    uuid, start, slices_, memory = made
    mig = next(m for m in node.profile.mig if m.slices == slices_ and m.memory_mib == memory)
    return _partition(node, gpu, mig, start, taints, uuid=uuid)


def _partition(
    node: SimulatedNode,
    gpu: int,
    mig: MigProfile,
    start: int,
    taints: list[dict[str, Any]],
    *,
    uuid: str | None = None,
    consumes: bool = False,
) -> Published:
    """A dynamic partition has no UUID before it is prepared."""
    attributes = {
        **_attributes(node, gpu, "mig"),
        "profile": {"string": mig.profile},
        "parentUUID": {"string": node.uuid(gpu)},
    }
    if uuid is not None:
        attributes["uuid"] = {"string": uuid}
    capacity = {name: {"value": str(n)} for name, n in zip(ENGINES, mig.engines, strict=True)}
    capacity |= {"multiprocessors": {"value": str(mig.multiprocessors)}, "memory": {"value": f"{mig.memory_mib}Mi"}}
    for at in range(start, start + mig.span):
        capacity[f"memorySlice{at}"] = {"value": "1"}
    body: dict[str, Any] = {
        "name": f"gpu-{gpu}-mig-{mig.id}-{start}-{mig.span}",
        "attributes": attributes,
        "capacity": capacity,
    }
    if consumes:
        used = {_counter_name(name): value for name, value in capacity.items()}
        body["consumesCounters"] = [{"counterSet": _counter_set(gpu), "counters": used}]
    return _published(body, "mig", gpu, (mig, start), taints)


def _published(
    body: dict[str, Any], kind: str, gpu: int, mig: tuple[MigProfile, int] | None, taints: Sequence[Mapping[str, Any]]
) -> Published:
    if taints:
        body["taints"] = list(taints)
    return Published(body["name"], kind, body, gpu, mig)


def _taints(gpu: int, faults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As the health gate sets them: NoSchedule, never NoExecute."""
    found = []
    if gpu in faults.get("lost", ()):
        found.append({"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"})
    xids = [code for _, on, code in faults.get("xids", ()) if on == gpu and code not in APPLICATION_XIDS]
    if xids:
        found.append({"key": "gpu.nvidia.com/xid", "value": str(xids[-1]), "effect": "NoSchedule"})
    return found


def _counters(node: SimulatedNode, only: int | None = None) -> Iterator[dict[str, Any]]:
    """One counter set a GPU: what its largest profile has, one counter for each memory slice."""
    largest = max(node.profile.mig, key=lambda mig: mig.slices)
    counters = {_counter_name(name): {"value": str(n)} for name, n in zip(ENGINES, largest.engines, strict=True)}
    counters["multiprocessors"] = {"value": str(largest.multiprocessors)}
    counters["memory"] = {"value": f"{node.profile.memory_gib}Gi"}
    counters |= {f"memory-slice-{at}": {"value": "1"} for at in range(largest.span)}
    for gpu in range(node.profile.gpus) if only is None else (only,):
        yield {"name": _counter_set(gpu), "counters": counters}


def _counter_set(gpu: int) -> str:
    return f"gpu-{gpu}-counter-set"


def _counter_name(capacity: str) -> str:
    """Counters are named as DNS labels, capacities in camel case."""
    if capacity.startswith("memorySlice"):
        return f"memory-slice-{capacity.removeprefix('memorySlice')}"
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in capacity)


def _version(text: str) -> str:
    """As semantic versions are written: three numbers, no leading zeros."""
    numbers = [str(int(part)) for part in text.split(".")]
    return ".".join([*numbers, "0", "0"][:3])
