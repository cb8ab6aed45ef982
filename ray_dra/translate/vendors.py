"""What is each vendor's own, in one table: its DRA driver, DeviceClasses and attributes, how a GPU is named in a claim,
and what a clique is. No other file spells such a name (tests/translate/test_vendors.py holds it).

Core knows devices, cliques, products and versions under its own names, and no vendor. A RayCluster's gangs have GPUs of
one vendor, since its workers are copies of one pod template, which has one image. Neighbour: `names.py`, which has the
names that are no vendor's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ray_dra.core.model.device_selector import COMPUTE_CAPABILITY, DRIVER_VERSION, VERSIONS
from ray_dra.translate.names import MIG_PREFIX

PRODUCT, NUMA, BUS = "product", "numa", "pciBusID"  # core's names of attributes that requests do not compare

KUBERNETES = "resource.kubernetes.io"  # prefixes the attributes that all drivers publish alike
BUS_ATTRIBUTE = f"{KUBERNETES}/pciBusID"
NUMA_ATTRIBUTE = f"{KUBERNETES}/numaNode"


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor's names.

    Attributes:
        driver: of GPUs; it prefixes the attributes that are its own.
        device_class: of GPUs. typed: it has GPUs alone; False: claims say the type, too.
        part_class: of parts of GPUs; "" where gangs cannot have any.
        whole, part: values of the attribute `type`.
        identity: the attribute that names a GPU. unique: in the cluster; False: on its node.
        parent, profile: attributes of a part. Where its parent is named as a GPU is (`identity`), parts have no names.
        attributes: of a device -> core's name for it.
        clique_label: of a Node, which says the clique of its GPUs; "" for none.
        joined: products whose GPUs are all joined inside a box, so that each box is a clique.
        passed, passed_class: of GPUs that are passed through to a virtual machine, by their bus ids.
        confidential_mode, confidential_state, confidential_ready: labels of a Node: the mode that its GPUs are to be in
            for confidential machines, the one that they are in, and whether they can be used so.
        count_label: of a Node: how many GPUs it has.
        plugin: the resource that the vendor's device plugin offers, behind the scheduler's back. plugin_part: what
            comes before a part's profile there. plugin_shared: the resource of shares of GPUs there. plugin_older: what
            it was called before, or is with another kernel driver.
        sharing_config: the kind of a claim's configuration that says by what its GPUs are shared; "" for none.
        by_name: of a device that says nothing else, the number of its GPU; named: the GPU of that number.
        numbered: GPUs have numbers in their names; False: they count in the order of their names.
        pci: how the kernel knows GPUs in a container that NVML cannot show; "" where NVML shows them.
        profiles: of parts that can be asked for.
        visible: the variable that says which GPUs a process sees.
    """

    name: str
    driver: str
    device_class: str
    identity: str
    attributes: Mapping[str, str] = field(hash=False)
    joined: re.Pattern[str]
    plugin: str
    whole: str = "gpu"
    part: str = ""
    part_class: str = ""
    typed: bool = True
    unique: bool = True
    parent: str = ""
    profile: str = ""
    profiles: re.Pattern[str] = re.compile(r"(?!)")
    clique_label: str = ""
    plugin_part: str = ""
    plugin_shared: str = ""
    plugin_older: tuple[str, ...] = ()
    sharing_config: str = ""
    by_name: re.Pattern[str] = re.compile(r"(?!)")
    named: str = ""
    numbered: bool = True
    pci: str = ""
    visible: str = "CUDA_VISIBLE_DEVICES"
    passed: str = ""
    passed_class: str = ""
    confidential_mode: str = ""
    confidential_state: str = ""
    confidential_ready: str = ""
    count_label: str = ""

    @property
    def product(self) -> str:
        return next(own for own, ours in self.attributes.items() if ours == PRODUCT)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(filter(None, dict.fromkeys((self.device_class, self.part_class))))

    @property
    def plugins(self) -> tuple[str, ...]:
        return (self.plugin, *self.plugin_older)

    def attribute(self, name: str) -> str:
        """An attribute, or a capacity, by core's name, as CEL has it."""
        theirs = next((own for own, ours in self.attributes.items() if ours == name), name)
        return self.in_cel("attributes", theirs)

    def in_cel(self, kind: str, name: str) -> str:
        """`kind`: attributes or capacity. `name`: with a prefix, or the driver's own."""
        prefix, slash, own = name.rpartition("/")
        return f'device.{kind}["{prefix if slash else self.driver}"].{own}'

    @property
    def nameless(self) -> bool:
        """Whether nothing tells a part from another one of its GPU."""
        return self.parent == self.identity

    def key(self, node: str, identity: str | None) -> str | None:
        """What tells a GPU from all others of the cluster: core's `Device.uuid`. None where the device does not say."""
        return identity if identity is None or self.unique else f"{node}/{identity}"

    def identity_of(self, key: str) -> str:
        """As the driver publishes it, of a key."""
        return key if self.unique else key.rpartition("/")[2]


