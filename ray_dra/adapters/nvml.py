"""The one place that calls NVML.

`probe` reads everything about a node, surviving every call an older driver lacks. A hung driver call
cannot be interrupted, so nobody calls it in a process that matters: `python -m ray_dra.adapters.nvml`
is the child that does, printing one JSON reading a line; `ProbeProcess` (in `processes.probe_loop`) starts,
watches and kills it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

import pynvml

from ray_dra.errors import NvmlInconsistent, NvmlMissing
from ray_dra.ports.nvml import FabricReading, GpuReading, LinkReading, MigReading, NodeReading

T = TypeVar("T")

REMOTE = {pynvml.NVML_NVLINK_DEVICE_TYPE_GPU: "gpu", pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH: "switch"}
P2P_NVLINK = 2  # the bindings' NVML_P2P_CAPS_INDEX_READ is a tuple by mistake, so no name is used here
RECOVERY_ACTION_FIELD = 230
POLL_SECONDS = 0.5
XID_EVENT = 0x8


def probe() -> NodeReading:
    """One full reading of this node, in NVML's device order.

    Raises:
        NvmlMissing: the library is not there or will not start.
        NvmlInconsistent: two devices claim one UUID, or the count changes while reading.
    """
    _start()
    try:
        return _read()
    finally:
        _maybe(pynvml.nvmlShutdown)


def _start() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlMissing(
            "NVML cannot be used: is the NVIDIA driver installed, and visible in this container?",
            place="libnvidia-ml.so.1",
            wanted="nvmlInit to succeed",
            available=str(error),
        ) from error


def _maybe(call: Callable[..., T], *args: Any) -> T | None:
    """The call's answer, or None where this driver or device has none."""
    try:
        return call(*args)
    except pynvml.NVMLError_GpuIsLost:
        raise
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def _read() -> NodeReading:
    count = pynvml.nvmlDeviceGetCount()
    handles: list[Any] = []
    gpus: list[GpuReading] = []
    for index in range(count):
        handle = None
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(_gpu(index, handle))
        except pynvml.NVMLError_GpuIsLost:
            gpus.append(GpuReading(index, None, lost=True))
        except pynvml.NVMLError as error:
            raise NvmlInconsistent(
                "NVML lists a device that it cannot open.",
                place=f"device {index}",
                wanted=f"{count} devices",
                available=str(error),
            ) from error
        handles.append(handle)
    uuids = [g.uuid for g in gpus if g.uuid is not None]
    if len(set(uuids)) != len(uuids):
        raise NvmlInconsistent("Two devices have one UUID.", place=", ".join(uuids))
    if pynvml.nvmlDeviceGetCount() != count:
        raise NvmlInconsistent("The number of devices changed during the probe.", wanted=str(count))
    p2p = _pairs(gpus, handles, _p2p, None, True)
    ancestors = _pairs(gpus, handles, _ancestor, 0, 0)
    return NodeReading(_maybe(pynvml.nvmlSystemGetDriverVersion), tuple(gpus), p2p, ancestors)


def _gpu(index: int, handle: Any) -> GpuReading:
    pci = _maybe(pynvml.nvmlDeviceGetPciInfo, handle)
    memory = _maybe(pynvml.nvmlDeviceGetMemoryInfo, handle)
    mig = _maybe(pynvml.nvmlDeviceGetMigMode, handle)
    rows = _maybe(pynvml.nvmlDeviceGetRemappedRows, handle)
    platform = _platform(handle)
    enabled = bool(mig and mig[0])
    return GpuReading(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=_maybe(pynvml.nvmlDeviceGetName, handle),
        bus=_bus(pci),
        links=_links(handle),
        fabric=_fabric(handle),
        numa=_maybe(pynvml.nvmlDeviceGetNumaNodeId, handle),
        memory=memory.total if memory is not None else None,
        mig=enabled,
        migs=_migs(handle) if enabled else (),
        chassis=platform[0] if platform else None,
        chassis_slot=platform[1] if platform else None,
        tray=platform[2] if platform else None,
        remap_failed=bool(rows and rows[3]),
        recovery=_recovery(handle),
        compute_capability=_capability(handle),
    )


