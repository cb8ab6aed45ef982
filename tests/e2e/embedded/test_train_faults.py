"""An unchanged run of Ray Train on raylets that others share: it hears of a fault, and goes on from its checkpoint."""

from __future__ import annotations

import re
import time

import pytest
import ray

import ray_dra
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.conftest import reset
from tests.e2e.embedded.programs import PROGRAMS, Plans, lines, run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
GRACE = 25.0
STEPS = 40  # Train takes a report every two seconds


class Faulty(Plans):
    """Gives a GPU of the run an XID once it has done some steps, and asks for what would be left of its clique."""

    def __init__(self, cluster: LocalCluster, *before: str) -> None:
        super().__init__(*before)
        self._cluster = cluster
        self.at = 0.0
        self.lost: tuple[str, int] | None = None
        self.rival: ray_dra.GangPlacementGroup | None = None
        self.rival_waits: bool | None = None  # None: it was not asked once the run had started again

    def __call__(self) -> None:
        super().__call__()
        try:
            _, steps, _ = ray.get(ray.get_actor("seen", namespace="checkpoints").all.remote())
        except (ValueError, ray.exceptions.RayError):  # it has not come so far, or has ended
            return
        if self.rival is not None:
            if self.rival_waits is None and len(steps) > 1 and len(steps[1]) > 2:
                self.rival_waits = self.rival.allocation is None
            return
        if not steps or len(steps[0]) < 3 or not watched():
            return
        (plan,) = (s.allocation for s in ask(coordinator().gangs.remote()) if s.gang in self.found)
        self.rival = ray_dra.placement_group([{"GPU": 1}] * 3, locality=ray_dra.same_clique())
        self._before = (*self._before, self.rival.id)
        (grant, *_) = plan.bundles[-1].grants
        self._cluster.machine(plan.bundles[-1].node).xid(grant.index, 79)
        self.at, self.lost = time.time(), (plan.bundles[-1].node, grant.index)


def watched() -> bool:
    """Whether Train's watcher is there, which comes after the ranks; it would tell them as soon as it is."""
    actors = ray._private.state.actors().values()
    return any(each["ActorClassName"] == "PreemptionWatcher" and each["State"] == "ALIVE" for each in actors)


def test_a_train_run_hears_of_an_xid_and_goes_on_from_its_checkpoint_in_its_clique(free: LocalCluster) -> None:
    """The other clique is taken, and somebody waits for three GPUs, of which the run's clique has two: while it starts
    again its place is kept, but for the GPU that is lost. Its own failures may be none (`max_failures=0`)."""
    address = f"ray_dra://{free.address}?locality=same_clique&on_fault=restart,grace={GRACE:g}"
    with ray_dra.placement_group([{"GPU": 4}] * 2, locality=ray_dra.same_clique()) as gang:
        gang.wait(60)
        assert gang.allocation is not None
        taken = gang.allocation.nodes
        fault = Faulty(free, gang.id)
        try:
            *found, heard = lines(
                run(
                    str(PROGRAMS / "train_checkpoints.py"), str(STEPS), "1000", address=address, look=fault, seconds=400
                )
            )
        finally:
            if fault.rival is not None:
                fault.rival.remove()
            if fault.lost is not None:
                reset(free, *fault.lost)
    said = re.fullmatch(r"start 0 heard of its end at ([0-9.]+)", heard)
    assert said is not None, [*found, heard]
    after = float(said.group(1)) - fault.at
    print(f"the script heard {after:.2f} s after the XID")
    assert 0 < after < GRACE, "before anything of it ends"
    starts = [line for line in found if line.startswith("start")]
    (first, again) = (re.fullmatch(r"start \d: steps (\d+) to (\d+), 1 clique", line) for line in starts)
    assert first is not None, starts
    assert again is not None, starts
    assert (first.group(1), again.group(2)) == ("0", str(STEPS - 1))
    assert int(first.group(2)) - 1 <= int(again.group(1)) - 1 <= int(first.group(2)), "at most one step is lost"
    _, now = fault.nodes.values()
    assert not set(now) & set(taken), "in its clique"
    gpus = [line.partition("GPUs ")[2] for line in found if line.startswith("rank")]
    assert gpus == [each for plan in fault.found.values() for each in plan]
    there = {(node, int(index)) for node, each in zip(now, gpus[3:], strict=True) for index in each.split(",")}
    assert fault.lost not in there
    assert fault.rival_waits is True
