"""End to end on the embedded cluster: real Ray, the real NVML path, simulated machines."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray

import ray_dra
from ray_dra.core.gangs.lifecycle import Phase
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster
from ray_dra.simulated.profile import machine_address
from ray_dra.translate.files.snapshot import dump_snapshot

from .conftest import eventually, pinned, planned, seen

pytestmark = pytest.mark.ray


def test_labels_and_topology(free: LocalCluster) -> None:
    topology = ray_dra.topology()
    assert len(topology.nodes) == 4
    assert [c.devices for c in topology.cliques.values()] == [8, 8]
    labels = {n["Labels"]["ray-dra.io/node"]: n["Labels"] for n in ray.nodes() if "ray-dra.io/node" in n["Labels"]}
    for name, node in topology.nodes.items():
        assert labels[name]["ray.io/gpu-domain"] == node.clique
        assert labels[name]["ray.io/accelerator-type"] == "GB200"
        assert [d.uuid for d in node.devices] == [free.machine(name).node.uuid(i) for i in range(4)]


def test_each_node_has_an_address_and_an_accelerator_type(free: LocalCluster) -> None:
    """As real nodes do: libraries count machines by their address, and tasks may ask for a type."""
    nodes = ray.nodes()
    addresses = {n["NodeManagerAddress"] for n in nodes}
    assert len(addresses) == len(nodes) == 5
    for node in nodes:
        if kind := node["Labels"].get("ray.io/accelerator-type"):
            assert node["Resources"][f"accelerator_type:{kind}"] == 1
    where = ray.remote(ray.util.get_node_ip_address)
    found = ray.get(
        where.options(label_selector={"ray-dra.io/node": free.nodes[3].name}, accelerator_type="GB200").remote()
    )
    assert found == machine_address(3)


STRANGER = """
import grpc, ray, sys
from ray._private.internal_api import node_stats
from ray_dra.adapters.ray import GcsStore
host, _, port = sys.argv[2].rpartition(":")
try:
    print("raylet", bool(node_stats(host, int(port), include_memory_info=False)))
except grpc.RpcError as error:
    print("raylet refused" if error.code() is grpc.StatusCode.UNAUTHENTICATED else error)
try:
    print("keys", GcsStore(sys.argv[1]).get("no such key"))
except ray.exceptions.AuthenticationError:
    print("keys refused")
try:
    ray.init(sys.argv[1], logging_level="CRITICAL", log_to_driver=False, _node_ip_address="127.0.0.2")
    print("task", ray.get(ray.remote(lambda: 42).remote(), timeout=60))
except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError):
    print("task refused")
"""


def test_the_cluster_is_closed_to_whoever_has_no_token(free: LocalCluster) -> None:
    """From the machine's other address, on which Ray's servers listen, too; each program has its own state of Ray."""
    addresses = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family is socket.AF_INET]
    others = [address for address in addresses if not address.startswith("127.")]
    if not others:
        pytest.skip("this machine has no other address")
    address = f"{others[0]}:{free.address.rpartition(':')[2]}"
    node = next(n for n in ray.nodes() if n["NodeManagerAddress"] == machine_address(0))
    raylet = f"{others[0]}:{node['NodeManagerPort']}"
    own = {n: v for n, v in os.environ.items() if not n.startswith("RAY_AUTH")}
    environments: list[dict[str, str]] = [
        {"HOME": "/nonexistent"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(free.token)},
    ]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", STRANGER, address, raylet],
            stdout=subprocess.PIPE,
            text=True,
            env={**own, "RAY_gcs_server_request_timeout_seconds": "3", **environment},
        )
        for environment in environments
    ]
    none, wrong, right = [p.communicate(timeout=120)[0].splitlines() for p in programs]
    assert none == wrong == ["raylet refused", "keys refused", "task refused"]
    assert right == ["raylet True", "keys None", "task 42"]
    assert free.folder.stat().st_mode & 0o777 == 0o700


def test_the_programs_own_token_settings_are_left_alone(free: LocalCluster) -> None:
    """Its environment has no token while it is connected, and its workers have the cluster's."""
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert os.environ.get("RAY_AUTH_MODE") != "token"
    found = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN_PATH"]).remote())
    assert found == str(free.token)


