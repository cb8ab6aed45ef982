"""Which GPUs tasks and actors see: the planned ones, by real Ray and the real NVML path."""

from __future__ import annotations

import os
import signal

import pytest
import ray

import ray_dra
from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.conftest import eventually, pinned, planned, seen

pytestmark = pytest.mark.ray


def test_a_worker_sees_its_own_machine_by_nvml(free: LocalCluster) -> None:
    def names() -> list[str]:
        import pynvml

        pynvml.nvmlInit()
        return [
            pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())
        ]

    for node in free.nodes:
        task = ray.remote(names).options(label_selector={"ray-dra.io/node": node.name})
        assert ray.get(task.remote()) == [node.uuid(i) for i in range(4)]


def test_every_bundle_sees_exactly_its_planned_gpus(free: LocalCluster) -> None:
    """Tasks, actors, bundle_index -1, captured children; CUDA_VISIBLE_DEVICES, get_gpu_ids and get_devices."""
    with ray_dra.placement_group(
        [{"GPU": 2, "CPU": 2}] * 4, locality=ray_dra.same_clique(segment=2), strategy="SPREAD"
    ) as gang:
        assert gang.wait(30)
        task = ray.remote(seen)
        for bundle in range(4):
            assert ray.get(task.options(num_gpus=2, **pinned(gang, bundle)).remote()) == planned(gang, bundle)
        heard = ray.remote(ray_dra.get_notice).options(num_gpus=2, **pinned(gang, 0)).remote()
        assert ray.get(heard) is None is ray_dra.get_notice() is gang.notice()
        any_bundle = ray.get([task.options(num_gpus=2, **pinned(gang, -1)).remote() for _ in range(8)])
        assert all(found in [planned(gang, b) for b in range(4)] for found in any_bundle)

        class Parent:
            def own(self) -> object:
                return seen()

            def child(self) -> object:
                return ray.get(ray.remote(seen).options(num_gpus=1, num_cpus=1).remote())

        parent = (
            ray.remote(Parent)
            .options(num_gpus=1, num_cpus=1, **pinned(gang, 0, placement_group_capture_child_tasks=True))
            .remote()
        )
        own, child = ray.get([parent.own.remote(), parent.child.remote()])
        every = {u for b in range(4) for u in planned(gang, b)[2]}
        assert len(own[2]) == len(child[2]) == 1
        assert set(own[2]) <= set(planned(gang, 0)[2])
        assert set(child[2]) <= every - set(own[2])


def test_parts_of_a_bundle_share_it_out(free: LocalCluster) -> None:
    class Part:
        def see(self) -> object:
            return seen()

        def pid(self) -> int:
            return os.getpid()

    with ray_dra.placement_group([{"GPU": 4, "CPU": 4}]) as gang:
        gang.wait(30)
        parts = [
            ray.remote(Part).options(num_gpus=1, num_cpus=1, max_restarts=1, **pinned(gang, 0)).remote()
            for _ in range(4)
        ]
        found = ray.get([p.see.remote() for p in parts])
        assert sorted(u for f in found for u in f[2]) == sorted(planned(gang, 0)[2])
        # A restarted actor has one of the bundle's GPUs again, and nobody else's.
        os.kill(ray.get(parts[0].pid.remote()), signal.SIGKILL)

        def back() -> bool:
            try:
                return bool(ray.get(parts[0].see.remote(), timeout=5))
            except ray.exceptions.RayError:
                return False

        eventually(back, 30)
        again = ray.get([p.see.remote() for p in parts])
        assert sorted(u for f in again for u in f[2]) == sorted(planned(gang, 0)[2])


def test_an_actor_that_restarts_sees_the_same_gpus_in_order(free: LocalCluster) -> None:
    class Whole:
        def see(self) -> object:
            return os.getpid(), seen()

    with ray_dra.placement_group([{"GPU": 4}]) as gang:
        gang.wait(30)
        actor = (
            ray.remote(Whole)
            .options(num_gpus=4, num_cpus=0, max_restarts=1, max_task_retries=2, **pinned(gang, 0))
            .remote()
        )
        pid, first = ray.get(actor.see.remote())
        os.kill(pid, signal.SIGKILL)
        again, second = ray.get(actor.see.remote())
        assert again != pid
        assert first == second == planned(gang, 0)


def test_the_users_hook_and_environment_still_apply(free: LocalCluster) -> None:
    def environment() -> tuple[str | None, ...]:
        return tuple(os.environ.get(n) for n in ("USERS_HOOK", "USERS_VARIABLE", "TASKS_VARIABLE"))

    with ray_dra.placement_group([{"GPU": 1}]) as gang:
        gang.wait(30)
        both = ray.remote(lambda: (environment(), seen()))
        own = {"env_vars": {"TASKS_VARIABLE": "mine"}}
        got = ray.get(both.options(num_gpus=1, num_cpus=0, runtime_env=own, **pinned(gang, 0)).remote())
        assert got == (("ran", "kept", "mine"), planned(gang, 0))
