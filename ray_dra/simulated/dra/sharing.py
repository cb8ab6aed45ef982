"""What a shared GPU is set to on the machine: time slices, and MPS with its daemon's folders and limits.

`prepare` calls it before the container gets anything. No daemon runs: its folders are there, and `control.json` says
what NVIDIA's driver would have told it; a container gets the folders alone, since the limits are the daemon's.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_dra.simulated.dra.configs import Config, GpuConfig, MigDeviceConfig, MpsConfig
from ray_dra.simulated.machine import Machine
from ray_dra.translate.quantity import quantity

PIPE = "/tmp/nvidia-mps"
MIB = 1 << 20


class SharingError(ValueError):
    """The setting cannot be made; the text is for the pod's events."""


def strategy(config: Config | None) -> str:
    """ "TimeSlicing", "MPS", or "" for neither."""
    sharing = getattr(config, "sharing", None)
    return "" if sharing is None else str(sharing.strategy)


def apply(machine: Machine, folder: Path, claim: str, config: Config | None, devices: dict[str, int | None]) -> None:
    """Set what the configuration asks for.

    Args:
        folder: of the driver's MPS daemons.
        devices: uuid and, of a whole GPU, its number, of the devices that the configuration is for.
    """
    gpus = [gpu for gpu in devices.values() if gpu is not None]
    if isinstance(config, GpuConfig | MigDeviceConfig) and config.sharing is not None and strategy(config) == "MPS":
        _start_daemon(machine, folder, claim, config.sharing.mpsConfig, list(devices))
        for gpu in gpus:
            machine.share_gpu(gpu, exclusive=True)
    elif isinstance(config, GpuConfig) and config.sharing is not None:
        slicing = config.sharing.timeSlicingConfig
        for gpu in gpus:
            machine.share_gpu(gpu, time_slice=slicing.interval if slicing is not None else "Default")


def undo(machine: Machine, folder: Path, claim: str, gpus: Iterable[int]) -> None:
    """All of a claim's: the daemons end, the GPUs are set back."""
    for path in folder.glob(f"{claim}-*"):
        shutil.rmtree(path)
    for gpu in gpus:
        if machine.gpu_sharing(gpu) != ("Default", False):
            machine.share_gpu(gpu)


def mounts(folder: Path, claim: str, uuids: Iterable[str]) -> list[dict[str, Any]]:
    """What a container gets of its daemon."""
    daemon = _daemon(folder, claim, uuids)
    return [
        {"hostPath": str(daemon / part), "containerPath": path, "options": ["rw", "nosuid", "nodev", "bind"]}
        for part, path in (("shm", "/dev/shm"), ("pipe", PIPE))
    ]


def _start_daemon(machine: Machine, folder: Path, claim: str, config: MpsConfig | None, uuids: list[str]) -> None:
    daemon = _daemon(folder, claim, uuids)
    if (daemon / "control.json").exists():
        return
    limits = _limits(config, sorted(uuids))
    for part in ("pipe", "shm", "log"):
        (daemon / part).mkdir(parents=True, exist_ok=True)
    (daemon / "shm").chmod(0o1777)  # a tmpfs in NVIDIA's driver, which every user may write to; it is their /dev/shm
    time.sleep(machine.seconds("mps_daemon"))
    settings = {
        "devices": sorted(uuids),
        "threads": None if config is None else config.defaultActiveThreadPercentage,
        "memory": limits,
        "multiUser": bool(config is not None and config.multiUser),
    }
    (daemon / "control.json").write_text(json.dumps(settings))


def _daemon(folder: Path, claim: str, uuids: Iterable[str]) -> Path:
    devices = hashlib.sha256(",".join(sorted(uuids)).encode()).hexdigest()[:5]
    return folder / f"{claim}-{devices}"


def _limits(config: MpsConfig | None, uuids: list[str]) -> dict[str, str]:
    """Of each device by UUID, in whole mebibytes as the daemon is told."""
    if config is None:
        return {}
    found: dict[str, str] = {}
    if config.defaultPinnedDeviceMemoryLimit is not None:
        found = dict.fromkeys(uuids, _mebibytes(config.defaultPinnedDeviceMemoryLimit))
    for key, limit in (config.defaultPerDevicePinnedMemoryLimit or {}).items():
        if key not in uuids and not (key.isdigit() and int(key) < len(uuids)):
            raise SharingError(f"invalid device: {key}")
        found[key if key in uuids else uuids[int(key)]] = _mebibytes(limit)
    return found


def _mebibytes(limit: str | int | float) -> str:
    whole = math.ceil(quantity(limit)) // MIB
    if not whole:
        raise SharingError(f"invalid limit: value set too low: {limit}")
    return f"{whole}M"
