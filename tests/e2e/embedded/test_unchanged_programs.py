"""examples/unchanged: programs of Ray's alone, run with the address and without, on one cluster."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
import ray

import ray_dra
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.embedded.programs import PROGRAMS, Plans, lines, ours, rays, run

pytestmark = pytest.mark.ray
ANOTHER_JOB = """
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray_dra.processes.calls import ask, coordinator

class Controller:  # as Serve has one, started by the dashboard's job
    def make(self, **more):
        self.made = placement_group([{"GPU": 4}] * 2, name=f"replica {len(more)}", **more)
        return self.made.wait(60), self.made.id.hex()

    def remove(self):
        remove_placement_group(self.made)

ray.init(log_to_driver=False)
controller = ray.remote(Controller).options(num_cpus=0, resources={"node:__internal_head__": 0.001}).remote()
for more in ({}, {"bundle_label_selector": [{"ray-dra.io/locality": "same_clique"}] * 2}, {}):
    ready, group = ray.get(controller.make.remote(**more))
    gangs = {gang.gang: gang for gang in ask(coordinator().gangs.remote())}
    print("group", ready, len(more), "planned" if group in gangs else "left to Ray")
    ray.get(controller.remove.remote())
"""


A_REPLICA_THAT_DRAINS = """
import sys, time
import ray
from ray import serve

def look():
    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Labels"] for n in ray.nodes() if n["NodeID"] == node)
    return node, labels["ray.io/gpu-domain"], labels["ray-dra.io/node"]

class Pair:
    def __init__(self):
        self.name = serve.get_replica_context().replica_tag
        self.places = [look(), ray.get(ray.remote(look).options(num_gpus=2, num_cpus=0).remote())]

    def __call__(self):
        return self.name, self.places

ray.init(log_to_driver=False)
serve.start(proxy_location="Disabled")
pair = serve.deployment(
    ray_actor_options={"num_cpus": 0.25, "num_gpus": 2}, placement_group_bundles=[{"CPU": 0.25, "GPU": 2}, {"GPU": 2}]
)(Pair)
handle = serve.run(pair.bind(), name="pair", route_prefix=None)
first, before = handle.remote().result()
((node, clique, name),) = set(before)
print("replica on", name, flush=True)
deadline = int((time.time() + 120) * 1000)
ray._private.worker.global_worker.gcs_client.drain_node(node, 2, "the machine goes", deadline)
while (found := handle.remote().result())[0] == first:
    time.sleep(0.2)
