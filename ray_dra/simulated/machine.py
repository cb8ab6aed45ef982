"""One simulated machine on disk: the files the NVML library reads, and the faults in it.

A line a fact, so that the C side needs no parser to speak of: `gpu`, `name`, `fabric`, `platform`, `link`,
`ancestor`, `rows`, `profile`, `product`, `settings`, `seconds`, `in_use`, `xid`, `hang`, `init` in `machine.txt`, which
this module alone writes, and MIG's in `mig.txt`, which the library writes, too (`mig` has its lines). Files are
replaced in one step; the library reads them again when they change. Any process that knows the folder may inject a
fault.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from ray_dra.errors import SimulationError
from ray_dra.simulated.mig import MigState, Part, from_text, to_text
from ray_dra.simulated.profile import CLIQUE_ID, MigProfile, SimulatedNode, cluster_uuid
from ray_dra.translate.names import SIMULATED_NVML_VARIABLE

DRIVER_VERSION = "580.65.06"
CUDA_DRIVER = 13000  # 13.0, as NVML counts
GPU, SWITCH = 0, 2  # nvmlIntNvLinkDeviceType_t
TESLA, NVIDIA = 2, 14  # nvmlBrandType_t
ARCHITECTURES = {"Volta": 5, "Turing": 6, "Ampere": 7, "Ada Lovelace": 8, "Hopper": 9, "Blackwell": 10}
ADDRESSING = ("None", "HMM", "ATS")  # nvmlDeviceAddressingModeType_t
EXCLUSIVE_PROCESS = 3  # nvmlComputeMode_t
KEPT = ("xid_count", "seconds", "sharing")  # in the file of the faults, but no faults
WHOLE_GPU = 0xFFFFFFFF  # no instance: the event is of the whole GPU


class Machine:
    """A simulated machine in `folder`.

    Faults, all undone by `heal()`: `link_down`, `xid`, `fabric`, `lose`, `hang`, `missing`, `recovery`, `part_in_use`,
    `duplicate_uuid`. MIG is no fault, and outlives them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "machine.txt"
        self._mig_file = folder / "mig.txt"
        self.node = SimulatedNode.model_validate_json((folder / "node.json").read_text())

    @classmethod
    def create(cls, folder: Path, node: SimulatedNode) -> Machine:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "node.json").write_text(node.model_dump_json())
        (folder / "faults.json").write_text("{}")
        (folder / "mig.txt").unlink(missing_ok=True)
        machine = cls(folder)
        machine._write({})
        return machine

    @classmethod
    def kept(cls, folder: Path, node: SimulatedNode) -> Machine:
        """The machine of an earlier run where it is the same one, so that partitions and faults outlive it; else a new
        one."""
        if (folder / "node.json").exists():
            machine = cls(folder)
            if machine.node == node:
                return machine
        return cls.create(folder, node)

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

    def xid(self, gpu: int, code: int, part: Part | None = None) -> None:
        """The driver reports an XID event of the whole GPU, or of one part."""
        instances = [part.gpu_instance, part.compute_instance] if part is not None else []
        with self._faults() as faults:
            faults["xid_count"] = faults.get("xid_count", 0) + 1
            faults.setdefault("xids", []).append([faults["xid_count"], gpu, code, *instances])

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

    def part_in_use(self, uuid: str) -> None:
        """A client still uses the part, so that it cannot be destroyed."""
        with self._faults() as faults:
            faults.setdefault("in_use", []).append(uuid)

    # -- MIG

    def mig(self, gpu: int, *profiles: str) -> tuple[Part, ...]:
        """As an administrator: MIG mode on, a reset where it needs one, and parts at the first places that fit."""
        self.mig_mode(gpu, True)
        self.reset(gpu)
        return tuple(self._first_fit(gpu, self.node.profile.mig_profile(name)) for name in profiles)

    def mig_state(self) -> MigState:
        try:
            return from_text(self._mig_file.read_text())
        except FileNotFoundError:
            return MigState()

    def mig_mode(self, gpu: int, on: bool) -> None:
        """As NVML's call: at once, or on Ampere with the GPU's next `reset`. Raises SimulationError."""
        if not self.node.profile.mig:
            raise SimulationError("This GPU has no MIG.", place=self.node.profile.product)
        now = not self.node.profile.resets_for_mig
        self._change_mig(lambda state: state.with_mode(gpu, on, now=now))

    def reset(self, gpu: int) -> None:
        """A GPU reset: a change of MIG mode that waited for it is made."""
        self._change_mig(lambda state: state.with_mode(gpu, gpu in state.pending, now=True))

    def create_part(self, gpu: int, profile: MigProfile, start: int) -> Part:
        """A part with a new UUID. Raises SimulationError, as the hardware refuses."""
        time.sleep(self.seconds("create_part"))
        uuid = f"MIG-{uuid4()}"

        def make(state: MigState) -> MigState:
            return state.with_part(self.node.profile, gpu, profile, start, uuid)[0]

        found = self._change_mig(make).find(gpu, profile.id, start)
        assert found is not None
        return found

    def destroy_part(self, part: Part) -> None:
        """Nothing to do is no error. Raises SimulationError while a client uses it."""
        if part not in self.mig_state().parts:
            return
        if part.uuid in self.read_faults().get("in_use", ()):
            raise SimulationError("In use by another client.", place=f"GPU {part.gpu}", wanted=part.uuid)
        time.sleep(self.seconds("destroy_part"))
        self._change_mig(lambda state: state.without(part))

    def _first_fit(self, gpu: int, profile: MigProfile) -> Part:
        for start in profile.starts[:-1]:
            try:
                return self.create_part(gpu, profile, start)
            except SimulationError:
                continue
        return self.create_part(gpu, profile, profile.starts[-1])

    def _change_mig(self, change: Callable[[MigState], MigState]) -> MigState:
        with open(self.folder / "mig.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = change(self.mig_state())
            new = self._mig_file.with_suffix(".new")
            new.write_text(to_text(state))
            os.replace(new, self._mig_file)
        return state

    def read_faults(self) -> dict[str, Any]:
        """What is wrong with the machine now, as written by the methods above."""
        with open(self.folder / "faults.json") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return dict(json.load(file))

    # -- how it is set, and how long it takes

    def take_seconds(self, *, create_part: float = 0.0, destroy_part: float = 0.0, mps_daemon: float = 0.0) -> None:
        """How long each takes from now on (hardware: about a second for a part, 7 to 14 for an MPS daemon)."""
        with self._faults() as faults:
            faults["seconds"] = {"create_part": create_part, "destroy_part": destroy_part, "mps_daemon": mps_daemon}

    def seconds(self, what: str) -> float:
        return float(self.read_faults().get("seconds", {}).get(what, 0.0))

    def share_gpu(self, gpu: int, *, time_slice: str = "Default", exclusive: bool = False) -> None:
        """Set the GPU's time slice, and whether one process alone may use it (the MPS daemon does, for its clients)."""
        with self._faults() as faults:
            faults.setdefault("sharing", {})[str(gpu)] = [time_slice, exclusive]

    def gpu_sharing(self, gpu: int, faults: Mapping[str, Any] | None = None) -> tuple[str, bool]:
        """The GPU's time slice, and whether one process alone may use it."""
        found = self.read_faults() if faults is None else faults
        time_slice, exclusive = found.get("sharing", {}).get(str(gpu), ("Default", False))
        return str(time_slice), bool(exclusive)

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
            kept: dict[str, Any] = {name: faults[name] for name in KEPT if name in faults}
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
        yield f"driver {DRIVER_VERSION}"
        yield f"hang {int(faults.get('hang', False))}"
        yield f"init {faults.get('init', 0)}"
        brand = TESLA if profile.product.startswith("Tesla") else NVIDIA
        addressing = ADDRESSING.index(profile.addressing) if profile.addressing else -1
        yield f"product {CUDA_DRIVER} {ARCHITECTURES[profile.architecture]} {brand} {addressing}"
        seconds = faults.get("seconds", {})
        yield f"seconds {seconds.get('create_part', 0.0)} {seconds.get('destroy_part', 0.0)}"
        for part in faults.get("in_use", []):
            yield f"in_use {part}"
        for mig in profile.mig:
            numbers = [
                mig.profile,
                mig.index,
                mig.id,
                mig.slices,
                mig.most,
                mig.multiprocessors,
                *mig.engines,
                mig.memory_mib,
            ]
            yield " ".join(map(str, ["profile", *numbers, mig.span, *mig.starts]))
        for sequence, gpu, code, *instances in faults.get("xids", []):
            gi, ci = instances or (WHOLE_GPU, WHOLE_GPU)
            yield f"xid {sequence} {gpu} {code} {gi} {ci}"
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
            module = gpu + 1 if profile.nvlink.kind == "switch" or profile.fabric != "none" else 0
            yield f"settings {gpu} {module} {EXCLUSIVE_PROCESS if self.gpu_sharing(gpu, faults)[1] else 0}"
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
