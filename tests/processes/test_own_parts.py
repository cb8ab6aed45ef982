"""Parts of GPUs on raylets that were made for no gang: what the start hook offers, and what the workers' hook gives."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from ray_dra.adapters.ray import UNIT_INSTANCES, UNIT_INSTANCES_VARIABLE, part_of
from ray_dra.core.model.node import Node
from ray_dra.errors import RayDraError
from ray_dra.hooks import start
from ray_dra.ports.nvml import GpuReading, MigReading, NodeReading
from ray_dra.processes import start_hook
from ray_dra.processes.worker_hook import NO_PART, SeenDevice, _accelerator_ids, _maps, seen_devices
from ray_dra.translate.names import (
    GPU_DOMAIN,
    PART_PROFILES_VARIABLE,
    SLOT_VARIABLE,
    VISIBLE_VARIABLE,
    WORKER_HOOK_VARIABLE,
)
from ray_dra.translate.nvml.reading import node_from_reading

GROUP = "0f" * 18


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (PART_PROFILES_VARIABLE, UNIT_INSTANCES_VARIABLE, WORKER_HOOK_VARIABLE, VISIBLE_VARIABLE):
        monkeypatch.setenv(variable, "taken back at the end")
        monkeypatch.delenv(variable)
    monkeypatch.delenv(SLOT_VARIABLE, raising=False)


def node(*gpus: tuple[str, ...]) -> Node:
    """By the profiles of each GPU's parts; none: a whole GPU."""
    readings = []
    for at, profiles in enumerate(gpus):
        migs = tuple(MigReading(f"MIG-{at}-{n}", n, 0, 1, 9984, name=f"GPU MIG {p}") for n, p in enumerate(profiles))
        readings.append(GpuReading(at, f"GPU-{at}", "NVIDIA H100", memory=80 << 30, mig=bool(migs), migs=migs))
    return node_from_reading("n", NodeReading("580", tuple(readings)))


def started(monkeypatch: pytest.MonkeyPatch, found: Node, **params: Any) -> Any:
    monkeypatch.setattr(start_hook, "node_here", lambda name: found)
    given = SimpleNamespace(**({"labels": None, "num_gpus": None, "resources": None} | params))
    start(given, False)
    return given


def test_a_raylet_offers_parts_as_gpus_and_by_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    given = started(monkeypatch, node(("1g.10gb",) * 7, ("1g.10gb",) * 2))
    assert given.num_gpus == 9
    assert given.resources == {"MIG-1g.10gb": 9}
    assert os.environ[VISIBLE_VARIABLE].split(",") == [f"MIG-0-{n}" for n in range(7)] + ["MIG-1-0", "MIG-1-1"]
    assert GPU_DOMAIN not in given.labels
    assert UNIT_INSTANCES_VARIABLE not in os.environ, "a GPU id is enough where all parts are of a profile"


def test_what_the_user_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    given = started(monkeypatch, node(("1g.10gb",) * 7), num_gpus=3, resources={"own": 1})
    assert (given.num_gpus, given.resources) == (3, {"own": 1, "MIG-1g.10gb": 3})
    given = started(monkeypatch, node(("1g.10gb",) * 7), resources={"MIG-1g.10gb": 2})
    assert given.resources == {"MIG-1g.10gb": 2}
    monkeypatch.setenv(VISIBLE_VARIABLE, "MIG-0-5,MIG-0-1")
    given = started(monkeypatch, node(("1g.10gb",) * 7))
    assert (given.num_gpus, os.environ[VISIBLE_VARIABLE]) == (2, "MIG-0-5,MIG-0-1")


def test_whole_gpus_are_offered_as_before(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = started(monkeypatch, node((), ()))
    assert (given.num_gpus, given.resources) == (None, {})
    assert capsys.readouterr().err == ""
    given = started(monkeypatch, node((), ("1g.10gb",)))
    assert (given.num_gpus, given.resources) == (None, {})
    assert VISIBLE_VARIABLE not in os.environ
    assert "start a raylet for each of the two" in capsys.readouterr().err


def worker(**resources: list[int]) -> Any:
    ids = {name.replace("__", "."): [(number, 1.0) for number in numbers] for name, numbers in resources.items()}
    return SimpleNamespace(
        core_worker=SimpleNamespace(resource_ids=lambda: ids),
        original_visible_accelerator_ids={"GPU": os.environ[VISIBLE_VARIABLE].split(",")},
    )


def test_a_task_has_the_part_of_its_gpu_id(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, node(("1g.10gb",) * 7))
    (seen,) = seen_devices(worker(GPU=[4])) or []
    assert (seen.index, seen.uuid) == (4, "MIG-0-4")
    assert [d.uuid for d in seen_devices(worker(**{f"GPU_group_{GROUP}": [6, 2]})) or ()] == ["MIG-0-2", "MIG-0-6"]
    assert seen_devices(worker(CPU=[0])) is None


def test_of_several_profiles_a_task_has_the_one_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray numbers each profile for itself, whatever the GPU id is."""
    given = started(monkeypatch, node(("3g.40gb", "1g.10gb", "1g.10gb")))
    assert given.resources == {"MIG-3g.40gb": 1, "MIG-1g.10gb": 2}
    assert os.environ[UNIT_INSTANCES_VARIABLE] == f"{UNIT_INSTANCES},MIG-3g.40gb,MIG-1g.10gb"
    for gpu_id in range(3):
        for name, number, uuid in (
            ("MIG-3g.40gb", 0, "MIG-0-0"),
            ("MIG-1g.10gb", 0, "MIG-0-1"),
            ("MIG-1g.10gb", 1, "MIG-0-2"),
        ):
            (seen,) = seen_devices(worker(**{"GPU": [gpu_id], name: [number]})) or []
            assert seen.uuid == uuid
            both = {f"{name}_group_0_{GROUP}": [number], f"{name}_group_{GROUP}": [number]}
            (seen,) = seen_devices(worker(**{f"GPU_group_{GROUP}": [gpu_id]}, **both)) or []
            assert seen.uuid == uuid
    with pytest.raises(RayDraError, match="names the one that it wants"):
        seen_devices(worker(GPU=[0]))
    assert _accelerator_ids(worker(GPU=[0]), "GPU", "") == [NO_PART], "no error there, which Ray would not tell"


def test_in_a_gang_the_resource_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_maps, GROUP, [[SeenDevice(0, None, "n", None)], [SeenDevice(1, None, "n", None)]])
    monkeypatch.setenv(VISIBLE_VARIABLE, "MIG-a,MIG-b")
    named = {f"MIG-1g.10gb_group_1_{GROUP}": [0], f"MIG-1g.10gb_group_{GROUP}": [0]}
    (seen,) = seen_devices(worker(**named)) or []
    assert seen.uuid == "MIG-b"
    assert seen_devices(worker(**{"MIG-1g.10gb": [0]})) is None


def test_the_names_of_resources_of_parts() -> None:
    assert part_of("MIG-1g.10gb") == ("1g.10gb", "", None)
    assert part_of(f"MIG-1g.10gb_group_{GROUP}") == ("1g.10gb", GROUP, None)
    assert part_of(f"MIG-1g.10gb_group_12_{GROUP}") == ("1g.10gb", GROUP, 12)
    assert part_of("GPU") is None
    assert part_of(f"bundle_group_12_{GROUP}") is None
