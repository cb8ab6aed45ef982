"""What a gang's pod finds by NVML against what was planned for it, and how its raylet numbers parts of GPUs."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray._private.resource_and_label_spec import ResourceAndLabelSpec

from ray_dra.core.model.node import Node
from ray_dra.hooks import start
from ray_dra.ports.nvml import GpuReading, MigReading, NodeReading
from ray_dra.processes import join_gang, start_hook
from ray_dra.processes.join_gang import Joined, difference, limits_of, parts_of, without_mps
from ray_dra.processes.worker_hook import SeenDevice, _named
from ray_dra.translate.files.shared_records import PlannedSlot, slot_from_bytes, slot_to_bytes
from ray_dra.translate.names import (
    GPU_DOMAIN,
    MPS_MEMORY_VARIABLE,
    MPS_THREADS_VARIABLE,
    MPS_VARIABLE,
    PART_PROFILES_VARIABLE,
    SLOT_LABEL,
    SLOT_VARIABLE,
    VISIBLE_VARIABLE,
    WORKER_HOOK_VARIABLE,
)
from ray_dra.translate.nvml.offered import OfferedPart
from ray_dra.translate.nvml.reading import node_from_reading

MEMORY = {"1g.10gb": (1, 9984), "1g.20gb": (1, 20096), "3g.40gb": (3, 40448)}
PLANNED = PlannedSlot(
    (), None, (("GPU-a", "3g.40gb", None), ("GPU-a", "1g.10gb+me", None), ("GPU-b", "1g.10gb", "MIG-4"))
)


def seen(**gpus: list[tuple[str, str]]) -> Node:
    """By NVML: GPU -> (profile, UUID) of its parts, in its order; none: a GPU that is not in MIG mode."""
    readings = []
    for at, (gpu, parts) in enumerate(gpus.items()):
        migs = tuple(MigReading(uuid, i, 0, *MEMORY[profile]) for i, (profile, uuid) in enumerate(parts))
        readings.append(
            GpuReading(at, f"GPU-{gpu}", "NVIDIA H100 80GB HBM3", memory=80 << 30, mig=bool(parts), migs=migs)
        )
    return node_from_reading("n", NodeReading("580", tuple(readings)))


RIGHT = {"a": [("1g.10gb", "MIG-1"), ("3g.40gb", "MIG-2")], "b": [("1g.10gb", "MIG-4")]}


def test_parts_are_numbered_as_they_were_planned() -> None:
    node = seen(**RIGHT)
    assert difference(PLANNED, node) == ""
    assert parts_of(PLANNED, node) == ("MIG-2", "MIG-1", "MIG-4")
    assert slot_from_bytes(slot_to_bytes(PLANNED)) == PLANNED
    seven = PlannedSlot((), None, (("GPU-a", "1g.10gb", None),) * 7)
    alike = seen(a=[("1g.10gb", f"MIG-{at}") for at in (3, 1, 2, 6, 5, 0, 4)])
    assert parts_of(seven, alike) == ("MIG-3", "MIG-1", "MIG-2", "MIG-6", "MIG-5", "MIG-0", "MIG-4")


@pytest.mark.parametrize(
    "found",
    [
        None,
        seen(a=RIGHT["a"]),
        seen(a=RIGHT["a"], b=[("1g.10gb", "MIG-9")]),
        seen(a=RIGHT["a"], b=[*RIGHT["b"], ("1g.10gb", "MIG-9")]),
        seen(a=[("1g.20gb", "MIG-1"), ("3g.40gb", "MIG-2")], b=RIGHT["b"]),
        seen(c=RIGHT["a"], b=RIGHT["b"]),
        seen(**RIGHT, c=[]),
    ],
    ids=[
        "no GPU",
        "one too few",
        "another of its kind",
        "one too many",
        "another profile",
        "another GPU",
        "a whole GPU",
    ],
)
def test_other_parts_than_planned_are_told(found: Node | None) -> None:
    assert "planned were 1g.10gb+me of GPU-a, 3g.40gb of GPU-a, MIG-4 of GPU-b" in difference(PLANNED, found)


def test_where_nvml_tells_the_slices_alone_they_are_enough() -> None:
    """In a container the driver may keep to itself how much memory the whole GPU has."""
    gpus = (
        GpuReading(
            0, "GPU-a", mig=True, migs=(MigReading("MIG-1", 1, 0, 1, 9984), MigReading("MIG-2", 2, 0, 3, 40448))
        ),
        GpuReading(1, "GPU-b", mig=True, migs=(MigReading("MIG-4", 1, 0, 1, 9984),)),
    )
    node = node_from_reading("n", NodeReading("580", gpus))
    assert difference(PLANNED, node) == ""
    assert parts_of(PLANNED, node) == ("MIG-2", "MIG-1", "MIG-4")
    named = replace(gpus[0], migs=(replace(gpus[0].migs[0], name="NVIDIA H100 MIG 1g.20gb"), gpus[0].migs[1]))
    assert difference(PLANNED, node_from_reading("n", NodeReading("580", (named, gpus[1])))) != ""


def test_a_raylet_offers_its_parts_and_is_in_no_gpu_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    node = seen(**RIGHT)
    node = replace(node, devices=tuple(replace(device, domains=("box.n",)) for device in node.devices))
    monkeypatch.setattr(start_hook, "node_here", lambda name: node)
    planned = tuple(map(OfferedPart, parts_of(PLANNED, node), (profile for _, profile, _ in PLANNED.parts)))
    monkeypatch.setattr(join_gang, "join_gang", lambda label, name, node: Joined({SLOT_LABEL: label}, planned))
    monkeypatch.setenv(SLOT_VARIABLE, "rd-x-0.0")
    monkeypatch.setenv(VISIBLE_VARIABLE, "")
    monkeypatch.setenv(WORKER_HOOK_VARIABLE, "taken back at the end")
    params = SimpleNamespace(labels=None, num_gpus=3, resources=None)
    start(params, False)
    assert os.environ[VISIBLE_VARIABLE] == "MIG-2,MIG-1,MIG-4"
    assert params.num_gpus == 3
    spec = ResourceAndLabelSpec(num_gpus=params.num_gpus)  # what Ray makes of it, without a part of a GPU at hand
    spec._resolve_accelerator_resources(NvidiaGPUAcceleratorManager, params.num_gpus)
    assert spec.num_gpus == 3
    assert NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids() == ["MIG-2", "MIG-1", "MIG-4"]
    assert params.labels[SLOT_LABEL] == "rd-x-0.0"
    assert GPU_DOMAIN not in params.labels
    assert params.resources == {"MIG-3g.40gb": 1, "MIG-1g.10gb+me": 1, "MIG-1g.10gb": 1}
    assert PART_PROFILES_VARIABLE not in os.environ, "a gang's map says which part is whose"


def test_a_task_is_told_the_uuid_of_a_part_that_was_made_for_the_gang() -> None:
    worker: Any = SimpleNamespace(original_visible_accelerator_ids={"GPU": ["MIG-2", "MIG-1", "MIG-4"]})
    assert _named(worker, SeenDevice(1, None, "n", None)).uuid == "MIG-1"
    assert _named(worker, SeenDevice(1, "MIG-9", "n", None)).uuid == "MIG-9"
    assert _named(worker, SeenDevice(7, None, "n", None)).uuid is None
    by_number: Any = SimpleNamespace(original_visible_accelerator_ids={"GPU": ["0", "1"]})
    assert _named(by_number, SeenDevice(1, None, "n", None)).uuid is None, "a whole GPU that nobody has read"


SHARED = PlannedSlot(("GPU-a", "GPU-b"), None, shares=("GPU-a", "GPU-a", "GPU-b", "GPU-a", "GPU-b"), mps=(25, 20 << 10))


def test_a_raylet_offers_a_gpu_once_for_each_share_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no two bundles have one of Ray's numbers: it has no fractions to pack, and no rest to give others."""
    node = seen(a=[], b=[])
    assert difference(SHARED, node) == ""
    assert difference(SHARED, seen(a=[])) != ""
    assert slot_from_bytes(slot_to_bytes(SHARED)) == SHARED
    monkeypatch.setenv(SLOT_VARIABLE, "rd-1-0.0")
    monkeypatch.setenv(VISIBLE_VARIABLE, "")
    for name in (WORKER_HOOK_VARIABLE, MPS_THREADS_VARIABLE, MPS_MEMORY_VARIABLE):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(start_hook, "node_here", lambda name: node)
    joined = Joined({SLOT_LABEL: "rd-1-0.0"}, (), SHARED.shares, limits_of(SHARED))
    monkeypatch.setattr(join_gang, "join_gang", lambda label, name, node: joined)
    params = SimpleNamespace(labels={}, resources={}, num_gpus=5)
    start(params, False)
    assert params.num_gpus == 5
    assert os.environ[VISIBLE_VARIABLE] == "GPU-a,GPU-a,GPU-b,GPU-a,GPU-b"
    assert os.environ[MPS_THREADS_VARIABLE] == "25"
    assert os.environ[MPS_MEMORY_VARIABLE] == "0=20480M"
    assert NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids() == list(SHARED.shares)


def test_a_pod_that_was_to_share_by_mps_and_has_none_does_not_join() -> None:
    assert MPS_VARIABLE in without_mps(SHARED, {})
    assert without_mps(SHARED, {MPS_VARIABLE: "/tmp/nvidia-mps"}) == ""
    assert without_mps(replace(SHARED, mps=None), {}) == ""
    assert limits_of(replace(SHARED, mps=(0, 0))) == limits_of(replace(SHARED, mps=None)) == {}
