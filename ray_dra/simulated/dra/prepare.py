"""Readying claims on a node: which devices, with which configuration, and what the container gets by CDI.

Idempotent over restarts of the driver and of the kubelet by a checkpoint: a claim is written there before anything is
done for it and marked when all is done. A device that is in one claim's checkpoint is refused to another, unless
ConsumableShares lets several have it. A dynamic part is made for its first claim and destroyed with its last.
Neighbours: `kubelet` calls it, `domains` says when an IMEX channel may be given, `cdi` writes what the container gets,
`parts` makes and destroys partitions, `sharing` sets time slices and MPS.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ray_dra.errors import SimulationError
from ray_dra.simulated.dra import sharing
from ray_dra.simulated.dra.cdi import Cdi, Given, replaced
from ray_dra.simulated.dra.configs import (
    FOR_KIND,
    BadConfig,
    ComputeDomainChannelConfig,
    ComputeDomainDaemonConfig,
    Config,
    decode,
)
from ray_dra.simulated.dra.devices import Published, fabric_partition, twin
from ray_dra.simulated.dra.partitions import Place, place_of
from ray_dra.simulated.dra.parts import Parts
from ray_dra.simulated.machine import Machine

LOCK_SECONDS = 10.0  # that a call waits for the one before it


class PrepareError(Exception):
    """The claim cannot be readied; the text goes to the pod's events."""


@dataclass(frozen=True)
class Prepared:
    """One device of a readied claim: what the kubelet is told, and what has to be undone.

    Args:
        cdi: None where the container gets nothing for it.
        partition: the part's UUID, another one at each creation.
        admin: by an administrator's access, beside whoever has the device.
        share: which of the device's allocations this is, where there are several.
        config: the configuration, to be equal for all that share the device.
    """

    request: str
    pool: str
    device: str
    cdi: str | None
    partition: str | None = None
    domain: str | None = None
    admin: bool = False
    share: str | None = None
    config: str | None = None


class Domains(Protocol):
    """What a node does for ComputeDomains."""

    def enter(self, domain: str, namespace: str) -> bool:
        """Join this node to the domain, and wait until it is ready; whether there is a channel to give (a node
        without a multi-node fabric has none). PrepareError otherwise."""

    def named(self, domain: str) -> tuple[str, str]:
        """The domain's namespace and name. PrepareError where there is none."""

    def leave(self, domain: str) -> None:
        """No claim on this node uses the domain any more."""


