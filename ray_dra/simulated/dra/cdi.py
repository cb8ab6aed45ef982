"""What a container gets for its devices, as files of the Container Device Interface.

Of NVIDIA's edits these are kept: the devices' names, NVIDIA_VISIBLE_DEVICES, MPS's folder and mounts, IMEX channels.
For device nodes and the driver's libraries the container gets the simulated NVML library, with exactly its devices.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_dra.simulated.dra.configs import ComputeDomainChannelConfig, ComputeDomainDaemonConfig, Config
from ray_dra.simulated.dra.devices import Published
from ray_dra.simulated.dra.sharing import PIPE
from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import SIMULATED_NVML_VARIABLE, SIMULATED_VISIBLE_VARIABLE

IN_CONTAINER = "/run/ray-dra-simulated"
CHANNELS = 2048  # IMEX channels that a driver has
LIBRARY_IN_CONTAINER = f"/usr/lib/{platform.machine()}-linux-gnu/libnvidia-ml.so.1"  # where Debian and Ubuntu look


@dataclass(frozen=True)
class Given:
    """A device of a claim, its UUID, the mounts of its MPS daemon, and the domain of which it is the IMEX daemon."""

    device: Published
    config: Config | None
    uuid: str
    mps: list[dict[str, Any]]
    daemon: tuple[str, str] | None


class Cdi:
    """One driver's files in the container runtime's folder."""

    def __init__(self, driver: str, *, folder: Path, state: Path, machine: Machine, library: Path) -> None:
        self._driver, self._folder, self._state = driver, folder, state
        self._machine, self._library = machine, library
        folder.mkdir(parents=True, exist_ok=True)
        (state / "given").touch()

    def file(self, uid: str) -> Path:
        return self._folder / f"k8s.{self._driver}-claim_{uid}.yaml"

    def write(self, uid: str, given: Iterable[Given]) -> None:
        devices = []
        simulated = False
        for each in given:
            edits = self._edits(each)
            if each.mps:
                edits["env"] = [f"CUDA_MPS_PIPE_DIRECTORY={PIPE}"]
                edits["mounts"] += each.mps
            devices.append({"name": f"{uid}-{each.device.name}", "containerEdits": edits})
            simulated = simulated or each.device.kind in ("gpu", "mig")
        common: dict[str, Any] = {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}
        if simulated:
            common["env"] += [
                f"{SIMULATED_NVML_VARIABLE}={IN_CONTAINER}/machine/{self._machine.file.name}",
                f"{SIMULATED_VISIBLE_VARIABLE}={IN_CONTAINER}/visible",
            ]
            common["mounts"] = [
                # The folder, not the file: a fault replaces the file, and a mount would keep the old one.
                _mount(self._machine.folder, f"{IN_CONTAINER}/machine"),
                _mount(self._library, LIBRARY_IN_CONTAINER),
            ]
        kind = f"k8s.{self._driver}/claim"
        replaced(self.file(uid), {"cdiVersion": "0.5.0", "kind": kind, "containerEdits": common, "devices": devices})

    def _edits(self, given: Given) -> dict[str, Any]:
        device, config, uuid = given.device, given.config, given.uuid
        if isinstance(config, ComputeDomainDaemonConfig) and given.daemon is not None:
            folder = self._state / "domains" / config.domainID
            folder.mkdir(parents=True, exist_ok=True)
            namespace, name = given.daemon
            env = [f"COMPUTE_DOMAIN_UUID={config.domainID}", f"CLIQUE_ID={self._machine.node.clique or ''}"]
            return {
                "env": [*env, f"COMPUTE_DOMAIN_NAME={name}", f"COMPUTE_DOMAIN_NAMESPACE={namespace}"],
                "mounts": [{**_mount(folder, "/imexd"), "options": ["rw", "nosuid", "nodev", "bind"]}],
            }
        if isinstance(config, ComputeDomainChannelConfig):
            folder = self._channels(CHANNELS if config.allocationMode == "All" else 1)
            return {"mounts": [_mount(folder, "/dev/nvidia-caps-imex-channels")]}
        if device.kind == "vfio":
            return {"mounts": [_mount(self._state / "given", f"/dev/vfio/{device.gpu}")]}
        return {"mounts": [_mount(self._state / "given", f"{IN_CONTAINER}/visible/{uuid}")]}

    def _channels(self, count: int) -> Path:
        folder = self._state / f"channels-{count}"
        if not folder.exists():
            new = folder.with_suffix(".new")
            new.mkdir(exist_ok=True)
            for channel in range(count):
                (new / f"channel{channel}").touch()
            new.rename(folder)
        return folder


def replaced(path: Path, content: Any) -> None:
    """Write a file in one step and down to the disk, so that a crash leaves the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        json.dump(content, file)  # which is YAML, too
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def _mount(host: Path, container: str) -> dict[str, Any]:
    return {"hostPath": str(host), "containerPath": container, "options": ["ro", "nosuid", "nodev", "bind"]}
