"""One simulated machine on disk: the file the NVML library reads, and the faults in it.

A line a fact, so that the C side needs no parser to speak of: `gpu`, `name`, `fabric`, `platform`, `link`,
`ancestor`, `rows`, `mig`, `xid`, `hang`, `init`. Files are replaced in one step; the library reads them
again when they change. Any process that knows the folder may inject a fault.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from ray_dra.simulated.profile import CLIQUE_ID, MigProfile, SimulatedNode, cluster_uuid
from ray_dra.translate.names import SIMULATED_NVML_VARIABLE

DRIVER_VERSION = "580.65.06"
GPU, SWITCH = 0, 2  # nvmlIntNvLinkDeviceType_t


class Machine:
    """A simulated machine in `folder`.

    Faults, all undone by `heal()`: `link_down`, `xid`, `fabric`, `lose`, `hang`, `missing`, `recovery`, `mig`,
    `duplicate_uuid`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "machine.txt"
        self.node = SimulatedNode.model_validate_json((folder / "node.json").read_text())

    @classmethod
    def create(cls, folder: Path, node: SimulatedNode) -> Machine:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "node.json").write_text(node.model_dump_json())
        (folder / "faults.json").write_text("{}")
        machine = cls(folder)
        machine._write({})
        return machine

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs beside LD_LIBRARY_PATH to see this machine."""
        return {SIMULATED_NVML_VARIABLE: str(self.file)}

    # -- faults

    def link_down(self, gpu: int, link: int | None = None) -> None:
        """One link goes down, or all of a GPU's."""
        with self._faults() as faults:
            down = faults.setdefault("links", [])
            down += [[gpu, n] for n in ([link] if link is not None else range(36))]

    def xid(self, gpu: int, code: int) -> None:
        """The driver reports an XID event."""
        with self._faults() as faults:
            faults["xid_count"] = faults.get("xid_count", 0) + 1
            faults.setdefault("xids", []).append([faults["xid_count"], gpu, code])

    def fabric(
        self, gpu: int, *, state: int = 3, status: int = 0, health_mask: int = 0xAA, health_summary: int = 1
    ) -> None:
        """A GPU's fabric registration changes (2: in progress, 3: completed)."""
        with self._faults() as faults:
            faults.setdefault("fabric", {})[str(gpu)] = [state, status, health_mask, health_summary]

    def lose(self, gpu: int) -> None:
        """The GPU falls off the bus."""
        with self._faults() as faults:
            faults.setdefault("lost", []).append(gpu)

    def recovery(self, gpu: int, action: int) -> None:
        """The driver asks for a recovery action (5: recover the IMEX domain)."""
        with self._faults() as faults:
            faults.setdefault("recovery", {})[str(gpu)] = action

    def mig(self, gpu: int, partitions: int = 7) -> None:
        """MIG mode is on, with so many 1g partitions."""
        with self._faults() as faults:
            faults.setdefault("mig", {})[str(gpu)] = partitions

    # -- MIG partitions, which the simulated DRA driver makes and removes

    def partition(self, gpu: int, profile: MigProfile, start: int) -> str:
        """Make a partition, where it is not there yet; its UUID."""
        uuid = self.partition_uuid(gpu, profile, start)
        with self._faults() as faults:
            faults.setdefault("partitions", {})[uuid] = [gpu, start, profile.slices, profile.memory_mib]
        return uuid

    def partition_uuid(self, gpu: int, profile: MigProfile, start: int) -> str:
        return f"MIG-{uuid5(NAMESPACE_OID, f'{self.node.uuid(gpu)}/{profile.id}/{start}')}"

    def unpartition(self, uuid: str) -> None:
        with self._faults() as faults:
            faults.get("partitions", {}).pop(uuid, None)

    def read_faults(self) -> dict[str, Any]:
        """What is wrong with the machine now, as written by the methods above."""
        with open(self.folder / "faults.json") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return dict(json.load(file))

    # -- more faults

    def hang(self) -> None:
        """Every driver call hangs."""
        with self._faults() as faults:
            faults["hang"] = True

    def missing(self) -> None:
        """nvmlInit fails: the driver is not loaded."""
        with self._faults() as faults:
            faults["init"] = 9

    def duplicate_uuid(self, gpu: int, of: int) -> None:
        """NVML lies: two GPUs with one UUID."""
        with self._faults() as faults:
            faults.setdefault("uuid", {})[str(gpu)] = self.node.uuid(of)

    def heal(self) -> None:
        """All faults end; past XIDs stay past."""
        with self._faults() as faults:
            kept: dict[str, Any] = {name: faults[name] for name in ("xid_count", "partitions") if name in faults}
            faults.clear()
            faults.update(kept)

    @contextmanager
    def _faults(self) -> Iterator[dict[str, Any]]:
        with open(self.folder / "faults.json", "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            faults = json.load(file)
            yield faults
            file.seek(0)
            file.truncate()
            json.dump(faults, file)
            self._write(faults)

    # -- the file

    def _write(self, faults: dict[str, Any]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(self._lines(faults)) + "\n")
        os.replace(new, self.file)

    def _lines(self, faults: dict[str, Any]) -> Iterator[str]:
        profile = self.node.profile
        down = {(g, n) for g, n in faults.get("links", [])}
        partitions = faults.get("partitions", {})
        yield f"driver {DRIVER_VERSION}"
        yield f"hang {int(faults.get('hang', False))}"
        yield f"init {faults.get('init', 0)}"
        for sequence, gpu, code in faults.get("xids", []):
            yield f"xid {sequence} {gpu} {code}"
        for gpu in range(profile.gpus):
            memory = profile.memory_gib << 30
            uuid = faults.get("uuid", {}).get(str(gpu), self.node.uuid(gpu))
            numa = profile.numa[gpu] if profile.numa else -1
            lost = int(gpu in faults.get("lost", []))
            recovery = faults.get("recovery", {}).get(str(gpu), 0)
            yield (
                f"gpu {gpu} {uuid} {_address(_bus(gpu))} {profile.pci_device_id:x} {numa} {memory} 0 {lost} {recovery}"
            )
            yield f"name {gpu} {profile.product}"
            yield f"capability {gpu} {profile.compute_capability}"
            yield f"rows {gpu} 0 0 0 0"
            if profile.fabric != "none":
                yield self._fabric_line(gpu, faults)
            if self.node.tray is not None:
                rack = abs(hash_of(self.node.rack or "")) % 10**10
                yield f"platform {gpu} {rack:010d} {self.node.tray + 1} {self.node.tray} 1 {gpu + 1}"
            elif profile.fabric == "box":  # as an H200 answers with driver 580: the call succeeds, and says nothing
                yield f"platform {gpu} - 0 0 0 {gpu + 1}"
            for link, (remote, bus) in enumerate(self._links(gpu)):
                yield f"link {gpu} {link} {int((gpu, link) not in down)} {remote} {_address(bus)}"
            for other in range(profile.gpus):
                yield f"ancestor {gpu} {other} {self._ancestor(gpu, other)}"
            for k in range(faults.get("mig", {}).get(str(gpu), 0)):
                yield f"mig {gpu} {k} {k + 7} 0 MIG-{self.node.uuid(gpu)[4:]}-{k} 1 {profile.memory_gib * 128}"
            made = sorted((start, mig, *rest) for mig, (on, start, *rest) in partitions.items() if on == gpu)
            for k, (start, mig, slices, memory) in enumerate(made):
                yield f"mig {gpu} {k} {start + 7} 0 {mig} {slices} {memory}"

    def _fabric_line(self, gpu: int, faults: dict[str, Any]) -> str:
        rack = self.node.rack
        cluster = cluster_uuid(rack).hex if rack is not None else "0" * 32
        clique = CLIQUE_ID if rack is not None else 0
        state, status, mask, summary = faults.get("fabric", {}).get(str(gpu), [3, 0, 0xAA, 1])
        return f"fabric {gpu} {state} {status} {clique} {cluster} {mask:x} {summary}"

    def _links(self, gpu: int) -> list[tuple[int, tuple[int, int, int]]]:
        """(remote type, remote PCI address) of each of a GPU's links."""
        nvlink = self.node.profile.nvlink
        if nvlink.kind == "direct":
            row = nvlink.matrix[gpu]
            return [(GPU, _bus(other)) for other, n in enumerate(row) for _ in range(int(n, 36))]
        if nvlink.kind == "switch" and gpu not in nvlink.without:
            return [(SWITCH, (0, 0xC0 + s, 0)) for s, n in enumerate(nvlink.switches) for _ in range(n)]
        return []

    def _ancestor(self, a: int, b: int) -> int:
        profile = self.node.profile
        if a == b:
            return 0
        if any(a in group and b in group for group in profile.pcie_switches):
            return 10
        if profile.numa and profile.numa[a] != profile.numa[b]:
            return 50
        return 40


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    value = 0
    for char in text:
        value = (value * 131 + ord(char)) & 0xFFFFFFFF
    return value


def _bus(gpu: int) -> tuple[int, int, int]:
    return (0, 0x10 + gpu, 0)


def _address(bus: tuple[int, int, int]) -> str:
    return f"{bus[0]:x}:{bus[1]:x}:{bus[2]:x}"
