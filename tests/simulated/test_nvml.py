"""The simulated NVML library through NVIDIA's own bindings: what machines are, and MIG made, read and unmade.

Each script runs in a process of its own, as the bindings load the library once.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_dra.errors import SimulationError
from ray_dra.simulated.library import NAME, library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import Profile, load_profile, profile_names, simulated_nodes

MACHINES = [name for name in profile_names() if not load_profile(name).cluster]
WITH_MIG = [name for name in MACHINES if load_profile(name).mig]

# What NVIDIA's DRA driver calls beside what a probe of ours does; without any of them it ends at its start.
DRIVERS_CALLS = [
    "nvmlDeviceGetMinorNumber",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetBrand",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetGpuInstanceProfileInfo",
    "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
    "nvmlDeviceGetAddressingMode",
    "nvmlSystemGetCudaDriverVersion",
    "nvmlDeviceGetGpuFabricInfo",
    "nvmlDeviceGetSupportedEventTypes",
    "nvmlDeviceGetVirtualizationMode",
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlDeviceGetGpuInstanceById",
    "nvmlGpuInstanceGetInfo",
    "nvmlGpuInstanceGetComputeInstanceProfileInfo",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlGpuInstanceGetComputeInstanceById",
    "nvmlGpuInstanceDestroy",
    "nvmlComputeInstanceGetInfo_v2",
    "nvmlComputeInstanceDestroy",
    "nvmlDeviceGetModuleId",
    "nvmlDeviceGetHandleByPciBusId_v2",
    "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceSetPersistenceMode",
]

HELPERS = """
import ctypes, json, sys
import pynvml as n
n.nvmlInit()
gpus = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
class Placement(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint), ("size", ctypes.c_uint)]
class GpuInstance(ctypes.Structure):
    _fields_ = [("device", ctypes.c_void_p), ("id", ctypes.c_uint), ("profile", ctypes.c_uint), ("place", Placement)]
class ComputeInstance(ctypes.Structure):
    _fields_ = [("device", ctypes.c_void_p), ("gi", ctypes.c_void_p), ("id", ctypes.c_uint),
                ("profile", ctypes.c_uint), ("place", Placement)]
def call(name, *arguments):
    n._nvmlCheckReturn(n._nvmlGetFunctionPointer(name)(*arguments))
def refused(name, *arguments):
    return n._nvmlGetFunctionPointer(name)(*arguments)
def make(gpu, id, start, size):
    gi, ci = ctypes.c_void_p(), ctypes.c_void_p()
    call("nvmlDeviceCreateGpuInstanceWithPlacement", gpu, id, ctypes.byref(Placement(start, size)), ctypes.byref(gi))
    fills = "nvmlGpuInstanceGetComputeInstanceProfileInfo"
    profile = next(kind for kind in range(9) if not refused(fills, gi, kind, 0, (ctypes.c_uint * 9)()))
    call("nvmlGpuInstanceCreateComputeInstance", gi, profile, ctypes.byref(ci))
    return gi, ci
def about(gi, ci):
    instance, compute = GpuInstance(), ComputeInstance()
    call("nvmlGpuInstanceGetInfo", gi, ctypes.byref(instance))
    call("nvmlComputeInstanceGetInfo_v2", ci, ctypes.byref(compute))
    uuid = ctypes.create_string_buffer(96)
    call("nvmlDeviceGetUUID", ctypes.c_void_p(compute.device), uuid, 96)
    return instance.id, compute.id, instance.profile, instance.place.start, instance.place.size, uuid.value.decode()
def destroy(gi, ci):
    call("nvmlComputeInstanceDestroy", ci)
    call("nvmlGpuInstanceDestroy", gi)
def code(function, *arguments):
    try:
        function(*arguments)
    except n.NVMLError as error:
        return error.value
    return 0
def say(**what):
    print(json.dumps(what))
"""


WHAT = """
profiles = {}
for kind in range(17):
    try:
        info = n.nvmlDeviceGetGpuInstanceProfileInfo(gpus[0], kind)
    except n.NVMLError_NotSupported:
        continue
    count = ctypes.c_uint(8)
    places = (Placement * 8)()
    n.nvmlDeviceGetGpuInstancePossiblePlacements(gpus[0], info.id, places, ctypes.byref(count))
    profiles[info.name.decode() if isinstance(info.name, bytes) else info.name] = [
        info.id, info.sliceCount, info.instanceCount, info.multiprocessorCount, info.copyEngineCount,
        info.decoderCount, info.encoderCount, info.jpegCount, info.ofaCount, info.memorySizeMB,
        [[p.start, p.size] for p in places[:count.value]]]