after = found[1]
print("replica moved", node not in {node for node, _, _ in after})
print("replica in its clique", {each for _, each, _ in after} == {clique})
serve.shutdown()
ray.shutdown()
"""


def test_no_program_knows_of_ray_dra() -> None:
    for program in PROGRAMS.glob("*.py"):
        assert not re.search(r"^\s*(import|from) ray_dra\b", program.read_text(), re.MULTILINE), program


def test_groups_lie_in_one_clique_each(free: LocalCluster) -> None:
    expected = [f"group {number}: 1 clique, GPUs 0,1,2,3 and 0,1,2,3" for number in range(2)]
    assert ours("groups.py", free) == expected
    assert not ask(coordinator().gangs.remote())
    assert len(rays("groups.py", free)) == 2


def test_a_group_a_node_as_verl_makes_them_is_one_gang_where_they_are_a_set(free: LocalCluster) -> None:
    """The first by itself would go to the clique that has one node left."""
    with ray_dra.placement_group([{"GPU": 4}]) as other:
        other.wait(30)
        *found, cliques = ours("verl_shaped.py", free, locality="*verl_group_*=same_clique(set=2)")
    assert found == [f"group {number}: GPUs 0 1 2 3" for number in range(2)], "in the order of the bundles"
    assert cliques == "1 clique"


@pytest.mark.parametrize("program", ["train.py", "train_torch.py"])
def test_a_train_run_lies_in_one_clique(free: LocalCluster, program: str) -> None:
    if program == "train_torch.py":
        pytest.importorskip("torch", reason="torch is not installed")
    plans = Plans()
    *ranks, cliques = ours(program, free, look=plans)
    assert cliques == "1 clique"
    assert len(ranks) == 4
    assert all(re.fullmatch(r"rank \d: GPUs (0,1|2,3)", rank) for rank in ranks), ranks
    assert [rank.partition("GPUs ")[2] for rank in ranks] == plans.only(), "rank n has what was planned for bundle n"


@pytest.mark.by_hand  # 50 s; the one in one clique counts too
def test_an_elastic_train_run_has_as_many_workers_as_there_are_gpus_for(free: LocalCluster) -> None:
    plans = Plans()
    *ranks, size = ours("train_elastic.py", free, look=plans)
    assert size == "8 workers in 2 cliques"
    assert [rank.partition("GPUs ")[2] for rank in ranks] == plans.only() == ["0,1", "2,3"] * 4


class Elastic(Plans):
    """Takes a node away once the run's workers have all started, and brings it back once fewer have. Each size is a
    gang of its own. `waited`: of how many bundles groups waited after that."""

    def __init__(self, cluster: LocalCluster, lost: str, *before: str) -> None:
        super().__init__(*before)
        self._cluster, self._lost = cluster, lost
        self.lost_at = self.shrunk_at = self.back_at = self.grown_at = 0.0
        self.waited: set[int] = set()

    def __call__(self) -> None:
        super().__call__()
        if len(self.found) == 3 and not self.grown_at:
            self.grown_at = time.monotonic()
        if self.lost_at:
            self.waited |= {each.bundles for each in ask(coordinator().gangs.remote()) if each.allocation is None}
        try:
            starts = len(ray.get(ray.get_actor("seen", namespace="elastic").whole.remote()))
        except (ValueError, ray.exceptions.RayError):  # it has not come so far, or has ended
            return
        there = self._lost in self._cluster.raylets()
        if starts == 1 and there:
            self._cluster.kill_node(self._lost)
            self.lost_at = time.monotonic()
        elif starts == 2 and not there:
            self.shrunk_at = time.monotonic()
            self._cluster.add_node(self._lost)
            self.back_at = time.monotonic()

    def gpus(self) -> list[str]:
        """What was planned for each rank, start by start."""
        return [gpus for plan in self.found.values() for gpus in plan]


@pytest.mark.by_hand  # 77 s; so does the one in one clique
def test_an_elastic_train_run_goes_on_with_fewer_where_a_node_is_lost(free: LocalCluster) -> None:
    """Six workers on three nodes: four in one clique, two in the other."""
    lost = free.nodes[3].name
    run = Elastic(free, lost)
    try:
        found = ours("train_elastic.py", free, "2", look=run)
    finally:
        if lost not in free.raylets():
            free.add_node(lost)
    assert [line for line in found if "workers" in line] == ["8 workers in 2 cliques", "6 workers in 2 cliques"]
    assert run.waited <= {6}, "as many as there were are not asked for again"
    assert [line.partition("GPUs ")[2] for line in found if line.startswith("rank")] == run.gpus()


def test_an_elastic_train_run_in_one_clique_shrinks_and_grows_back_there(free: LocalCluster) -> None:
    """The other clique is taken. Without a policy of ours Train would ask for as many as the cluster has GPUs for."""
    with ray_dra.placement_group([{"GPU": 4}] * 2, locality=ray_dra.same_clique()) as gang:
        gang.wait(60)
        assert gang.allocation is not None
        lost = next(node.name for node in reversed(free.nodes) if node.name not in gang.allocation.nodes)
        run = Elastic(free, lost, gang.id)
        try:
            found = ours("train_elastic.py", free, "3", "4", "5", locality="same_clique", look=run)
        finally:
            if lost not in free.raylets():
                free.add_node(lost)
    print(
        f"{run.shrunk_at - run.lost_at:.1f} s from the loss to all ranks of the next size; "
        f"{run.grown_at - run.back_at:.1f} s from the node's return to the place of more"
    )
    assert [line for line in found if "workers" in line] == [f"{size} workers in 1 clique" for size in (4, 2, 4)]
    assert [line.partition("GPUs ")[2] for line in found if line.startswith("rank")] == run.gpus()


def test_each_trial_lies_in_one_clique(free: LocalCluster) -> None:
    found = ours("tune_trials.py", free)
    assert len(found) == 4
    assert all(re.fullmatch(r"trial: 1 clique, GPUs (0,1|2,3) (0,1|2,3)", line) for line in found), found


def test_each_replica_lies_in_one_clique(free: LocalCluster) -> None:
    plans = Plans()
    *replicas, members, alone = ours("serve_replicas.py", free, look=plans)
    assert len(replicas) == 2
    assert all(re.fullmatch(r"replica: 1 clique, GPUs (0,1|2,3) (0,1|2,3)", line) for line in replicas), replicas
    assert re.fullmatch(r"gang of replicas: 1 clique, GPUs (0,1|2,3) (0,1|2,3)", members), members
    assert re.fullmatch(r"replica alone: 1 clique, GPUs (0,1|2,3)", alone), "a plain actor of Ray's"
    assert len(plans.found) == 3, "two replicas and a gang of two"
    seen = sorted(sorted(line.rpartition("GPUs ")[2].split()) for line in (*replicas, members))
    assert seen == sorted(map(sorted, plans.found.values()))


def test_a_replica_whose_node_ray_drains_is_replaced_in_its_clique(free: LocalCluster) -> None:
    """Serve makes another one, and ends the one that is there once that runs."""
    plans = Plans()
    address = f"ray_dra://{free.address}?locality=prefer:same_clique(scope=application)"
    try:
        found = lines(run("-c", A_REPLICA_THAT_DRAINS, address=address, look=plans))
    finally:
        for name in {node for plan in plans.nodes.values() for node in plan[:1]}:
            if name in free.raylets():
                free.kill_node(name)  # it may still drain
            free.add_node(name)
    (first, second) = plans.nodes.values()
    assert found == [f"replica on {first[0]}", "replica moved True", "replica in its clique True"]
    assert first[0] not in second


def test_ranks_as_vllm_makes_them_for_a_replica(free: LocalCluster) -> None:
    """One whole node and half of another, both in one clique; the first rank where the engine is."""
    plans = Plans()
    *ranks, cliques = ours("vllm_shaped.py", free, look=plans)
    assert [rank.partition("GPU ")[2] for rank in ranks] == plans.only(), "rank n has what was planned for bundle n"
    assert cliques == "1 clique"
    assert [rank.partition(":")[0] for rank in ranks] == [f"rank {number}" for number in range(6)]
    gpus = Counter(rank.partition("GPU ")[2] for rank in ranks)
    assert set(gpus) == {"0", "1", "2", "3"}, ranks
    assert sorted(gpus.values()) == [1, 1, 2, 2], ranks


def test_ranks_as_vllm_makes_them_have_what_a_gang_left_of_a_clique(free: LocalCluster) -> None:
    """Three GPUs of each of its nodes."""
    with ray_dra.placement_group([{"GPU": 1}] * 4, strategy="STRICT_SPREAD") as gang:
        gang.wait(60)
        assert gang.allocation is not None
        (taken,) = {grant.index for placed in gang.allocation.bundles for grant in placed.grants}
        plans = Plans(gang.id)
        *ranks, cliques = ours("vllm_shaped.py", free, look=plans)
    assert cliques == "1 clique"
    gpus = [rank.partition("GPU ")[2] for rank in ranks]
    assert gpus == plans.only()
    assert Counter(gpus) == {str(gpu): 2 for gpu in range(4) if gpu != taken}


@pytest.mark.by_hand  # 68 s, most of it Ray Data's start
def test_actors_of_data_beside_a_gang_train(free: LocalCluster) -> None:
    """A gang has half of each node: the actors have the other half, whatever Ray counts."""
    with ray_dra.placement_group([{"GPU": 2}] * 4, strategy="STRICT_SPREAD") as gang:
        gang.wait(60)
        assert gang.allocation is not None
        taken = {",".join(str(grant.index) for grant in placed.grants) for placed in gang.allocation.bundles}
        found = ours("data_actors.py", free)
    assert 1 <= len(found) <= 2
    assert not {line.partition("GPUs ")[2] for line in found} & taken, (found, taken)


@pytest.mark.by_hand
@pytest.mark.parametrize(
    ("program", "least"), [("train.py", 5), ("train_elastic.py", 9), ("tune_trials.py", 4), ("serve_replicas.py", 4)]
)
def test_it_runs_as_ray_has_it_without_the_address(free: LocalCluster, program: str, least: int) -> None:
    assert len(rays(program, free)) >= least


def test_a_controller_of_a_job_without_our_address_is_planned_where_its_call_says_so(free: LocalCluster) -> None:
    """Nothing of the job's own has our hook: the raylets of the cluster have."""
    expected = ["group True 0 left to Ray", "group True 1 planned", "group True 0 left to Ray"]
    assert lines(run("-c", ANOTHER_JOB, address=free.address, token=str(free.token))) == expected
