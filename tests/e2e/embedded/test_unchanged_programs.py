"""examples/unchanged: programs of Ray's alone, run with the address and without, on one cluster."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster

pytestmark = pytest.mark.ray
PROGRAMS = Path(__file__).parents[3] / "examples" / "unchanged"


def run(program: str, address: str, **environment: str) -> str:
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**own, "RAY_ADDRESS": address, **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def both(program: str, cluster: LocalCluster) -> tuple[str, str]:
    """What it prints through ray-dra, and as Ray has it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.token)}
    return run(program, f"ray_dra://{cluster.address}"), run(program, cluster.address, **token)


def needs(module: str) -> pytest.MarkDecorator:
    """The libraries of Ray are no part of the development install; tests of them run where they are."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module}, which a library of Ray needs, is not installed")


def test_no_program_knows_of_ray_dra() -> None:
    for program in PROGRAMS.glob("*.py"):
        assert not re.search(r"^\s*(import|from) ray_dra\b", program.read_text(), re.MULTILINE), program


def test_groups_lie_in_one_clique_each(free: LocalCluster) -> None:
    ours, rays = both("groups.py", free)
    assert ours.splitlines() == [f"group {number}: 1 clique, GPUs 0,1,2,3 and 0,1,2,3" for number in range(2)]
    assert len(rays.splitlines()) == 2
    assert not ask(coordinator().gangs.remote())


def test_a_group_a_node_as_verl_makes_them(free: LocalCluster) -> None:
    ours, rays = both("verl_shaped.py", free)
    for text in (ours, rays):
        assert [sorted(line.split()[3:]) for line in text.splitlines()] == [list("0123")] * 2
    assert ours.splitlines() == [f"group {number}: GPUs 0 1 2 3" for number in range(2)], "in the order of the bundles"


@needs("pyarrow")
def test_a_train_run_lies_in_one_clique(free: LocalCluster) -> None:
    ours, rays = both("train.py", free)
    assert ours.splitlines()[-1] == "1 clique"
    ranks = re.findall(r"rank \d: GPUs (\d),(\d)", ours)
    assert len(ranks) == 4
    assert all(int(second) == int(first) + 1 for first, second in ranks), "neighbours"
    assert len(re.findall(r"rank \d: GPUs \d,\d", rays)) == 4


@needs("pyarrow")
def test_each_trial_lies_in_one_clique(free: LocalCluster) -> None:
    ours, rays = both("tune_trials.py", free)
    assert len(rays.splitlines()) == 4
    for line in ours.splitlines():
        assert re.fullmatch(r"trial: 1 clique, GPUs (0,1|2,3) (0,1|2,3)", line), ours


@needs("starlette")
def test_each_replica_lies_in_one_clique(free: LocalCluster) -> None:
    ours, rays = both("serve_replicas.py", free)
    assert len(rays.splitlines()) == len(ours.splitlines()) == 2
    for line in ours.splitlines():
        assert re.fullmatch(r"replica: 1 clique, GPUs (0,1|2,3) (0,1|2,3)", line), ours