def _capability(handle: Any) -> str | None:
    found = _maybe(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return None if found is None else f"{found[0]}.{found[1]}"


def _bus(pci: Any) -> str | None:
    return None if pci is None else f"{pci.domain:08x}:{pci.bus:02x}:{pci.device:02x}"


def _links(handle: Any) -> tuple[LinkReading | None, ...]:
    """Links 0..35; None for a link that this GPU does not have."""
    found: list[LinkReading | None] = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state = _maybe(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        if state is None:
            found.append(None)
            continue
        remote = _maybe(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        if remote is None or remote == pynvml.NVML_NVLINK_DEVICE_TYPE_UNKNOWN:
            found.append(LinkReading(bool(state)))
            continue
        pci = _maybe(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        found.append(LinkReading(bool(state), REMOTE.get(remote, "other"), _bus(pci)))
    while found and found[-1] is None:
        found.pop()
    return tuple(found)


def _fabric(handle: Any) -> FabricReading | None:
    """Version 3 of the structure has the health summary; older drivers know version 2 only."""
    for make in (pynvml.c_nvmlGpuFabricInfo_v3_t, pynvml.c_nvmlGpuFabricInfo_v2_t):
        info = make()
        if _maybe(pynvml.nvmlDeviceGetGpuFabricInfoV, handle, ctypes.byref(info)) is None:
            continue
        return FabricReading(
            state=info.state,
            status=info.status,
            cluster_uuid=str(uuid.UUID(bytes=bytes(info.clusterUuid))),
            clique_id=info.cliqueId,
            health_mask=info.healthMask,
            health_summary=getattr(info, "healthSummary", 0),
        )
    return None


def _platform(handle: Any) -> tuple[str, int, int] | None:
    """(chassis, its slot, tray); None outside a rack, where some drivers answer a nameless chassis and zeros."""
    info = pynvml.c_nvmlPlatformInfo_v2_t()
    if _maybe(pynvml.nvmlDeviceGetPlatformInfo, handle, ctypes.byref(info)) is None:
        return None
    # The bindings turn single bytes into text; the numbers are in the structure itself.
    kind, raw = type(info), bytes(info)
    serial = raw[kind.chassisSerialNumber.offset :][:16].split(b"\0")[0].decode(errors="replace")
    return (serial, raw[kind.slotNumber.offset], raw[kind.trayIndex.offset]) if serial else None


def _recovery(handle: Any) -> int | None:
    values = _maybe(pynvml.nvmlDeviceGetFieldValues, handle, [RECOVERY_ACTION_FIELD])
    if not values or values[0].nvmlReturn != 0:
        return None
    return int(values[0].value.uiVal)


def _migs(handle: Any) -> tuple[MigReading, ...]:
    found = []
    for index in range(_maybe(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        mig = _maybe(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        attributes = _maybe(pynvml.nvmlDeviceGetAttributes, mig) if mig is not None else None
        if attributes is None:
            continue
        found.append(
            MigReading(
                uuid=pynvml.nvmlDeviceGetUUID(mig),
                gpu_instance=pynvml.nvmlDeviceGetGpuInstanceId(mig),
                compute_instance=pynvml.nvmlDeviceGetComputeInstanceId(mig),
                slices=attributes.gpuInstanceSliceCount,
                memory_mb=attributes.memorySizeMB,
                name=_maybe(pynvml.nvmlDeviceGetName, mig),
            )
        )
    return tuple(found)


def _pairs(gpus: list[GpuReading], handles: list[Any], ask: Callable[[Any, Any], T], lost: T, same: T) -> Any:
    """A symmetric matrix of `ask` over all pairs; `lost` where one of the two is."""
    matrix: list[list[T]] = [[same if i == j else lost for j in range(len(gpus))] for i in range(len(gpus))]
    for i in range(len(gpus)):
        for j in range(i):
            if not gpus[i].lost and not gpus[j].lost:
                try:
                    matrix[i][j] = matrix[j][i] = ask(handles[i], handles[j])
                except pynvml.NVMLError_GpuIsLost:
                    continue
    return tuple(tuple(row) for row in matrix)


def _p2p(a: Any, b: Any) -> bool | None:
    status = _maybe(pynvml.nvmlDeviceGetP2PStatus, a, b, P2P_NVLINK)
    return None if status is None else status == pynvml.NVML_P2P_STATUS_OK


def _ancestor(a: Any, b: Any) -> int:
    level = _maybe(pynvml.nvmlDeviceGetTopologyCommonAncestor, a, b)
    return int(pynvml.NVML_TOPOLOGY_SYSTEM if level is None else level)


def _watch(parent: int) -> None:
    """Print a reading at once, and another whenever it changed or an XID came; a blank line is a heartbeat.

    XIDs come as events; everything else is read again every POLL_SECONDS. Ends when the parent does.
    """
    _die_with_parent(parent)
    xids: dict[str, tuple[int, ...]] = {}
    last: NodeReading | None = None
    events: Any = None
    listening: tuple[str | None, ...] = ()
    started = False
    while True:
        try:
            if not started:
                _start()
                started = True
            reading = _read()
            _forget_resets(reading, listening, xids)
            uuids = tuple(g.uuid for g in reading.gpus)
            if events is None or uuids != listening:
                events, listening = _listen(reading), uuids
            reading = replace(reading, gpus=tuple(replace(g, xids=xids.get(g.uuid or "", ())) for g in reading.gpus))
        except (NvmlMissing, NvmlInconsistent, pynvml.NVMLError) as error:
            reading = NodeReading(error=str(error))
        sys.stdout.write((json.dumps(asdict(reading)) if reading != last else "") + "\n")
        sys.stdout.flush()
        last = reading
        _collect(events, xids)


def _forget_resets(reading: NodeReading, before: tuple[str | None, ...], xids: dict[str, tuple[int, ...]]) -> None:
    """A GPU that fell off the bus comes back reset: its old XIDs say nothing about it then."""
    for gpu, uuid_before in zip(reading.gpus, before, strict=False):
        if gpu.lost and uuid_before is not None:
            xids.pop(uuid_before, None)


def _listen(reading: NodeReading) -> Any:
    events = _maybe(pynvml.nvmlEventSetCreate)
    if events is not None:
        for gpu in reading.gpus:
            if not gpu.lost:
                _maybe(pynvml.nvmlDeviceRegisterEvents, pynvml.nvmlDeviceGetHandleByIndex(gpu.index), XID_EVENT, events)
    return events


def _collect(events: Any, xids: dict[str, tuple[int, ...]]) -> None:
    """Wait POLL_SECONDS for XIDs; come back at once with the first."""
    if events is None:
        time.sleep(POLL_SECONDS)
        return
    began = time.monotonic()
    try:
        event = pynvml.nvmlEventSetWait(events, int(POLL_SECONDS * 1000))
        name = pynvml.nvmlDeviceGetUUID(event.device)
        if event.eventData not in xids.get(name, ()):
            xids[name] = (*xids.get(name, ()), int(event.eventData))
    except pynvml.NVMLError_Timeout:
        pass
    except pynvml.NVMLError:
        time.sleep(max(0.0, POLL_SECONDS - (time.monotonic() - began)))


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before the call took effect
        sys.exit(0)


def main() -> None:
    """`once` prints one reading and exits; `watch PARENT_PID` goes on."""
    if sys.argv[1:] == ["once"]:
        try:
            reading = probe()
        except (NvmlMissing, NvmlInconsistent) as error:
            reading = NodeReading(error=str(error))
        print(json.dumps(asdict(reading)))
    else:
        _watch(int(sys.argv[2]))


if __name__ == "__main__":
    main()