say(minors=[n.nvmlDeviceGetMinorNumber(g) for g in gpus], architecture=n.nvmlDeviceGetArchitecture(gpus[0]),
    brand=n.nvmlDeviceGetBrand(gpus[0]), cuda=n.nvmlSystemGetCudaDriverVersion(),
    mig=code(n.nvmlDeviceGetMigMode, gpus[0]),
    addressing=code(n.nvmlDeviceGetAddressingMode, gpus[0]) or n.nvmlDeviceGetAddressingMode(gpus[0]),
    most=n.nvmlDeviceGetMaxMigDeviceCount(gpus[0]), profiles=profiles,
    by_bus=n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByPciBusId(n.nvmlDeviceGetPciInfo(gpus[0]).busId)),
    name=n.nvmlDeviceGetName(gpus[0]), unknown=code(n.nvmlDeviceGetGpuInstanceProfileInfo, gpus[0], 17))
"""
ARCHITECTURES = {"Volta": 5, "Ampere": 7, "Ada Lovelace": 8, "Hopper": 9, "Blackwell": 10}


def table(profile: Profile) -> dict[str, Any]:
    return {
        f"MIG {mig.profile}": [
            *[mig.id, mig.slices, mig.most, mig.multiprocessors, *mig.engines, mig.memory_mib],
            [[start, mig.span] for start in mig.starts],
        ]
        for mig in profile.mig
    }


def run(machine: Machine, script: str) -> dict[str, Any]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library_folder()), **machine.environment}
    command = [sys.executable, "-c", HELPERS + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def machine_of(profile: str, folder: Path) -> Machine:
    return Machine.create(folder / "m", simulated_nodes(profile)[0])


def test_the_library_has_every_function_that_nvidias_driver_calls() -> None:
    library = ctypes.CDLL(str(library_folder() / NAME))
    assert [name for name in DRIVERS_CALLS if not hasattr(library, name)] == []


@pytest.mark.parametrize("profile", MACHINES)
def test_what_a_machine_is(profile: str, tmp_path: Path) -> None:
    machine = machine_of(profile, tmp_path)
    said = run(
        machine,
        WHAT,
    )
    wanted = machine.node.profile
    assert said["minors"] == list(range(wanted.gpus))
    assert said["architecture"] == ARCHITECTURES[wanted.architecture]
    assert said["brand"] == (2 if profile == "dgx-v100" else 14)
    assert said["cuda"] == 13000
    assert said["by_bus"] == machine.node.uuid(0)
    assert said["mig"] == (0 if wanted.mig else 3), "a V100 and an L40S have no MIG"
    assert said["most"] == 0
    assert said["addressing"] == {"": 3, "HMM": 1, "ATS": 2}[wanted.addressing]
    assert said["profiles"] == table(wanted)
    assert said["unknown"] == 2


@pytest.mark.gpu
def test_a_real_gpu_answers_as_its_simulation() -> None:
    """Reads alone: MIG's profiles and places of a GPU that we have a table of, and what else tells machines apart."""
    done = subprocess.run(
        [sys.executable, "-c", HELPERS + WHAT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    ours = next((p for p in map(load_profile, MACHINES) if p.product == said["name"]), None)
    if ours is None:
        pytest.skip(f"there is no table of a {said['name']}")
    assert (said["architecture"], said["brand"]) == (ARCHITECTURES[ours.architecture], 14)
    assert said["profiles"] == table(ours)
    assert said["unknown"] == 2


def test_parts_made_by_nvml_are_the_machines(tmp_path: Path) -> None:
    """Made, read by another process, and unmade, each with a UUID of its own; Python sees the same."""
    machine = machine_of("hgx-h100", tmp_path)
    said = run(
        machine,
        """
before = n.nvmlDeviceGetMigMode(gpus[2])
early = code(make, gpus[2], 19, 0, 1)
active = n.nvmlDeviceSetMigMode(gpus[2], 1)
first = about(*make(gpus[2], 19, 0, 1))
second = make(gpus[2], 9, 4, 4)
taken = [code(make, gpus[2], *place) for place in ((9, 4, 4), (5, 0, 4), (19, 7, 1), (77, 0, 1))]
busy = code(n.nvmlDeviceSetMigMode, gpus[2], 0)
half = refused("nvmlGpuInstanceDestroy", second[0])
old = about(*second)
destroy(*second)
again = about(*make(gpus[2], 9, 4, 4))
say(before=before, early=early, active=active, first=first, taken=taken, busy=busy, half=half, old=old, again=again,
    most=n.nvmlDeviceGetMaxMigDeviceCount(gpus[2]))
""",
    )
    assert (said["before"], said["early"], said["active"]) == ([0, 0], 3, 0)
    assert said["taken"] == [23, 23, 23, 2]
    assert (said["busy"], said["half"], said["most"]) == (19, 19, 7)
    assert said["first"][2:5] == [19, 0, 1]
    assert said["old"][2:5] == said["again"][2:5] == [9, 4, 4]
    assert said["old"][5] != said["again"][5]
    parts = machine.mig_state().of(2)
    assert [part.uuid for part in parts] == [said["first"][5], said["again"][5]]
    assert machine.mig_state().on == {2}
    # What Python makes, NVML finds, by index, by id, and by UUID.
    made = machine.create_part(2, machine.node.profile.mig_profile("2g.20gb"), 2)
    seen = run(
        machine,
        f"""
devices = [n.nvmlDeviceGetMigDeviceHandleByIndex(gpus[2], i) for i in range(3)]
one = n.nvmlDeviceGetHandleByUUID({made.uuid!r})
gi = ctypes.c_void_p()
call("nvmlDeviceGetGpuInstanceById", gpus[2], n.nvmlDeviceGetGpuInstanceId(one), ctypes.byref(gi))
ci = ctypes.c_void_p()
call("nvmlGpuInstanceGetComputeInstanceById", gi, n.nvmlDeviceGetComputeInstanceId(one), ctypes.byref(ci))
attributes = n.nvmlDeviceGetAttributes(one)
say(uuids=[n.nvmlDeviceGetUUID(d) for d in devices], about=about(gi, ci), sm=attributes.multiprocessorCount,
    memory=attributes.memorySizeMB, missing=code(n.nvmlDeviceGetMigDeviceHandleByIndex, gpus[2], 3),
    parent=n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(one)))
""",
    )
    assert seen["uuids"] == [part.uuid for part in machine.mig_state().of(2)]
    assert seen["about"] == [made.gpu_instance, made.compute_instance, 14, 2, 2, made.uuid]
    assert (seen["sm"], seen["memory"], seen["missing"]) == (32, 20096, 6)
    assert seen["parent"] == machine.node.uuid(2)


@pytest.mark.parametrize("profile", WITH_MIG)
def test_each_profile_can_be_made_at_each_of_its_places(profile: str, tmp_path: Path) -> None:
    machine = machine_of(profile, tmp_path)
    machine.mig(0)
    places = [[mig.id, start, mig.span] for mig in machine.node.profile.mig for start in mig.starts]
    said = run(
        machine,
        f"""
made = []
for place in {places}:
    part = make(gpus[0], *place)
    made.append(about(*part))
    destroy(*part)
say(made=made)
""",
    )
    assert [each[2:5] for each in said["made"]] == places
    assert len({each[5] for each in said["made"]}) == len(places)
    assert not machine.mig_state().parts


def test_nvml_and_python_refuse_the_same_parts(tmp_path: Path) -> None:
    """Every third part beside every two: what one makes, the other would have made."""
    machine = machine_of("hgx-h100", tmp_path)
    machine.mig(0)
    profile = machine.node.profile
    places = [(mig, start) for mig in profile.mig for start in mig.starts]
    chosen = [
        [places[a], places[b], places[c]] for a in (0, 8, 15, 18, 24) for b in range(0, 25, 6) for c in range(0, 25, 2)
    ]
    said = run(
        machine,
        f"""
made = []
for parts in {[[[mig.id, start, mig.span] for mig, start in parts] for parts in chosen]}:
    there = []
    for part in parts:
        try:
            there.append(make(gpus[0], *part))
        except n.NVMLError_InsufficientResources:
            pass
    made.append(sorted(about(*each)[2:4] for each in there))
    for each in there:
        destroy(*each)
say(made=made)
""",
    )
    for parts, made in zip(chosen, said["made"], strict=True):
        state = machine.mig_state()
        for mig, start in parts:
            try:
                state = state.with_part(profile, 0, mig, start, f"MIG-{len(state.parts)}")[0]
            except SimulationError:
                continue
        assert sorted([part.profile, part.start] for part in state.parts) == made


def test_ampere_turns_mig_on_with_a_reset_alone(tmp_path: Path) -> None:
    machine = machine_of("dgx-a100", tmp_path)
    said = run(machine, "say(active=n.nvmlDeviceSetMigMode(gpus[1], 1), mode=n.nvmlDeviceGetMigMode(gpus[1]))")
    assert said == {"active": 16, "mode": [0, 1]}
    machine.reset(1)
    assert run(machine, "say(mode=n.nvmlDeviceGetMigMode(gpus[1]))") == {"mode": [1, 1]}


@pytest.mark.parametrize(("profile", "codes"), [("hgx-h100", [0, 0]), ("dgx-a100", [0, 3])])
def test_seven_slices_come_with_nvlink_since_hopper(profile: str, codes: list[int], tmp_path: Path) -> None:
    """NVIDIA's DRA driver asks for them so; on an A100 it cannot make its largest part (its issue 1480)."""
    machine = machine_of(profile, tmp_path)
    machine.mig(0)
    script = """
gi = ctypes.c_void_p()
call("nvmlDeviceCreateGpuInstance", gpus[0], 0, ctypes.byref(gi))
info = (ctypes.c_uint * 9)()
say(codes=[refused("nvmlGpuInstanceGetComputeInstanceProfileInfo", gi, kind, 0, info) for kind in (4, 8)])
"""
    assert run(machine, script) == {"codes": codes}


def test_a_part_in_use_stays(tmp_path: Path) -> None:
    machine = machine_of("hgx-b200", tmp_path)
    (part,) = machine.mig(0, "1g.23gb")
    machine.part_in_use(part.uuid)
    script = """
one = n.nvmlDeviceGetMigDeviceHandleByIndex(gpus[0], 0)
gi, ci = ctypes.c_void_p(), ctypes.c_void_p()
call("nvmlDeviceGetGpuInstanceById", gpus[0], n.nvmlDeviceGetGpuInstanceId(one), ctypes.byref(gi))
call("nvmlGpuInstanceGetComputeInstanceById", gi, 0, ctypes.byref(ci))
say(code=code(destroy, gi, ci))
"""
    assert run(machine, script) == {"code": 19}
    assert machine.mig_state().parts == (part,)
    machine.heal()
    assert run(machine, script) == {"code": 0}
    assert not machine.mig_state().parts


def test_events_name_the_part_and_tell_of_a_lost_gpu(tmp_path: Path) -> None:
    machine = machine_of("hgx-h100", tmp_path)
    (part,) = machine.mig(1, "1g.10gb")
    said = run(
        machine,
        f"""
from pathlib import Path
from ray_dra.simulated.machine import Machine
machine = Machine(Path({str(machine.folder)!r}))
(part,) = machine.mig_state().parts
events = n.nvmlEventSetCreate()
for gpu in gpus:
    n.nvmlDeviceRegisterEvents(gpu, n.nvmlDeviceGetSupportedEventTypes(gpu), events)
machine.xid(1, 31, part)
machine.xid(2, 79)
seen = [n.nvmlEventSetWait(events, 5000) for _ in range(2)]
quiet = code(n.nvmlEventSetWait, events, 1)
machine.lose(3)
lost = [code(n.nvmlEventSetWait, events, 5000), code(n.nvmlEventSetWait, events, 1)]
machine.heal()
say(seen=[[e.eventData, e.gpuInstanceId, e.computeInstanceId] for e in seen], quiet=quiet, lost=lost,
    healed=code(n.nvmlEventSetWait, events, 1))
""",
    )
    everything = 0xFFFFFFFF
    assert said["seen"] == [[31, part.gpu_instance, part.compute_instance], [79, everything, everything]]
    assert (said["quiet"], said["lost"], said["healed"]) == (10, [15, 15], 10)


def test_errors_have_texts() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).nvmlErrorString;"
         "f.restype = ctypes.c_char_p; print(*(f(c).decode() for c in (0, 19, 23, 28, 77)), sep='|')",
         str(library_folder() / NAME)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (
        said.stdout.strip()
        == "Success|In use by another client|Insufficient Resources|No supported GPUs were found|Unknown Error"
    )


def test_a_containers_view_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves out what others have, and would write them away."""
    machine = machine_of("hgx-h100", tmp_path)
    (tmp_path / "visible").mkdir()
    (tmp_path / "visible" / machine.node.uuid(3)).touch()
    monkeypatch.setenv("RAY_DRA_SIMULATED_VISIBLE", str(tmp_path / "visible"))
    assert run(machine, "say(code=code(n.nvmlDeviceSetMigMode, gpus[0], 1))") == {"code": 4}
    assert not machine.mig_state().on
