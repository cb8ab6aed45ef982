"""What a gang's worker pod does before its raylet starts: prove what it has, and wait for the others.

Called by the start hook. It speaks to the coordinator through Ray's control store, so that worker pods need no rights
on Kubernetes. A pod with other devices than planned never joins: it says why in its termination message, and ends.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from ray_dra.adapters.ray import GcsStore
from ray_dra.core.model.node import Node
from ray_dra.errors import RayDraError
from ray_dra.translate.files.shared_records import MARK, PlannedSlot, slot_from_bytes
from ray_dra.translate.kube.slots import attempt_of_slot
from ray_dra.translate.names import (
    GO_KEY,
    HEAD_HOST_VARIABLES,
    HEAD_PORT_VARIABLE,
    MPS_MEMORY_VARIABLE,
    MPS_THREADS_VARIABLE,
    MPS_VARIABLE,
    RAY_ADDRESS_VARIABLE,
    SLOT_KEY,
    SLOT_LABEL,
    VERIFIED_KEY,
)
from ray_dra.translate.nvml.offered import OfferedPart
from ray_dra.translate.vendors import NVIDIA

ASK_SECONDS = 60.0  # for what the coordinator wrote before the pods were let in
BARRIER_SECONDS = 300.0  # for the other pods of the gang
POLL_SECONDS = 0.1
TERMINATION_LOG = Path("/dev/termination-log")


class Joined(NamedTuple):
    """How a raylet joins its gang.

    Attributes:
        labels: of the raylet.
        parts: of GPUs that it has, as it numbers them.
        shares: the UUID of a GPU for each share of it that it has, as it numbers them.
        environment: of its workers.
    """

    labels: dict[str, str]
    parts: tuple[OfferedPart, ...] = ()
    shares: tuple[str, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})


def join_gang(label: str, node_name: str, node: Node | None) -> Joined:
    """How the raylet joins its gang. Ends the process where it must not join.

    Args:
        label: the slot's.
    """
    head = next(filter(None, map(os.environ.get, HEAD_HOST_VARIABLES)), "")
    store = GcsStore(os.environ.get(RAY_ADDRESS_VARIABLE) or f"{head}:{os.environ.get(HEAD_PORT_VARIABLE, '6379')}")
    expected = _wait(lambda: store.get(SLOT_KEY + label), ASK_SECONDS)
    if expected is None:
        _refuse(f"nobody planned anything for {label} on {node_name}")
    parts: tuple[OfferedPart, ...] = ()
    shares: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    try:
        planned = slot_from_bytes(expected)
        problem = difference(planned, node) or without_mps(planned, os.environ)
        if not problem:
            profiles = (profile for _, profile, _ in planned.parts)
            parts = tuple(map(OfferedPart, parts_of(planned, node), profiles))
            shares, environment = planned.shares, limits_of(planned)
    except RayDraError as error:
        problem = str(error)
    if problem:
        _refuse(f"on {node_name}: {problem}")
    store.put(VERIFIED_KEY + label, MARK)
    attempt = attempt_of_slot(label)
    if _wait(lambda: store.get(GO_KEY + attempt), BARRIER_SECONDS) is None:
        _refuse(f"the other workers of {attempt} did not come within {BARRIER_SECONDS:.0f} s")
    return Joined({SLOT_LABEL: label}, parts, shares, environment)


def difference(planned: PlannedSlot, node: Node | None) -> str:
    """How the node's devices differ from those planned for the slot; empty if they do not."""
    if planned.parts:
        return _other_parts(planned, node)
    seen = sorted(d.uuid or "" for d in node.devices) if node is not None else []
    by_nvml = node is None or any(device.id.driver == NVIDIA.driver for device in node.devices)
    if seen != sorted(planned.uuids):
        shows = "NVML shows" if by_nvml else "the container has"
        return f"{shows} {', '.join(seen) or 'no GPU'}; planned were {', '.join(sorted(planned.uuids)) or 'none'}"
    if planned.clique is not None and node is not None and node.clique != planned.clique and by_nvml:
        return f"NVML says clique {node.clique}; planned was {planned.clique}"
    return ""


def without_mps(planned: PlannedSlot, environment: Mapping[str, str]) -> str:
    """Why GPUs cannot be shared by MPS as planned; empty if they can, or need not."""
    if planned.mps is None or environment.get(MPS_VARIABLE):
        return ""
    return f"{MPS_VARIABLE} is not set; planned was that GPUs are shared by MPS"


def limits_of(planned: PlannedSlot) -> dict[str, str]:
    """What clients of MPS are told. The daemon holds them to the same; a client sees one GPU, which is its 0."""
    threads, memory = planned.mps or (0, 0)
    made = {MPS_THREADS_VARIABLE: str(threads)} if threads else {}
    return made | ({MPS_MEMORY_VARIABLE: f"0={memory}M"} if memory else {})


def _other_parts(planned: PlannedSlot, node: Node | None) -> str:
    gpus = node.parted if node is not None else ()
    seen = sorted(f"{part.profile} of {gpu.uuid}" for gpu in gpus for part in gpu.parts)
    parents = {gpu.uuid for gpu in gpus}
    seen += sorted(d.uuid or "" for d in node.devices if d.uuid not in parents) if node is not None else []
    if len(parts_of(planned, node)) == len(planned.parts) == len(seen):
        return ""
    wanted = sorted(f"{uuid or profile} of {parent}" for parent, profile, uuid in planned.parts)
    by_nvml = all(part.id.driver == NVIDIA.driver for gpu in gpus for part in gpu.parts)
    shows = "NVML shows" if by_nvml else "the container has"
    return f"{shows} {', '.join(seen) or 'no GPU'}; planned were {', '.join(wanted)}"


def parts_of(planned: PlannedSlot, node: Node | None) -> tuple[str, ...]:
    """The UUIDs of the parts that were planned, in their order, as far as they are there. Those of a GPU and profile
    that were made for the gang are alike."""
    there = {
        part.uuid: (gpu.uuid, part.profile)
        for gpu in (node.parted if node is not None else ())
        for part in gpu.parts
        if part.uuid is not None
    }
    found = []
    for parent, profile, uuid in planned.parts:
        alike = (each for each, (gpu, seen) in there.items() if gpu == parent and _can_be(seen, profile))
        uuid = next(alike, None) if uuid is None else uuid
        if uuid is not None and there.pop(uuid, None) is not None:
            found.append(uuid)
    return tuple(found)


def _can_be(seen: str, planned: str) -> bool:
    """Whether what NVML shows is of the planned profile. It may not tell 1g.10gb+me from 1g.10gb, nor 1g.10gb from
    1g.20gb."""
    base = re.split("[+-]", planned, maxsplit=1)[0]
    return seen == planned or seen in (base, base.partition(".")[0])


def _wait(ask: Callable[[], bytes | None], seconds: float) -> bytes | None:
    deadline = time.monotonic() + seconds
    while True:
        found = ask()
        if found is not None or time.monotonic() > deadline:
            return found
        time.sleep(POLL_SECONDS)


def _refuse(why: str) -> NoReturn:
    message = f"ray-dra: this worker does not join: {why}"
    print(message, file=sys.stderr, flush=True)
    if TERMINATION_LOG.exists():
        TERMINATION_LOG.write_text(message)
    sys.exit(1)
