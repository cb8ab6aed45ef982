"""A gang of a higher priority takes the devices of another, whose program goes on with its handle afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

import ray_dra
from ray_dra.core.gangs.phases import Phase
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.conftest import eventually, pinned

pytestmark = pytest.mark.ray

GRACE = 2.0


class Trainer:
    """A rank that counts its steps, and saves them when it has notice."""

    def __init__(self, folder: str) -> None:
        self.saved = Path(folder) / "step"
        self.step = int(self.saved.read_text()) if self.saved.exists() else 0

    def where(self) -> list[str]:
        return [device.uuid or "" for device in ray_dra.get_devices()]

    def train(self) -> str:
        """Until it has notice; why."""
        for _ in range(600):
            self.step += 1
            notice = ray_dra.get_notice(0.1)
            if notice is not None:
                self.saved.write_text(str(self.step))
                ray_dra.checkpointed()
                return notice.reason
        return "no notice came"

    def steps(self) -> int:
        return self.step


def test_a_higher_priority_has_its_clique_within_the_grace_and_the_victim_goes_on(
    free: LocalCluster, tmp_path: Path
) -> None:
    ask_for = [{"GPU": 4}] * 2
    clique = ray_dra.same_clique()
    with (
        ray_dra.placement_group(ask_for, locality=clique, name="firm") as firm,
        ray_dra.placement_group(ask_for, locality=clique, name="low", preemptible=True, grace=GRACE) as low,
    ):
        firm.wait(60)
        low.wait(60)
        before, group = low.allocation, low.placement_group
        rank = ray.remote(Trainer).options(num_gpus=4, num_cpus=0, **pinned(low, 0)).remote(str(tmp_path))
        ray.get(rank.where.remote(), timeout=60)
        told = rank.train.remote()
        began = time.monotonic()
        with ray_dra.placement_group(ask_for, locality=clique, name="high", priority=5) as high:
            assert ray.get(told, timeout=60) == "preempted by high, of priority 5"
            assert "with GPUs of low, which end or move for it" in high.explain()
            high.wait(60)
            assert time.monotonic() - began < GRACE + 5 + 30, "a hang"
            assert before is not None
            assert high.allocation is not None
            assert set(high.allocation.nodes) == set(before.nodes)
            assert (low.phase, firm.phase) == (Phase.QUEUED, Phase.READY)
            with pytest.raises(ray.exceptions.RayError):
                ray.get(rank.where.remote(), timeout=60)
            print(f"a clique after {time.monotonic() - began:.1f} s, grace {GRACE:g} s")
        # Nobody but the coordinator does anything for it.
        eventually(lambda: ask(coordinator().status.remote(low.id)).phase is Phase.READY, 60)
        assert low.wait(60)
        assert low.placement_group != group
        again = ray.remote(Trainer).options(num_gpus=4, num_cpus=0, **pinned(low, 0)).remote(str(tmp_path))
        placed = low.allocation
        assert placed is not None
        assert ray.get(again.where.remote(), timeout=60) == [grant.uuid for grant in placed.bundles[0].grants]
        assert ray.get(again.steps.remote(), timeout=60) > 0, "from its checkpoint"
