"""The contracts of the ports, kept by the fakes that ship and by the real adapters alike."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from ray_dra.adapters.ray import KvStore, RayAdapter, bundle_of, check_ray, group_of
from ray_dra.errors import IncompatibleRay
from ray_dra.ports.ray import Ray
from ray_dra.ports.store import Store
from ray_dra.simulated.fakes import FakeRay, MemoryStore


@pytest.fixture(scope="module")
def real_ray() -> Iterator[None]:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local", num_cpus=2, num_gpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )
    yield
    ray.shutdown()


@pytest.fixture(params=["memory", pytest.param("kv", marks=pytest.mark.ray)])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    request.getfixturevalue("real_ray")
    return KvStore()


def test_a_store_keeps_what_it_is_given(store: Store) -> None:
    assert store.get("gang/a") is None
    store.put("gang/a", b"\x00one")
    store.put("gang/b", b"")
    store.put("map/a", b"three")
    assert store.get("gang/a") == b"\x00one"
    assert store.get("gang/b") == b""
    assert store.keys("gang/") == ["gang/a", "gang/b"]
    store.put("gang/a", b"two")
    assert store.get("gang/a") == b"two"
    for key in ("gang/a", "gang/b", "map/a", "gang/a"):
        store.delete(key)
    assert store.keys("") == []


class Faked:
    """One node with four GPUs, faked."""

    def __init__(self) -> None:
        self.ray = FakeRay()
        self.ray.add_node("n", gpus=4)
        self.ray.jobs.add("01")

    def port(self) -> Ray:
        return self.ray

    def create(self, gpus: int) -> str:
        return self.ray.create_group([{"GPU": float(gpus)}], [{}], "01")

    def start_actor(self, group: str) -> None:
        self.ray.groups[group].workers.add(0)

    def settle(self) -> None:
        self.ray.settle()

    def make_actor(self, name: str) -> tuple[str, str]:
        actor = name.encode().hex().ljust(32, "0")
        self.ray.actors[actor] = "01"
        return actor, "01"

    def end_actor(self, actor: str) -> None:
        del self.ray.actors[actor]


class Real:
    """One node with four GPUs, of a real Ray."""

    def __init__(self) -> None:
        self.groups: dict[str, Any] = {}
        self.actors: list[Any] = []
        self.by_id: dict[str, Any] = {}

    def port(self) -> Ray:
        return RayAdapter()

    def create(self, gpus: int) -> str:
        group = ray.util.placement_group([{"GPU": gpus}])
        group.wait(2)
        self.groups[group.id.hex()] = group
        return str(group.id.hex())

    def start_actor(self, group: str) -> None:
        class Busy:
            def here(self) -> bool:
                return True

        place = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(self.groups[group], 0)
        actor = ray.remote(Busy).options(num_gpus=2, num_cpus=0, scheduling_strategy=place).remote()
        assert ray.get(actor.here.remote())
        self.actors.append(actor)

    def settle(self) -> None:
        time.sleep(1.5)

    def make_actor(self, name: str) -> tuple[str, str]:
        class Controller:
            def here(self) -> str:
                return ray.get_runtime_context().get_actor_id() or ""

        handle = ray.remote(Controller).options(num_cpus=0, name=name, lifetime="detached").remote()
        actor = str(ray.get(handle.here.remote()))
        self.by_id[actor] = handle
        return actor, ray.get_runtime_context().get_job_id()

    def end_actor(self, actor: str) -> None:
        ray.kill(self.by_id.pop(actor))
        time.sleep(1.0)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.ray)])
def world(request: pytest.FixtureRequest) -> Faked | Real:
    if request.param == "fake":
        return Faked()
    request.getfixturevalue("real_ray")
    return Real()


def test_ray_is_seen_as_it_is(world: Faked | Real) -> None:
    port = world.port()
    view = port.view()
    assert len(view.nodes) == 1
    node = view.nodes[0]
    assert node.alive
    assert node.total["GPU"] == 4
    assert view.jobs
    group, too_big = world.create(2), world.create(3)
    view = port.view()
    assert view.groups[group].state == "CREATED"
    assert view.groups[group].nodes == (node.id,)
    assert view.groups[group].bundles[0]["GPU"] == 2
    assert view.groups[too_big].state == "PENDING"
    assert view.groups[too_big].nodes == (None,)
    world.start_actor(group)
    gpu_ids = [w.gpu_ids[group] for w in port.workers(node.id) if group in w.gpu_ids]
    assert gpu_ids == [(0, 1)], "Ray gives the lowest GPU ids first"
    port.remove_group(group)
    port.remove_group(group)
    port.remove_group(too_big)
    world.settle()
    view = port.view()
    assert not view.groups, "removed ones are not looked at any more, though Ray keeps them"
    assert not port.view().groups
    assert not [w for w in port.workers(node.id) if group in w.gpu_ids]
    assert port.workers("no such node") == ()
    assert port.answers(node.id)
    assert not port.answers("no such node")


def test_actors_and_their_jobs_are_seen_as_they_are(world: Faked | Real) -> None:
    """Those that keep ordinary placement groups, and the policies of their jobs."""
    port = world.port()
    assert port.actor_ended("e" * 32), "one that Ray has never had, or has forgotten"
    assert not port.has_actors("0a0b0c0d"), "a job of which Ray knows nothing"
    assert not port.has_actors("no job"), "a key that somebody else has written"
    (first, job), (second, same) = world.make_actor("first"), world.make_actor("second")
    assert job == same
    for ended in (first, second):
        assert port.has_actors(job)
        assert not port.actor_ended(ended)
        world.end_actor(ended)
        assert port.actor_ended(ended)
    assert not port.has_actors(job)


def test_resource_ids_are_read_right() -> None:
    group = "63f63f15a0883e1e43b58b58110001000000"
    assert group_of("GPU") == ""
    assert group_of("CPU") is None
    assert group_of(f"GPU_group_{group}") == group
    assert group_of(f"GPU_group_7_{group}") == group
    assert group_of(f"bundle_group_7_{group}") is None
    assert bundle_of(f"GPU_group_7_{group}") == (group, 7)
    assert bundle_of(f"GPU_group_{group}") is None
    assert bundle_of("GPU") is None


def test_the_self_test_names_what_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    check_ray()
    monkeypatch.delattr(ray._private.utils, "reset_visible_accelerator_env_vars")
    monkeypatch.setattr(ray._private.worker.Worker, "get_accelerator_ids_for_accelerator_resource", lambda self: [])
    with pytest.raises(IncompatibleRay) as caught:
        check_ray()
    assert "reset_visible_accelerator_env_vars" in caught.value.available
    assert "parameters of Worker.get_accelerator_ids_for_accelerator_resource" in caught.value.available
