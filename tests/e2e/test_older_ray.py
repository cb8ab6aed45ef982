"""The embedded cluster on the minor of Ray before the suite's: a gang, and ranks that see what was planned.

That Ray is laid over the suite's packages, by hash (`older_ray.txt`, from `older_ray.in` by `make lock`); all else is
as locked. What it proves stands in docs/install.md's table of versions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

LOCK = Path(__file__).with_name("older_ray.txt")
PROJECT = Path(__file__).parents[2]
PROGRAM = """
import json, os
import ray, ray_dra
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

def seen():
    return {"ray": ray.__version__, "visible": os.environ["CUDA_VISIBLE_DEVICES"], "ids": ray.get_gpu_ids(),
            "uuids": [device.uuid for device in ray_dra.get_devices()]}

ray.init("ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2", log_to_driver=False, logging_level="ERROR")
with ray_dra.placement_group([{"GPU": 2}] * 2, "STRICT_SPREAD", locality=ray_dra.same_clique()) as gang:
    gang.wait(timeout=100)
    rank = ray.remote(num_gpus=2, num_cpus=0)(seen)
    at = [Strategy(gang.placement_group, bundle) for bundle in range(2)]
    ranks = ray.get([rank.options(scheduling_strategy=each).remote() for each in at], timeout=100)
    bundles = gang.allocation.bundles
    print("TOLD", json.dumps({"ranks": ranks, "nodes": [each.node for each in bundles],
                              "planned": [[[grant.index, grant.uuid] for grant in each.grants] for each in bundles],
                              "cliques": len(set(gang.allocation.cliques))}))
"""


def version_locked() -> str:
    found = re.search(r"^ray==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_it_is_the_minor_before() -> None:
    before, now = (tuple(map(int, version.split(".")[:2])) for version in (version_locked(), ray.__version__))
    assert (before[0], before[1] + 1) == now
    said = (PROJECT / "docs" / "install.md").read_text()
    assert f"| Ray | {now[0]}.{now[1]}, {before[0]}.{before[1]} |" in said
    project = (PROJECT / "pyproject.toml").read_text()
    assert f'\n    "ray>={before[0]}.{before[1]},<{now[0]}.{now[1] + 1}",\n' in project


@pytest.mark.ray  # fetches 79 MB where the cache of uv has not got them
@pytest.mark.timeout(600)
def test_a_gang_sees_what_was_planned(tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable]
    subprocess.run([*command, "--target", str(tmp_path / "ray"), "-r", str(LOCK)], check=True)
    path = os.pathsep.join([str(tmp_path / "ray"), str(PROJECT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("TOLD "))
    told = json.loads(line.removeprefix("TOLD "))
    assert {rank["ray"] for rank in told["ranks"]} == {version_locked()}
    for rank, planned in zip(told["ranks"], told["planned"], strict=True):
        indices, uuids = map(list, zip(*planned, strict=True))
        assert (rank["ids"], rank["uuids"]) == (indices, uuids)
        assert rank["visible"] == ",".join(map(str, indices))
    assert told["cliques"] == 1
    assert len(set(told["nodes"])) == 2
