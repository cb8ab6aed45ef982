"""A gang changes its shape on the GPUs that it has: its work drains, and workers see the next bundles' GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

import ray_dra
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.reshape import NOTICE
from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.conftest import eventually, pinned, planned, seen

pytestmark = pytest.mark.ray


def gpus(gang: ray_dra.GangPlacementGroup) -> set[str | None]:
    assert gang.allocation is not None
    return {grant.uuid for grant in gang.allocation.grants}


def placed(gang: ray_dra.GangPlacementGroup, size: int) -> None:
    """Each bundle's worker sees what was planned for it."""
    bundles = range(gang.bundle_count)
    look = ray.remote(seen)
    found = ray.get(
        [look.options(num_gpus=size, num_cpus=0, **pinned(gang, bundle)).remote() for bundle in bundles], timeout=180
    )
    assert found == [planned(gang, bundle) for bundle in bundles]


def test_the_same_gpus_in_other_shapes_and_back(free: LocalCluster) -> None:
    gang = ray_dra.placement_group([{"GPU": 2}] * 4, name="shapes", locality=ray_dra.same_clique())
    copied = ray.cloudpickle.loads(ray.cloudpickle.dumps(gang))
    gang.wait(30)
    mine = gpus(gang)
    for count, size in ((2, 4), (4, 2)):
        gang.reshape([{"GPU": size}] * count, locality=ray_dra.same_clique(), grace=5)
        assert gang.phase is Phase.READY
        assert gang.bundle_count == count
        assert gpus(gang) == mine
        placed(gang, size)
        copied.wait(30)
        assert copied.placement_group.id == gang.placement_group.id
        assert copied.bundle_count == count
    with pytest.raises(ray_dra.UnsatisfiableError, match="own GPUs"):
        gang.reshape([{"GPU": 4}] * 3)
    with pytest.raises(ray_dra.InvalidRequest, match="other claims"):
        gang.reshape([{"GPU": 1}] * 8, part=ray_dra.mig("1g.10gb"))
    assert gang.bundle_count == 4
    gang.remove()
    assert gang.phase is Phase.GONE


def polite(mark: Path) -> str:
    """Works until it hears of its end."""
    mark.touch()
    notice = ray_dra.get_notice(120)
    return notice.reason if notice is not None else ""


def deaf(mark: Path) -> None:
    mark.touch()
    time.sleep(600)


def test_work_has_notice_and_its_grace_time(free: LocalCluster, tmp_path: Path) -> None:
    gang = ray_dra.placement_group([{"GPU": 2}] * 2)
    gang.wait(30)

    def start(work: Callable[[Path], object], bundles: int, size: int) -> list[Any]:
        task, alone = ray.remote(work), {"num_gpus": size, "num_cpus": 0, "max_retries": 0}
        marks = [tmp_path / f"{work.__name__}-{bundle}" for bundle in range(bundles)]
        started = [task.options(**alone, **pinned(gang, b)).remote(mark) for b, mark in enumerate(marks)]
        eventually(lambda: all(mark.exists() for mark in marks), 60)
        return started

    working = start(polite, 2, 2)
    gang.reshape([{"GPU": 1}] * 4, grace=600)  # it does not take as long: they end when they hear of it
    assert ray.get(working, timeout=5) == [NOTICE] * 2
    working = start(deaf, 4, 1)
    gang.reshape([{"GPU": 4}], grace=1)
    for each in working:
        with pytest.raises(ray.exceptions.RayError):
            ray.get(each, timeout=30)
    placed(gang, 4)
    gang.remove()