def test_the_command_line_connects_beside_the_program(free: LocalCluster) -> None:
    command = [sys.executable, "-m", "ray_dra.cli", "topology", "--address", free.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all(node.name in done.stdout for node in free.nodes)


def test_the_command_line_tells_a_gangs_history_and_the_log_has_it(free: LocalCluster) -> None:
    with ray_dra.placement_group([{"GPU": 4}], name="told") as gang:
        assert gang.wait(30)
        command = [sys.executable, "-m", "ray_dra.cli", "gangs", "told", "--address", free.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        first, *history = done.stdout.splitlines()
        assert first.split()[:2] == ["told", "ready"]
        assert [line.split("  ")[2].split(" -> ")[-1] for line in history] == ["held", "placing", "ready"]
    (log,) = {path.resolve() for path in free.folder.rglob("ray-dra-coordinator.log")}
    decisions = [line.split(" INFO ")[1] for line in log.read_text().splitlines() if "gang told: " in line]
    assert decisions[0] == "gang told: held: submitted; devices are held"
    assert decisions[-1].startswith("gang told: gone: ")


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


def test_rays_own_topology_strategy_works_here(free: LocalCluster) -> None:
    group = ray.util.placement_group([{"GPU": 4}] * 2, topology_strategy={"ray.io/gpu-domain": "STRICT_PACK"})
    assert group.wait(30)
    ray.util.remove_placement_group(group)


def test_ours_takes_rays_parameters(free: LocalCluster) -> None:
    with ray_dra.placement_group(
        [{"GPU": 4}] * 2,
        name="named",
        topology_strategy={"ray.io/gpu-domain": "STRICT_PACK", "ray.io/node-id": "STRICT_SPREAD"},
    ) as gang:
        gang.wait(30)
        assert gang.allocation is not None
        assert len(set(gang.allocation.cliques)) == 1
        assert len(set(gang.allocation.nodes)) == 2
        assert ray.util.get_placement_group("named").id == gang.placement_group.id
        with pytest.raises(ray_dra.NameTaken):
            ray_dra.placement_group([{"GPU": 1}], name="named")
    node = free.nodes[3].name
    with ray_dra.placement_group([{"GPU": 1}], bundle_label_selector=[{"ray-dra.io/node": node}]) as gang:
        assert gang.allocation is not None
        assert gang.allocation.nodes == (node,)


BAD: list[tuple[object, dict[str, object]]] = [
    ([], {}),
    ([{"GPU": 0}], {}),
    ([{"GPU": -1}], {}),
    ([{"GPU": 0.5}], {}),
    ([{"GPU": 100_000}], {}),
    ([{"CPU": 1}], {}),
    ([{}], {}),
    ([{"GPU": 1}] * 3, {"locality": ray_dra.same_clique(segment=2)}),
    ([{"GPU": 1}], {"strategy": "NOWHERE"}),
    ([{"GPU": 1}], {"topology_strategy": {"rack": "STRICT_PACK"}}),
    ([{"GPU": 1}], {"lifetime": "forever"}),
    ([{"GPU": 1}], {"bundle_label_selector": []}),
]
IMPOSSIBLE: list[tuple[list[dict[str, float]], dict[str, object], str]] = [
    ([{"GPU": 5}], {}, "5 GPUs in one bundle"),
    ([{"GPU": 4}] * 5, {}, "20 GPUs"),
    ([{"GPU": 4}] * 3, {"locality": ray_dra.same_clique()}, "3 bundles of 4 GPUs"),
    ([{"GPU": 1}], {"product": "NVIDIA GH200"}, "NVIDIA GH200"),
    ([{"GPU": 1, "CPU": 1000}], {}, "1000 CPU"),
]


@pytest.mark.parametrize(("bundles", "options"), BAD, ids=str)
def test_bad_requests_are_typed_errors_that_hold_nothing(
    free: LocalCluster, bundles: object, options: dict[str, object]
) -> None:
    with pytest.raises(ray_dra.InvalidRequest) as caught:
        ray_dra.placement_group(bundles, **options)  # type: ignore[arg-type]
    assert caught.value.reason
    assert caught.value.place
    assert not ask(coordinator().gangs.remote())


@pytest.mark.parametrize(("bundles", "options", "wanted"), IMPOSSIBLE, ids=str)
def test_impossible_requests_say_what_was_missing_where(
    free: LocalCluster, bundles: list[dict[str, float]], options: dict[str, object], wanted: str
) -> None:
    with pytest.raises(ray_dra.UnsatisfiableError) as caught:
        ray_dra.placement_group(bundles, **options)  # type: ignore[arg-type]
    assert any(wanted in s.wanted_text for s in caught.value.shortfalls)
    assert caught.value.place
    assert caught.value.available
    assert not ask(coordinator().gangs.remote())


def test_contradictory_localities_are_refused() -> None:
    with pytest.raises(ray_dra.InvalidRequest, match="contradict"):
        _ = ray_dra.at_most_cliques(1) & ray_dra.at_most_cliques(2)


def test_plan_answers_without_holding(free: LocalCluster) -> None:
    answer = ray_dra.plan([{"GPU": 4}] * 2, locality=ray_dra.same_clique())
    assert not isinstance(answer, Unsatisfiable)
    assert isinstance(ray_dra.plan([{"GPU": 4}] * 3, locality=ray_dra.same_clique()), Unsatisfiable)
    assert not ask(coordinator().gangs.remote())


def test_a_snapshot_of_the_live_cluster_answers_as_it_does(free: LocalCluster, tmp_path: Path) -> None:
    """With a gang on it; in this process, and by the command line on the file that it wrote."""
    with ray_dra.placement_group([{"GPU": 4, "CPU": 1}], name="holder") as gang:
        assert gang.wait(30)
        # Until Ray's view of the placed group has come, its GPUs count as others' work, too.
        eventually(lambda: not any(o.devices for o in ray_dra.snapshot().others.values()), 10)
        found = ray_dra.snapshot()
        assert [a.gang for a in found.gangs] == [gang.id]
        file = tmp_path / "cluster.yaml"
        file.write_text(dump_snapshot(found))
        for bundles, locality in (
            ([{"GPU": 4}] * 2, ray_dra.same_clique()),
            ([{"GPU": 2}] * 3, ray_dra.same_clique()),
            ([{"GPU": 4}] * 4, ray_dra.same_clique(segment=2)),
            ([{"GPU": 5}], None),
        ):
            live = ray_dra.plan(bundles, locality=locality)
            replayed = ray_dra.plan(bundles, locality=locality, cluster=file)
            assert type(replayed) is type(live)
            if isinstance(live, Allocation) and isinstance(replayed, Allocation):
                assert replayed.bundles == live.bundles
            if isinstance(live, Unsatisfiable) and isinstance(replayed, Unsatisfiable):
                assert replayed.shortfalls == live.shortfalls
        refused = ray_dra.plan([{"GPU": 4}] * 4, locality=ray_dra.same_clique(segment=2), cluster=file)
        assert isinstance(refused, Unsatisfiable)
        assert refused.counterfactual is not None
        assert refused.counterfactual.leaving is not None
        assert refused.counterfactual.leaving.gangs == (gang.id,)


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