class Preparer:
    """One driver's claims on one node. Thread-safe.

    Args:
        folder: of the checkpoint; survives restarts.
        cdi: where the container runtime looks for CDI files.
        published: what the driver publishes now.
        shared: several claims may have one device.
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
        shared: bool = False,
    ) -> None:
        self.driver, self.node = driver, node
        self._file, self._mps = folder / "checkpoint.json", folder / "mps"
        self._machine, self._parts = machine, Parts(machine)
        self._published, self._gates, self._domains, self._shared = published, gates, domains, shared
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._cdi = Cdi(driver, folder=cdi, state=folder, machine=machine, library=library)
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

    def clean_up(self) -> None:
        """At the start with DynamicMIG: parts that are no readied claim's are destroyed, whoever made them."""
        if "DynamicMIG" not in self._gates:
            return
        with self._locked():
            self._destroy(self._parts.there() - self._in_use())
            self._parts.end_idle_modes()

    def prepare(self, claim: Mapping[str, Any]) -> list[Prepared]:
        """Ready an allocated ResourceClaim; the same answer every time. Raises PrepareError."""
        uid, namespace = claim["metadata"]["uid"], claim["metadata"]["namespace"]
        with self._locked():
            ready = self._ready(uid)
        if ready is not None and self._cdi.file(uid).exists():
            return ready
        chosen = self._chosen(claim)  # outside the lock: what is published may depend on what is readied
        if ready is not None:  # /var/run is lost with a reboot
            daemons = self._daemons(chosen)
            with self._locked():
                self._write_cdi(uid, ready, chosen, daemons)
            return ready
        results = claim["status"]["allocation"]["devices"].get("results") or ()
        admin = {result["device"] for result in results if result.get("adminAccess")}
        shares = {result["device"]: result.get("shareID") for result in results}
        channels = {
            config.domainID: self._enter(config.domainID, namespace)
            for _, _, config in chosen
            if isinstance(config, ComputeDomainChannelConfig)
        }
        daemons = self._daemons(chosen)
        with self._locked():
            ready = self._ready(uid)
            if ready is not None:
                return ready  # by another call for it meanwhile, whose parts a container may have by now
            self._refuse_taken(uid, [each for each in chosen if each[1].name not in admin])
            self._refuse_other_partitions(chosen)
            if uid in self._claims:  # begun before, and not finished
                self._undo_parts(uid, self._claims[uid])
            prepared = [self._prepared(uid, each, channels, admin, shares) for each in chosen]
            self._claims[uid] = {
                "namespace": namespace,
                "name": claim["metadata"]["name"],
                "state": "started",
                "devices": [asdict(each) for each in prepared],
            }
            self._save()
            prepared = [self._with_part(each, device) for each, (_, device, _) in zip(prepared, chosen, strict=True)]
            self._share(uid, prepared, chosen)
            self._write_cdi(uid, prepared, chosen, daemons)
            self._claims[uid] |= {"state": "completed", "devices": [asdict(each) for each in prepared]}
            self._save()
            return prepared

    def unprepare(self, uid: str) -> None:
        """Undo it; nothing to do is no error. Raises PrepareError while a part is still in use."""
        with self._locked():
            entry = self._claims.get(uid)
            if entry is None:
                return
            entry["state"] = "started"  # a crash from here on leaves a claim that is made anew, or undone to the end
            self._save()
            self._cdi.file(uid).unlink(missing_ok=True)
            self._undo_parts(uid, entry)
            elsewhere = {d["device"] for other, e in self._claims.items() if other != uid for d in e["devices"]}
            left_gpus = {d["device"] for d in entry["devices"]} - elsewhere
            sharing.undo(self._machine, self._mps, uid, [n for name in left_gpus if (n := _gpu(name)) is not None])
            del self._claims[uid]
            self._save()
            used = {d["domain"] for e in self._claims.values() for d in e["devices"]}
            left = {device["domain"] for device in entry["devices"] if device["domain"]} - used
        for domain in left:
            assert self._domains is not None
            self._domains.leave(domain)

    def _ready(self, uid: str) -> list[Prepared] | None:
        """What a claim has that is readied."""
        entry = self._claims.get(uid)
        if entry is None or entry["state"] != "completed":
            return None
        return [Prepared(**device) for device in entry["devices"]]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One call at a time, as NVIDIA's driver has it: the kubelet asks again after an error."""
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise PrepareError(f"error acquiring prep/unprep lock: timeout after {LOCK_SECONDS:.0f} s")
        try:
            yield
        finally:
            self._lock.release()

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

    def _daemons(self, chosen: Iterable[tuple[str, Published, Config | None]]) -> dict[str, tuple[str, str]]:
        """Namespace and name of the domains whose IMEX daemons are given a container."""
        found = {}
        for _, _, config in chosen:
            if isinstance(config, ComputeDomainDaemonConfig):
                if self._domains is None:
                    raise PrepareError("this node serves no ComputeDomains")
                found[config.domainID] = self._domains.named(config.domainID)
        return found

    def _enter(self, domain: str, namespace: str) -> bool:
        if self._domains is None:
            raise PrepareError("this node serves no ComputeDomains")
        return self._domains.enter(domain, namespace)

    def _refuse_taken(self, uid: str, chosen: Iterable[tuple[str, Published, Config | None]]) -> None:
        wanted: dict[str, str | None] = {}
        for _, device, config in chosen:
            wanted[device.name] = _text(config)
            if (other := twin(device.name)) is not None:
                wanted[other] = None
        for other, entry in self._claims.items():
            for device in entry["devices"] if other != uid else ():
                name = device["device"]
                if name not in wanted or device.get("admin"):
                    continue
                place = f"the claim {entry['namespace']}/{entry['name']} (uid {other})"
                if not self._shared or name.startswith("gpu-vfio-"):
                    raise PrepareError(f"{name} on {self.node} is prepared for {place}")
                if device.get("config") != wanted[name]:
                    raise PrepareError(f"requested device {name} has conflicting configuration with {place}")

    def _refuse_other_partitions(self, chosen: Iterable[tuple[str, Published, Config | None]]) -> None:
        """A box that its Fabric Manager parts gives out whole partitions alone."""
        if "FabricManagerPartitioning" not in self._gates or self._machine.node.profile.fabric != "box":
            return
        gpus = {device.gpu for _, device, _ in chosen if device.kind in ("gpu", "vfio")}
        if gpus and fabric_partition(gpus) is None:
            modules = " ".join(str(gpu + 1) for gpu in sorted(gpus))
            raise PrepareError(
                f"fabric manager: GPU module set [{modules}] does not match any FM partition;"
                " refusing partition activation"
            )

    # -- parts, and shared GPUs

    def _in_use(self) -> set[Place]:
        """The places of the parts that readied claims have."""
        ready = [entry for entry in self._claims.values() if entry["state"] == "completed"]
        places = {place_of(device["device"]) for entry in ready for device in entry["devices"]}
        return {place for place in places if place is not None}

    def _with_part(self, prepared: Prepared, device: Published) -> Prepared:
        """A dynamic part is made now; one that is shared may be there."""
        if device.mig is None or "uuid" in device.body["attributes"]:
            return prepared
        try:
            part = self._parts.make(device.gpu, *device.mig, reuse=self._shared)
        except SimulationError as error:
            raise PrepareError(f"error creating MIG device {device.name}: {' '.join(str(error).split())}") from error
        return replace(prepared, partition=part.uuid)

    def _undo_parts(self, uid: str, entry: Mapping[str, Any]) -> None:
        """Destroy the parts of a claim, unless another has them, too."""
        if "DynamicMIG" not in self._gates:
            return
        self._claims[uid]["state"] = "started"  # so that it does not count as a user
        places = {place for device in entry["devices"] if (place := place_of(device["device"])) is not None}
        self._destroy(places - self._in_use())

    def _destroy(self, places: Iterable[Place]) -> None:
        try:
            for place in sorted(places):
                self._parts.destroy(place)
        except SimulationError as error:
            raise PrepareError(f"error destroying GPU Instance: {' '.join(str(error).split())}") from error

    def _share(self, uid: str, prepared: list[Prepared], chosen: list[tuple[str, Published, Config | None]]) -> None:
        for config, devices in _by_config(prepared, chosen):
            if sharing.strategy(config) == "MPS" and self._shared:
                raise PrepareError("MPS sharing is not supported when consumable shares is enabled")
            try:
                sharing.apply(self._machine, self._mps, uid, config, devices)
            except sharing.SharingError as error:
                raise PrepareError(f"error starting MPS control daemon: {error}") from error

    # -- what the container gets

    def _prepared(
        self,
        uid: str,
        chosen: tuple[str, Published, Config | None],
        channels: Mapping[str, bool],
        admin: Collection[str],
        shares: Mapping[str, str | None],
    ) -> Prepared:
        request, device, config = chosen
        domain = config.domainID if isinstance(config, ComputeDomainChannelConfig) else None
        name = None if channels.get(domain or "") is False else f"k8s.{self.driver}/claim={uid}-{device.name}"
        return Prepared(
            request,
            self.node,
            device.name,
            name,
            domain=domain,
            admin=device.name in admin,
            share=shares.get(device.name),
            config=_text(config),
        )

    def _write_cdi(
        self,
        uid: str,
        prepared: list[Prepared],
        chosen: list[tuple[str, Published, Config | None]],
        daemons: Mapping[str, tuple[str, str]],
    ) -> None:
        mps: dict[str, list[dict[str, Any]]] = {}
        for config, devices in _by_config(prepared, chosen):
            if sharing.strategy(config) == "MPS":
                mps |= dict.fromkeys(devices, sharing.mounts(self._mps, uid, devices))
        given = []
        for each, (_, device, config) in zip(prepared, chosen, strict=True):
            if each.cdi is not None:
                uuid = each.partition or uuid_of(device)
                daemon = daemons.get(config.domainID) if isinstance(config, ComputeDomainDaemonConfig) else None
                given.append(Given(device, config, uuid, mps.get(uuid, []), daemon))
        self._cdi.write(uid, given)

    def _save(self) -> None:
        replaced(self._file, {"version": 1, "claims": self._claims})


def uuid_of(device: Published) -> str:
    return str(device.body["attributes"].get("uuid", {}).get("string", ""))


def _by_config(
    prepared: list[Prepared], chosen: list[tuple[str, Published, Config | None]]
) -> list[tuple[Config | None, dict[str, int | None]]]:
    """Each configuration once, with the UUIDs of its devices (and the numbers of whole GPUs)."""
    found: dict[int, tuple[Config | None, dict[str, int | None]]] = {}
    for each, (_, device, config) in zip(prepared, chosen, strict=True):
        devices = found.setdefault(id(config), (config, {}))[1]
        devices[each.partition or uuid_of(device)] = device.gpu if device.kind == "gpu" else None
    return list(found.values())


def _text(config: Config | None) -> str | None:
    return None if config is None else f"{type(config).__name__}{config.model_dump_json(exclude_none=True)}"


def _gpu(name: str) -> int | None:
    number = name.removeprefix("gpu-")
    return int(number) if number.isdigit() else None
