"""Machine profiles: readable YAML, opened by a drawing, and the simulated nodes they describe."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ray_dra.errors import InvalidAddress, SimulationError, shown

HEAD_ADDRESS = "127.0.0.2"  # of the embedded cluster; Ray replaces 127.0.0.1 by an address that others can reach
MAX_NODES = 1024
CLIQUE_ID = 32766  # a common default; the cluster UUID is what tells racks apart
_SPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "ray-dra.io")


class NvLink(BaseModel):
    """`direct`: `matrix` gives the links between each two GPUs. `switch`: `switches` gives the links from each
    GPU to each switch; GPUs in `without` have none."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["none", "direct", "switch"] = "none"
    matrix: list[str] = []
    switches: list[int] = []
    without: list[int] = []


class MigProfile(BaseModel):
    """One kind of MIG partition: its compute slices, the memory slices it spans from any of `starts`, and its part of
    the GPU. `engines` counts copy engines, decoders, encoders, JPEG engines and optical flow accelerators."""

    model_config = ConfigDict(extra="forbid")
    profile: str
    id: int
    slices: int
    span: int
    starts: list[int]
    memory_mib: int
    multiprocessors: int
    engines: tuple[int, int, int, int, int]

    @property
    def media(self) -> bool:
        """Whether it has the GPU's media extensions, of which there is one set."""
        return self.profile.endswith("+me")

    @property
    def most(self) -> int:
        """How many of it a GPU holds."""
        return 1 if self.media else len(self.starts)

    @property
    def index(self) -> int:
        """NVML's number of the kind of GPU instance, the same on all GPUs (`id` is the product's own)."""
        if self.slices == 1 and (self.media or self.span > 1):
            return 7 if self.media else 9
        return {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[self.slices]


class Profile(BaseModel):
    """One kind of node, or (with `cluster`) a mix of them."""

    model_config = ConfigDict(extra="forbid")
    name: str
    about: str
    nodes: int = Field(default=2, ge=1)
    prefix: str = ""
    product: str = ""
    pci_device_id: int = 0
    architecture: str = ""
    compute_capability: str = "0.0"
    gpus: int = 0
    memory_gib: int = 0
    cpus: int = 16
    addressing: Literal["", "HMM", "ATS", "None"] = ""  # how the GPU sees the CPU's memory, as NVML names it
    numa: list[int] = []
    pcie_switches: list[list[int]] = []
    nvlink: NvLink = NvLink()
    fabric: Literal["none", "box", "rack"] = "none"
    trays: int = 1
    mig: list[MigProfile] = []
    cluster: list[Mix] = []

    @property
    def resets_for_mig(self) -> bool:
        """MIG mode changes with a GPU reset alone: Ampere."""
        return self.architecture == "Ampere"

    def pcie_root(self, gpu: int) -> int:
        """The number of the PCIe bus on which the GPU's root complex begins: one a switch, or else one a NUMA node."""
        group = next((at for at, members in enumerate(self.pcie_switches) if gpu in members), None)
        return 0x10 * (group if group is not None else (self.numa[gpu] if self.numa else 0))

    def mig_profile(self, key: int | str) -> MigProfile:
        """By its id or its name. Raises SimulationError."""
        for mig in self.mig:
            if key in (mig.id, mig.profile):
                return mig
        raise SimulationError(
            "This machine has no such MIG profile.",
            place=self.name,
            wanted=str(key),
            available=", ".join(mig.profile for mig in self.mig) or "no MIG",
        )


class Mix(BaseModel):
    model_config = ConfigDict(extra="forbid")
    profile: str
    nodes: int
    cliques: int | None = None


class SimulatedNode(BaseModel):
    """One machine to simulate. `rack` and `tray` are None for a box of its own."""

    name: str
    profile: Profile
    rack: str | None = None
    tray: int | None = None

    def uuid(self, gpu: int) -> str:
        """The same for the same node and GPU every time, so that plans can be compared."""
        return f"GPU-{uuid.uuid5(_SPACE, f'{self.profile.name}/{self.name}/{gpu}')}"

    @property
    def clique(self) -> str | None:
        """`<ClusterUUID>.<CliqueId>` of a multi-node clique, as the fabric reports it; None for a box."""
        return None if self.rack is None else f"{cluster_uuid(self.rack)}.{CLIQUE_ID}"


def machine_address(at: int) -> str:
    """The address of the embedded cluster's machine number `at`, each its own, as libraries count machines by them."""
    return f"127.0.{(at + 3) >> 8}.{(at + 3) & 255}"


@lru_cache
def profile_names() -> tuple[str, ...]:
    folder = resources.files("ray_dra.simulated") / "profiles"
    return tuple(sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")))


def profile_text(name: str) -> str:
    """The profile's YAML as shipped, drawing included. Raises InvalidAddress for an unknown name."""
    return profile_bytes(name).decode()


def profile_bytes(name: str) -> bytes:
    """The profile's file. Raises InvalidAddress for an unknown name."""
    if name not in profile_names():
        raise InvalidAddress(
            f"There is no profile {name!r}.", place="profile", wanted=name, available=", ".join(profile_names())
        )
    return (resources.files("ray_dra.simulated") / "profiles" / f"{name}.yaml").read_bytes()


def drawing(name: str) -> str:
    """The ASCII drawing at the top of a profile."""
    lines = []
    for line in profile_text(name).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[2:])
    return "\n".join(lines)


@lru_cache
def load_profile(name: str) -> Profile:
    text = profile_text(name)
    try:
        data: Mapping[str, Any] = yaml.safe_load(text)
        return Profile(name=name, **data)
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise SimulationError(f"The profile {name} does not read.", place=f"{name}.yaml") from error


def simulated_nodes(name: str, *, nodes: int | None = None, cliques: int | None = None) -> list[SimulatedNode]:
    """The nodes of a simulated cluster, in order.

    Args:
        nodes: how many; None: the profile's own number.
        cliques: split the nodes of a rack-scale profile over so many racks, as evenly as can be; None: as
            few as hold them.

    Raises:
        InvalidAddress: more racks than nodes, or `cliques` for machines that are no racks.
    """
    profile = load_profile(name)
    if profile.cluster:
        if nodes is not None or cliques is not None:
            raise InvalidAddress(
                f"{name} is a fixed mix of machines.", place="nodes, cliques", available="leave them out"
            )
        return [
            n for mix in profile.cluster for n in simulated_nodes(mix.profile, nodes=mix.nodes, cliques=mix.cliques)
        ]
    count = profile.nodes if nodes is None else nodes
    if not 1 <= count <= MAX_NODES:
        raise InvalidAddress(
            "So many machines are not simulated.", place="nodes", wanted=shown(count), available=f"1 to {MAX_NODES}"
        )
    prefix = profile.prefix or name
    if profile.fabric != "rack":
        if cliques is not None:
            raise InvalidAddress(
                f"{name} has no multi-node cliques.", place="cliques", wanted=shown(cliques), available="leave it out"
            )
        return [SimulatedNode(name=f"{prefix}-{i}", profile=profile) for i in range(count)]
    racks = cliques if cliques is not None else -(-count // profile.trays)
    if racks > count or count > racks * profile.trays:
        raise InvalidAddress(
            "So many nodes do not fit so many cliques.",
            place="cliques",
            wanted=f"{count} nodes in {shown(racks)} cliques",
            available=f"1 to {profile.trays} nodes in each",
        )
    found = []
    for rack in range(racks):
        trays = count // racks + (rack < count % racks)
        for tray in range(trays):
            found.append(
                SimulatedNode(name=f"{prefix}-r{rack}-t{tray:02}", profile=profile, rack=f"{name}/{rack}", tray=tray)
            )
    return found


def cluster_uuid(rack: str) -> uuid.UUID:
    return uuid.uuid5(_SPACE, f"rack/{rack}")


Profile.model_rebuild()
