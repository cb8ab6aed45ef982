"""examples/unchanged: programs of Ray's alone, run with the address and without, on one cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import ray_dra
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster

pytestmark = pytest.mark.ray
PROGRAMS = Path(__file__).parents[3] / "examples" / "unchanged"


def run(program: str, address: str, *arguments: str, **environment: str) -> str:
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program) if arguments == () else program, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**own, "RAY_ADDRESS": address, **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def ours(program: str, cluster: LocalCluster, locality: str = "") -> list[str]:
    """What it prints through ray-dra."""
    return lines(run(program, f"ray_dra://{cluster.address}" + (f"?locality={locality}" if locality else "")))


def rays(program: str, cluster: LocalCluster) -> list[str]:
    """What it prints as Ray has it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.token)}
    return lines(run(program, cluster.address, **token))


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


def lines(text: str) -> list[str]:
    """Those of the program, without what Ray and its libraries print."""
    return [line for line in text.splitlines() if re.match(r"(group|rank|trial|replica|actor|\d+ clique)", line)]


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
        *found, cliques = ours("verl_shaped.py", free, "*verl_group_*=same_clique(set=2)")
    assert found == [f"group {number}: GPUs 0 1 2 3" for number in range(2)], "in the order of the bundles"
    assert cliques == "1 clique"


def test_a_train_run_lies_in_one_clique(free: LocalCluster) -> None:
    *ranks, cliques = ours("train.py", free)
    assert cliques == "1 clique"
    assert len(ranks) == 4
    assert all(re.fullmatch(r"rank \d: GPUs (0,1|2,3)", rank) for rank in ranks), ranks


def test_each_trial_lies_in_one_clique(free: LocalCluster) -> None:
    found = ours("tune_trials.py", free)
    assert len(found) == 4
    assert all(re.fullmatch(r"trial: 1 clique, GPUs (0,1|2,3) (0,1|2,3)", line) for line in found), found


def test_each_replica_lies_in_one_clique(free: LocalCluster) -> None:
    found = ours("serve_replicas.py", free)
    assert found
    assert all(re.fullmatch(r"replica: 1 clique, GPUs (0,1|2,3) (0,1|2,3)", line) for line in found), found


def test_ranks_as_vllm_makes_them_for_a_replica(free: LocalCluster) -> None:
    """One whole node and half of another, both in one clique; the first rank where the engine is."""
    *ranks, cliques = ours("vllm_shaped.py", free)
    assert cliques == "1 clique"
    assert [rank.partition(":")[0] for rank in ranks] == [f"rank {number}" for number in range(6)]
    gpus = Counter(rank.partition("GPU ")[2] for rank in ranks)
    assert set(gpus) == {"0", "1", "2", "3"}, ranks
    assert sorted(gpus.values()) == [1, 1, 2, 2], ranks


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
@pytest.mark.parametrize(("program", "least"), [("train.py", 5), ("tune_trials.py", 4), ("serve_replicas.py", 1)])
def test_it_runs_as_ray_has_it_without_the_address(free: LocalCluster, program: str, least: int) -> None:
    assert len(rays(program, free)) >= least


def test_a_controller_of_a_job_without_our_address_is_planned_where_its_call_says_so(free: LocalCluster) -> None:
    """Nothing of the job's own has our hook: the raylets of the cluster have."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(free.token)}
    expected = ["group True 0 left to Ray", "group True 1 planned", "group True 0 left to Ray"]
    assert lines(run("-c", free.address, ANOTHER_JOB, **token)) == expected
