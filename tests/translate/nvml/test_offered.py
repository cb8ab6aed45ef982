"""Which parts a raylet offers as its GPUs, and which of them a task has."""

from __future__ import annotations

from itertools import permutations

import pytest

from ray_dra.core.model.node import Node
from ray_dra.ports.nvml import GpuReading, MigReading, NodeReading
from ray_dra.translate.nvml.offered import numbers_of_parts, offered_parts
from ray_dra.translate.nvml.reading import node_from_reading
from ray_dra.translate.vendors import part_resources

PARTS = {"a": ("3g.40gb", "1g.10gb"), "b": ("1g.10gb", "1g.10gb")}


def node(*, whole: bool = False) -> Node:
    gpus = []
    for at, (gpu, profiles) in enumerate((PARTS | ({"c": ()} if whole else {})).items()):
        migs = tuple(
            MigReading(f"MIG-{gpu}{n}", n, 0, 1, 9984, name=f"NVIDIA H100 MIG {profile}")
            for n, profile in enumerate(profiles)
        )
        gpus.append(GpuReading(at, f"GPU-{gpu}", "NVIDIA H100", memory=80 << 30, mig=bool(migs), migs=migs))
    return node_from_reading("n", NodeReading("580", tuple(gpus)))


@pytest.mark.parametrize(
    ("visible", "offered"),
    [
        (None, ["MIG-a0", "MIG-a1", "MIG-b0", "MIG-b1"]),
        ("", []),
        ("0", ["MIG-a0", "MIG-a1"]),
        ("1,0", ["MIG-b0", "MIG-b1", "MIG-a0", "MIG-a1"]),
        ("GPU-b", ["MIG-b0", "MIG-b1"]),
        ("MIG-b1,MIG-a0", ["MIG-b1", "MIG-a0"]),
        ("MIG-b", ["MIG-b0"]),
        ("MIG-b1,MIG-x,MIG-a0", ["MIG-b1"]),
        ("MIG-b1,1", ["MIG-b1", "MIG-b0"]),
        ("7", []),
    ],
)
def test_a_raylet_offers_the_parts_that_it_may_see(visible: str | None, offered: list[str]) -> None:
    parts = offered_parts(node(), visible)
    assert parts is not None
    assert [part.uuid for part in parts] == offered


def test_parts_beside_whole_gpus_are_not_offered() -> None:
    """Ray's GPU ids would not tell one from the other."""
    assert offered_parts(node(whole=True), None) is None
    assert offered_parts(node(whole=True), "2") == ()
    assert offered_parts(node(whole=True), "MIG-a0,GPU-c") is None
    assert [part.uuid for part in offered_parts(node(whole=True), "MIG-a0") or ()] == ["MIG-a0"]
    assert offered_parts(None, None) == ()


def test_resources_count_the_parts_of_each_profile() -> None:
    parts = offered_parts(node(), None) or ()
    assert part_resources(part.profile for part in parts) == {"MIG-3g.40gb": 1.0, "MIG-1g.10gb": 3.0}
    assert part_resources(()) == {}


def test_what_ray_numbers_of_each_profile_is_one_part_each() -> None:
    """Whatever the order of the profiles: all of Ray's numbers together are all parts, each of its profile."""
    for profiles in set(permutations(("3g.40gb", "1g.10gb", "1g.10gb", "2g.20gb"))):
        named = [("1g.10gb", 0), ("1g.10gb", 1), ("2g.20gb", 0), ("3g.40gb", 0)]
        found = numbers_of_parts(profiles, named)
        assert sorted(found) == [0, 1, 2, 3]
        assert [profiles[at] for at in found] == [profile for profile, _ in named]
