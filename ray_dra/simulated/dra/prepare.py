"""Readying claims on a node: which devices, with which configuration, and what the container gets by CDI.

Idempotent over restarts of the driver and of the kubelet by a checkpoint: a claim is written there before anything is
done for it and marked when all is done. A device that is in one claim's checkpoint is refused to another. Neighbours:
`kubelet` calls it, `domains` says when an IMEX channel may be given.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ray_dra.simulated.dra.configs import (
    FOR_KIND,
    BadConfig,
    ComputeDomainChannelConfig,
    ComputeDomainDaemonConfig,
    Config,
    decode,
)
from ray_dra.simulated.dra.devices import Published, twin
from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import SIMULATED_NVML_VARIABLE, SIMULATED_VISIBLE_VARIABLE

IN_CONTAINER = "/run/ray-dra-simulated"
CHANNELS = 2048  # IMEX channels that a driver has
LIBRARY_IN_CONTAINER = f"/usr/lib/{platform.machine()}-linux-gnu/libnvidia-ml.so.1"  # where Debian and Ubuntu look


class PrepareError(Exception):
    """The claim cannot be readied; the text goes to the pod's events."""


@dataclass(frozen=True)
class Prepared:
    """One device of a readied claim: what the kubelet is told, and what has to be undone. `cdi` is None where the
    container gets nothing for it, as for an IMEX channel on a node without a fabric; `admin`: by an administrator's
    access, beside whoever has the device."""

    request: str
    pool: str
    device: str
    cdi: str | None
    partition: str | None = None
    domain: str | None = None
    admin: bool = False


class Domains(Protocol):
    """What a node does for ComputeDomains."""

    def enter(self, domain: str, namespace: str) -> bool:
        """Join this node to the domain, and wait until it is ready; whether there is a channel to give (a node
        without a multi-node fabric has none). PrepareError otherwise."""

    def leave(self, domain: str) -> None:
        """No claim on this node uses the domain any more."""


