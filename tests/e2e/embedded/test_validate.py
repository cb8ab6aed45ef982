"""`ray-dra validate` on a cluster that runs, with a gang that has some of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import ray_dra
from ray_dra.cli.exit_codes import USAGE
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster

pytestmark = pytest.mark.ray


def run(*words: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "ray_dra.cli", "validate", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout if "json" not in words else json.loads(done.stdout)


@pytest.mark.timeout(300)
def test_each_clique_is_tried_with_what_is_free_of_it_and_given_back(free: LocalCluster) -> None:
    with ray_dra.placement_group([{"GPU": 4}, {"GPU": 4}], locality=ray_dra.same_clique()) as whole:
        whole.wait(60)
        code, said = run("--address", free.address, "-o", "json", "--timeout", "60")
        assert (code, said["ok"]) == (0, True), said
        taken, tried = sorted(said["cliques"], key=lambda clique: clique["gpus"])
        assert [each["said"] for each in taken["verdicts"]] == ["no GPU of it is free"]
        assert (tried["gpus"], len(tried["nodes"]), tried["kind"]) == (8, 2, "rack")
        found = {each["what"]: (each["ok"], each["said"]) for each in tried["verdicts"]}
        assert found["gang"] == (True, "2 bundles ready")
        assert found["GPUs"] == (True, "8 GPUs, each rank sees those planned, in order")
        assert found["fabric"] == (True, f"completed, clique {tried['clique']}")
        assert found["IMEX"][0] is None
        assert found["sum"][0] is True
        assert [status.gang for status in ask(coordinator().gangs.remote())] == [whole.id], "each is given back"
        code, text = run("--address", free.address, "--clique", taken["clique"])
        assert (code, text.splitlines()[-1]) == (0, "ok: 0 of 1 clique well, 1 not validated")
    code, text = run("--address", free.address, "--clique", "nowhere")
    assert code == USAGE
