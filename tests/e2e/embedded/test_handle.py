"""A gang's handle: waiting in order, timing out, copies of it, and a gang among queued work of others."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import ray

import ray_dra
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.processes.calls import ask
from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.conftest import eventually, pinned, planned, seen

pytestmark = pytest.mark.ray


def test_waiting_in_order_timing_out_and_removing_twice(free: LocalCluster) -> None:
    everything = ray_dra.placement_group([{"GPU": 4}] * 4)
    everything.wait(30)
    with pytest.raises(ray_dra.UnsatisfiableError, match="does not fit now"):
        ray_dra.placement_group([{"GPU": 1}], wait=False)
    waiting = ray_dra.placement_group([{"GPU": 4}])
    assert waiting.phase is Phase.QUEUED
    assert "waits for" in waiting.explain()
    with pytest.raises(ray_dra.GangTimeout) as caught:
        waiting.wait(0.5)
    assert caught.value.wanted
    assert caught.value.available
    assert waiting.phase is Phase.GONE  # type: ignore[comparison-overlap]  # it was queued
    patient = ray_dra.placement_group([{"GPU": 4}])
    reference = patient.ready()
    everything.remove()
    everything.remove()
    ray.get(reference, timeout=20)
    assert patient.phase is Phase.READY
    assert patient.placement_group.wait(1)
    patient.remove()


def test_a_handle_goes_wherever_rays_own_goes(free: LocalCluster) -> None:
    """Into tasks and actors, while the gang is queued and when it is ready; copies find the same placement group."""

    def see(gang: ray_dra.GangPlacementGroup) -> object:
        gang.wait(60)
        allocation = gang.allocation
        ray.get(gang.ready())
        return gang.id, gang.placement_group.id.hex(), allocation, gang.bundle_count, gang.phase, gang.explain()

    class Holder:
        def hold(self, gang: ray_dra.GangPlacementGroup) -> object:
            self.gang = gang
            found = ray.remote(seen).options(num_gpus=4, num_cpus=0, **pinned(gang, 0)).remote()
            return see(gang), ray.get(found)

        def remove(self) -> None:
            self.gang.remove()

    everything = ray_dra.placement_group([{"GPU": 4}] * 4)
    everything.wait(30)
    gang = ray_dra.placement_group([{"GPU": 4}], name="passed")
    assert gang.phase is Phase.QUEUED
    copies = [copy.deepcopy(gang), ray.cloudpickle.loads(ray.cloudpickle.dumps(gang)), gang]
    assert set(copies) == {gang}
    references = [c.ready() for c in copies]
    task = ray.remote(see).options(num_cpus=0).remote(gang)
    waiting = [threading.Thread(target=c.wait) for c in (*copies, copy.copy(gang))]
    for thread in waiting:
        thread.start()
    everything.remove()
    ray.get(references, timeout=60)
    for thread in waiting:
        thread.join(60)
    expected = see(gang)
    assert ray.get(task, timeout=60) == expected
    assert see(copies[1]) == expected
    groups = [g for g in ray.util.placement_group_table().values() if g["state"] == "CREATED"]
    assert [g["placement_group_id"] for g in groups] == [gang.placement_group.id.hex()], "all made or found the one"
    holder = ray.remote(Holder).options(num_cpus=0).remote()
    assert ray.get(holder.hold.remote(gang), timeout=60) == (expected, planned(gang, 0))
    ray.get(holder.remove.remote(), timeout=60)
    with pytest.raises(ray_dra.GangGone):
        copies[0].explain()
    with pytest.raises(ray_dra.GangGone):
        _ = copy.deepcopy(gang).placement_group
    with pytest.raises(ray_dra.GangGone):
        copies[1].wait()
    with pytest.raises(ray_dra.GangGone):
        ask(copies[0].ready())


def test_a_gang_waits_for_one_clique_for_as_long_as_it_says(free: LocalCluster) -> None:
    """One of two trays is taken in each clique; two bundles would fit now, in two cliques."""
    fillers = [ray_dra.placement_group([{"GPU": 4}]) for _ in range(3)]
    for filler in fillers:
        filler.wait(30)
    fillers[1].remove()
    near = ray_dra.same_clique(required=False, patience=2)
    with ray_dra.placement_group([{"GPU": 4}] * 2, locality=near) as gang:
        assert gang.phase is Phase.QUEUED
        assert "2 s for what it prefers" in gang.explain()
        gang.wait(30)
        assert gang.allocation is not None
        assert len(set(gang.allocation.cliques)) == 2
    patient = ray_dra.placement_group([{"GPU": 4}] * 2, locality=ray_dra.same_clique(required=False, patience=600))
    assert patient.phase is Phase.QUEUED
    fillers[2].remove()
    patient.wait(30)
    assert patient.allocation is not None
    assert len(set(patient.allocation.cliques)) == 1
    patient.remove()
    fillers[0].remove()


def test_a_gang_among_queued_work_of_others(free: LocalCluster) -> None:
    """A backlog of plain GPU tasks; the gang gets its nodes, in order, and nobody shares a device."""

    def work(seconds: float) -> tuple[float, float, str, list[str]]:
        began = time.time()
        time.sleep(seconds)
        _, _, uuids = seen()
        return began, time.time(), "", uuids

    tasks = [ray.remote(work).options(num_gpus=1, num_cpus=0).remote(0.4) for _ in range(24)]
    time.sleep(1)
    with ray_dra.placement_group([{"GPU": 2}] * 2, locality=ray_dra.same_clique()) as gang:
        gang.wait(60)
        actors = [ray.remote(work).options(num_gpus=2, num_cpus=0, **pinned(gang, b)).remote(1.0) for b in range(2)]
        ours = ray.get(actors)
        for bundle in range(2):
            assert ours[bundle][3] == planned(gang, bundle)[2]
        others = ray.get(tasks)
    # Ended tasks have said so, though their worker processes live on: every GPU can be planned again.
    eventually(lambda: not isinstance(ray_dra.plan([{"GPU": 4}] * 4), Unsatisfiable), 10)
    for began, ended, _, uuids in others:
        for b, e, _, mine in ours:
            if began < e and b < ended:
                assert not set(uuids) & set(mine), "a task ran on a gang's GPU"
    for i, (began, ended, _, uuids) in enumerate(others):
        for b, e, _, theirs in others[:i]:
            if began + 0.05 < e and b + 0.05 < ended:
                assert not set(uuids) & set(theirs), "two tasks shared a GPU"