class Preparer:
    """One driver's claims on one node. Thread-safe.

    Args:
        folder: of the checkpoint; survives restarts.
        cdi: where the container runtime looks for CDI files.
        published: what the driver publishes now.
    """

    def __init__(
        self,
        driver: str,
        node: str,
        *,
        folder: Path,
        cdi: Path,
        machine: Machine,
        library: Path,
        published: Callable[[], Iterable[Published]],
        gates: frozenset[str] = frozenset(),
        domains: Domains | None = None,
    ) -> None:
        self.driver, self.node = driver, node
        self._file, self._cdi = folder / "checkpoint.json", cdi
        self._machine, self._library = machine, library
        self._published, self._gates, self._domains = published, gates, domains
        self._lock = threading.Lock()
        self._state = folder
        for path in (folder, cdi):
            path.mkdir(parents=True, exist_ok=True)
        (folder / "given").touch()
        self._claims: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            self._claims = json.loads(self._file.read_text())["claims"]

    def claims(self) -> dict[str, tuple[str, str]]:
        """(namespace, name) of every claim in the checkpoint, by uid."""
        with self._lock:
            return {uid: (entry["namespace"], entry["name"]) for uid, entry in self._claims.items()}

    def entries(self) -> list[dict[str, Any]]:
        """The checkpoint's entries."""
        with self._lock:
            return list(self._claims.values())

    def prepare(self, claim: Mapping[str, Any]) -> list[Prepared]:
        """Ready an allocated ResourceClaim; the same answer every time. Raises PrepareError."""
        meta = claim["metadata"]
        with self._lock:
            entry = self._claims.get(meta["uid"])
            if entry is not None and entry["state"] == "completed":
                prepared = [Prepared(**device) for device in entry["devices"]]
                if not self._cdi_file(meta["uid"]).exists():  # /var/run is lost with a reboot
                    self._write_cdi(meta["uid"], prepared, self._chosen(claim))
                return prepared
        chosen = self._chosen(claim)
        results = claim["status"]["allocation"]["devices"].get("results") or ()
        admin = {result["device"] for result in results if result.get("adminAccess")}
        channels = {
            config.domainID: self._enter(config.domainID, meta["namespace"])
            for _, _, config in chosen
            if isinstance(config, ComputeDomainChannelConfig)
        }
        with self._lock:
            self._refuse_taken(meta["uid"], [each for each in chosen if each[1].name not in admin])
            self._claims[meta["uid"]] = {
                "namespace": meta["namespace"],
                "name": meta["name"],
                "state": "started",
                "devices": [asdict(self._prepared(meta["uid"], each, channels, admin)) for each in chosen],
            }
            self._save()
            for _, device, _ in chosen:
                if device.mig is not None and self._dynamic(device):
                    self._machine.partition(device.gpu, *device.mig)
            prepared = [self._prepared(meta["uid"], each, channels, admin) for each in chosen]
            self._write_cdi(meta["uid"], prepared, chosen)
            self._claims[meta["uid"]]["state"] = "completed"
            self._save()
            return prepared

    def unprepare(self, uid: str) -> None:
        """Undo it; nothing to do is no error."""
        with self._lock:
            entry = self._claims.get(uid)
            if entry is None:
                return
            entry["state"] = "started"  # a crash from here on leaves a claim that is made anew, or undone to the end
            self._save()
            self._cdi_file(uid).unlink(missing_ok=True)
            for device in entry["devices"]:
                if device["partition"]:
                    self._machine.unpartition(device["partition"])
            del self._claims[uid]
            self._save()
            used = {d["domain"] for e in self._claims.values() for d in e["devices"]}
            left = {device["domain"] for device in entry["devices"] if device["domain"]} - used
        for domain in left:
            assert self._domains is not None
            self._domains.leave(domain)

    # -- choosing

    def _chosen(self, claim: Mapping[str, Any]) -> list[tuple[str, Published, Config | None]]:
        """(request, device, configuration) of each of this driver's results on this node."""
        allocation = claim.get("status", {}).get("allocation")
        if not allocation:
            raise PrepareError("the claim is not allocated")
        devices = allocation.get("devices", {})
        here = {device.name: device for device in self._published()}
        configs = self._configs(devices.get("config") or ())
        chosen = []
        for result in devices.get("results") or ():
            if result["driver"] != self.driver or result["pool"] != self.node:
                continue
            device = here.get(result["device"])
            if device is None:
                raise PrepareError(f"requested device is not allocatable: {result['device']}")
            chosen.append((result["request"], device, self._config_for(result["request"], device, configs)))
        return chosen

    def _configs(self, entries: Iterable[Mapping[str, Any]]) -> list[tuple[list[str], Config]]:
        """Lowest precedence first: those of the class before those of the claim."""
        ordered = sorted(entries, key=lambda entry: entry.get("source") != "FromClass")
        found = []
        for entry in ordered:
            opaque = entry.get("opaque")
            if opaque is None or opaque["driver"] != self.driver:
                continue
            try:
                found.append((list(entry.get("requests") or ()), decode(opaque["parameters"], self._gates)))
            except BadConfig as error:
                raise PrepareError(str(error)) from error
        return found

    def _config_for(self, request: str, device: Published, configs: list[tuple[list[str], Config]]) -> Config | None:
        """The last that names the request or names none. Requests are compared as whole strings, as NVIDIA's driver
        does: a subrequest `gpus/a` is not meant by `gpus`."""
        for requests, config in reversed(configs):
            fits = FOR_KIND[type(config)] == device.kind
            if request in requests and not fits:
                raise PrepareError(f"cannot apply {type(config).__name__} to request {request}, a {device.kind} device")
            if fits and (not requests or request in requests):
                return config
        if device.kind in ("channel", "daemon"):
            raise PrepareError(f"request {request} of a {device.kind} device carries no ComputeDomain configuration")
        return None

    def _enter(self, domain: str, namespace: str) -> bool:
        if self._domains is None:
            raise PrepareError("this node serves no ComputeDomains")
        return self._domains.enter(domain, namespace)

    def _refuse_taken(self, uid: str, chosen: Iterable[tuple[str, Published, Config | None]]) -> None:
        wanted = {name for _, device, _ in chosen for name in (device.name, twin(device.name)) if name}
        for other, entry in self._claims.items():
            both = wanted & {device["device"] for device in entry["devices"] if not device.get("admin")}
            if other != uid and both:
                raise PrepareError(
                    f"{', '.join(sorted(both))} on {self.node} is prepared for the claim"
                    f" {entry['namespace']}/{entry['name']} (uid {other})"
                )

    # -- what the container gets

    def _dynamic(self, device: Published) -> bool:
        """A partition that exists only once it is prepared has no UUID in its slice."""
        return "uuid" not in device.body["attributes"]

    def _prepared(
        self,
        uid: str,
        chosen: tuple[str, Published, Config | None],
        channels: Mapping[str, bool],
        admin: Collection[str],
    ) -> Prepared:
        request, device, config = chosen
        partition = None
        if device.mig is not None and self._dynamic(device):
            partition = self._machine.partition_uuid(device.gpu, *device.mig)
        domain = config.domainID if isinstance(config, ComputeDomainChannelConfig) else None
        name = None if channels.get(domain or "") is False else f"k8s.{self.driver}/claim={uid}-{device.name}"
        return Prepared(request, self.node, device.name, name, partition, domain, device.name in admin)

    def _cdi_file(self, uid: str) -> Path:
        return self._cdi / f"k8s.{self.driver}-claim_{uid}.json"

    def _write_cdi(
        self,
        uid: str,
        prepared: list[Prepared],
        chosen: list[tuple[str, Published, Config | None]],
    ) -> None:
        devices = []
        for made, (_, device, config) in zip(prepared, chosen, strict=True):
            edits: dict[str, Any] = {}
            if made.cdi is None:
                continue
            if device.kind in ("gpu", "mig", "vfio"):
                seen = made.partition or device.body["attributes"]["uuid"]["string"]
                edits["mounts"] = [_mount(self._state / "given", f"{IN_CONTAINER}/visible/{seen}")]
                edits["env"] = _sharing(config)
            elif isinstance(config, ComputeDomainDaemonConfig):
                edits["env"] = [f"COMPUTE_DOMAIN_UUID={config.domainID}"]
            elif isinstance(config, ComputeDomainChannelConfig):
                folder = self._channels(CHANNELS if config.allocationMode == "All" else 1)
                edits["mounts"] = [_mount(folder, "/dev/nvidia-caps-imex-channels")]
            devices.append({"name": f"{uid}-{device.name}", "containerEdits": edits})
        common: dict[str, Any] = {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}
        if any(device.kind in ("gpu", "mig", "vfio") for _, device, _ in chosen):
            common["env"] += [
                f"{SIMULATED_NVML_VARIABLE}={IN_CONTAINER}/machine/{self._machine.file.name}",
                f"{SIMULATED_VISIBLE_VARIABLE}={IN_CONTAINER}/visible",
            ]
            common["mounts"] = [
                # The folder, not the file: a fault replaces the file, and a mount would keep the old one.
                _mount(self._machine.folder, f"{IN_CONTAINER}/machine"),
                _mount(self._library, LIBRARY_IN_CONTAINER),
            ]
        spec = {
            "cdiVersion": "0.6.0",
            "kind": f"k8s.{self.driver}/claim",
            "containerEdits": common,
            "devices": devices,
        }
        _write(self._cdi_file(uid), spec)

    def _channels(self, count: int) -> Path:
        folder = self._state / f"channels-{count}"
        if not folder.exists():
            new = folder.with_suffix(".new")
            new.mkdir(exist_ok=True)
            for channel in range(count):
                (new / f"channel{channel}").touch()
            new.rename(folder)
        return folder

    def _save(self) -> None:
        _write(self._file, {"version": 1, "claims": self._claims})


def _sharing(config: Config | None) -> list[str]:
    sharing = getattr(config, "sharing", None)
    if sharing is None or sharing.strategy != "MPS":
        return []
    env = ["CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps"]
    if sharing.mpsConfig is not None and sharing.mpsConfig.defaultActiveThreadPercentage is not None:
        env.append(f"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={sharing.mpsConfig.defaultActiveThreadPercentage}")
    return env


def _mount(host: Path, container: str) -> dict[str, Any]:
    return {"hostPath": str(host), "containerPath": container, "options": ["ro", "nosuid", "nodev", "bind"]}


def _write(path: Path, content: Any) -> None:
    """In one step and down to the disk, so that a crash leaves the old file or the new one."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