NVIDIA = Vendor(
    name="NVIDIA",
    driver="gpu.nvidia.com",
    device_class="gpu.nvidia.com",
    part_class="mig.nvidia.com",
    part="mig",
    identity="uuid",
    parent="parentUUID",
    profile="profile",
    profiles=re.compile(r"(?:[1-9]c\.)?[1-9]g\.[1-9][0-9]{0,3}gb(?:[+-][a-z.]{1,16})?"),
    attributes={
        "productName": PRODUCT,
        NUMA_ATTRIBUTE: NUMA,
        BUS_ATTRIBUTE: BUS,
        "cudaComputeCapability": COMPUTE_CAPABILITY,
        "driverVersion": DRIVER_VERSION,
    },
    clique_label="nvidia.com/gpu.clique",  # <ClusterUUID>.<CliqueId>
    # On NVSwitches. Others (PCIe cards, bridged pairs, DGX-1) have no clique, and their links are unknown here.
    joined=re.compile(r"H100 80GB HBM3|H200|H20\b|\bB[23]00|GB[23]00|A100-SXM4|H800$|A800-SXM4"),
    plugin="nvidia.com/gpu",
    plugin_part="nvidia.com/mig-",
    plugin_shared="nvidia.com/gpu.shared",
    sharing_config="GpuConfig",
    # gpu-0-mig-1g10gb-19-0 is a partition of gpu-0, gpu-vfio-0 the same GPU passed through.
    by_name=re.compile(r"^gpu-(?:vfio-)?(\d+)(?:-|$)"),
    named="gpu-{}",
    passed="vfio",
    passed_class="vfio.gpu.nvidia.com",
    confidential_mode="nvidia.com/cc.mode",
    confidential_state="nvidia.com/cc.mode.state",
    confidential_ready="nvidia.com/cc.ready.state",
    count_label="nvidia.com/gpu.count",
)

AMD = Vendor(
    name="AMD",
    driver="gpu.amd.com",
    device_class="gpu.amd.com",
    part_class="gpu.amd.com",
    typed=False,  # it has partitions and GPUs passed through as well
    whole="amdgpu",
    part="amdgpu-partition",
    identity=BUS_ATTRIBUTE,  # of its parts, too
    unique=False,
    parent=BUS_ATTRIBUTE,
    profile="partitionProfile",
    profiles=re.compile(r"(?:dpx|tpx|qpx|cpx)_nps[1-8]"),  # spx is all of a GPU
    attributes={
        "productName": PRODUCT,
        "numaNode": NUMA,
        BUS_ATTRIBUTE: BUS,
        "driverVersion": DRIVER_VERSION,
    },
    # On a board where XGMI joins every two of them. MI250X and older are joined in part, cards by bridges or not.
    joined=re.compile(r"(?:^|[ _])MI3(?:00[AX]|08X|25X|50X|55X)(?:[ _]|$)"),
    plugin="amd.com/gpu",
    plugin_part="amd.com/",
    pci="0x1002",
    visible="HIP_VISIBLE_DEVICES",
)

INTEL = Vendor(
    name="Intel",
    driver="gpu.intel.com",
    device_class="gpu.intel.com",
    typed=False,  # it has virtual functions as well
    identity=BUS_ATTRIBUTE,
    unique=False,
    attributes={"model": PRODUCT, BUS_ATTRIBUTE: BUS},  # no version: its driver says the kernel driver's name alone
    joined=re.compile(r"(?!)"),  # nothing published tells which cards a bridge joins
    plugin="gpu.intel.com/xe",
    plugin_older=("gpu.intel.com/i915",),
    numbered=False,  # 0000-03-00-0-0x56c0: the bus id and the product's
    pci="0x8086",
)

VENDORS = {vendor.driver: vendor for vendor in (NVIDIA, AMD, INTEL)}
"""By driver."""

CLASSES = tuple(name for vendor in VENDORS.values() for name in vendor.classes)
"""DeviceClasses that a request may name."""

PLUGINS = tuple(name for vendor in VENDORS.values() for name in vendor.plugins)
CLIQUE_LABELS = tuple(vendor.clique_label for vendor in VENDORS.values() if vendor.clique_label)
COMPARED = frozenset(own for vendor in VENDORS.values() for own, ours in vendor.attributes.items() if ours in VERSIONS)
"""Attributes that claims compare as versions."""


def part_resources(profiles: Iterable[str]) -> dict[str, float]:
    """Ray's resources of a raylet with parts of these profiles: how many there are of each. Of a profile that is not
    MIG's there is none: each part is a GPU, and no more."""
    counted = Counter(profile for profile in profiles if NVIDIA.profiles.fullmatch(profile))
    return {MIG_PREFIX + profile: float(count) for profile, count in counted.items()}
