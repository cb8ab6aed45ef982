"""What starts must end: processes, files and actors of clusters, however the program that started them ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ray_dra.simulated.cluster import PREFIX, LocalCluster
from ray_dra.simulated.profile import simulated_nodes

ROOT = Path(__file__).parents[2]
EMBEDDED = "ray_dra://embedded?profile=gb200-nvl72&nodes=1"


def left_over(marker: str) -> list[str]:
    """Living processes that have `marker` (the cluster's folder) in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            text = " ".join(process.cmdline()) + " ".join(process.environ().values())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if marker in text:
            found.append(f"{process.pid} {text[:100]}")
    return found


def run(code: str, *, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


START = f"""
import ray, ray_dra, sys, time
ray.init("{EMBEDDED}", log_to_driver=False, logging_level="ERROR")
print(ray_dra.embedded_cluster().folder, flush=True)
gang = ray_dra.placement_group([{{"GPU": 4}}], lifetime="detached", name="kept")
gang.wait(60)
print("ready", flush=True)
"""


@pytest.mark.ray
def test_shutdown_and_the_end_of_the_program_leave_nothing() -> None:
    program = run(START + "ray.shutdown(); print('down', flush=True); time.sleep(60)")
    assert program.stdout is not None
    try:
        folder = program.stdout.readline().strip()
        assert Path(folder).exists()
        assert left_over(folder)
        assert program.stdout.readline() == "ready\n"
        assert program.stdout.readline() == "down\n"
        assert not Path(folder).exists()
        assert not left_over(folder)
    finally:
        program.kill()
        program.wait()


@pytest.mark.ray
def test_programs_that_die_leave_nothing() -> None:
    """Killed, terminated, or simply at its end without ray.shutdown(): three at the same time."""
    ends = (signal.SIGKILL, signal.SIGTERM, None)
    programs = [run(START + ("time.sleep(600)" if end else "")) for end in ends]
    try:
        folders = [_line(program) for program in programs]
        assert [_line(program) for program in programs] == ["ready"] * 3
        for program, end in zip(programs, ends, strict=True):
            if end is not None:
                program.send_signal(end)
        for program in programs:
            program.wait(30)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert len(set(folders)) == 3
    deadline = time.monotonic() + 20
    while any(left_over(folder) or Path(folder).exists() for folder in folders):
        assert time.monotonic() < deadline, [left_over(folder) for folder in folders]
        time.sleep(0.2)


def _line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


STARTING = f"""
import os, secrets, signal, sys
from ray_dra.simulated import cluster
folder, steps = sys.argv[1], int(sys.argv[2])
secrets.token_hex = lambda length: folder  # a name that this test knows
read = cluster._read

def read_and_die(*arguments):
    global steps
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    steps -= 1
    return read(*arguments)

cluster._read = read_and_die
import ray
ray.init("{EMBEDDED}")
"""


@pytest.mark.ray
def test_programs_that_die_during_the_start_leave_nothing() -> None:
    """Before its supervisor's first word, while the head starts, while NVML is read, while a raylet starts."""
    names = [f"t{os.getpid()}{steps}" for steps in range(4)]
    folders = [Path("/tmp") / f"{PREFIX}{name}" for name in names]
    programs = [subprocess.Popen([sys.executable, "-c", STARTING, *each]) for each in zip(names, "0123", strict=True)]
    try:
        assert [program.wait(120) for program in programs] == [-signal.SIGKILL] * 4
    finally:
        for program in programs:
            program.kill()
    deadline = time.monotonic() + 20
    while any(left_over(str(folder)) or folder.exists() for folder in folders):
        assert time.monotonic() < deadline, [left_over(str(folder)) for folder in folders]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def plain_ray() -> Iterator[LocalCluster]:
    """A Ray cluster that ray-dra did not start: two raylets with GPUs, no labels of ours, no hook."""
    cluster = LocalCluster._start(simulated_nodes("gb200-nvl72", nodes=2), None, plain=True)
    yield cluster
    cluster.stop()


JOIN = """
import os, ray, ray_dra, sys, json
from ray._raylet import get_authentication_mode
from tests.e2e.conftest import seen, pinned

def authentication():
    return {n: v for n, v in os.environ.items() if "RAY_AUTH" in n}, str(get_authentication_mode())

before = authentication()
ray.init("ray_dra://" + sys.argv[1], log_to_driver=False, logging_level="ERROR")
connected = authentication()
with ray_dra.placement_group([{"GPU": 2}] * 4, locality=ray_dra.same_clique()) as gang:
    gang.wait(60)
    planned = [[g.uuid for g in b.grants] for b in gang.allocation.bundles]
    task = ray.remote(seen)
    got = ray.get([task.options(num_gpus=2, num_cpus=0, **pinned(gang, b)).remote() for b in range(4)])
    cliques = len(ray_dra.topology().cliques)
ray.shutdown()
print(json.dumps([planned, [g[2] for g in got], cliques, before, connected, authentication()]))
"""
PLAIN = """
import os, ray, sys, time
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.2")
"""
LOOK = (
    PLAIN
    + """
from ray.experimental import internal_kv
names = ray.util.list_named_actors(all_namespaces=True)
print(len(names) + len(internal_kv._internal_kv_list(b"", namespace=b"ray_dra")))
"""
)
SUCCESSION = (
    PLAIN
    + """
import itertools
from ray_dra.processes import start_coordinator as starts
from ray_dra.processes.calls import ask
from ray_dra.processes.start_coordinator import start_coordinator
from ray_dra.adapters.ray import KvStore
from ray_dra.errors import CoordinatorUnavailable
from ray_dra.translate.names import SESSION_KEY
starts.greet(None)
first = start_coordinator()
KvStore().delete(SESSION_KEY + ray.get_runtime_context().get_job_id())  # to the coordinator this program has ended
deadline = time.monotonic() + 60
try:
    while time.monotonic() < deadline:
        ask(first.pid.remote())
except CoordinatorUnavailable:
    pass
found = itertools.chain([first, first], map(start_coordinator, itertools.repeat(None)))
starts.start_coordinator = lambda kubernetes: next(found)  # the next one found the first, just before its end
starts.greet(None)
time.sleep(1)
print(first._actor_id != start_coordinator()._actor_id, bool(ask(start_coordinator().pid.remote())))
"""
)
STILLBORN = (
    PLAIN
    + """
from ray_dra.processes.calls import ask
from ray_dra.processes.start_coordinator import start_coordinator
print(ask(start_coordinator().pid.remote()), flush=True)
os._exit(0)
"""
)


def run_on(cluster: LocalCluster, code: str, *, environment: dict[str, str] | None = None, seconds: float = 240) -> str:
    """What a program prints; it has the cluster's token in its environment, or another `environment`."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.token)}
    done = subprocess.run(
        [sys.executable, "-c", code, cluster.address],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(token if environment is None else environment)},
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def wait_no_trace(cluster: LocalCluster) -> None:
    """No actor and no key of ours is left."""
    deadline = time.monotonic() + 30
    while (left := run_on(cluster, LOOK).strip()) != "0":
        assert time.monotonic() < deadline, left


@pytest.mark.ray
def test_joining_a_running_ray_and_leaving_no_trace(plain_ray: LocalCluster, tmp_path: Path) -> None:
    """GPUs are found by NVML on each node, bundles pinned by node id, and the last program to leave takes coordinator,
    agents and keys along. The cluster's token is found by Ray's rule, in the user's home, and the program's own
    settings are as they were while it is connected and after."""
    home = tmp_path / ".ray"
    home.mkdir()
    (home / "auth_token").write_text(plain_ray.token.read_text())
    said = run_on(plain_ray, JOIN, environment={"HOME": str(tmp_path)})
    planned, got, cliques, before, connected, after = json.loads(said)
    assert planned == got
    assert cliques == 1
    assert before == after
    assert before[0] == connected[0]
    assert before[1] != connected[1], "the connection used no token, so that this shows nothing"
    wait_no_trace(plain_ray)


NO_TOKEN = """
import ray, ray_dra, sys
from ray_dra.errors import ClusterUnavailable
try:
    ray.init("ray_dra://" + sys.argv[1], logging_level="ERROR")
except ClusterUnavailable as error:
    print(error)
"""


@pytest.mark.ray
@pytest.mark.parametrize(
    "environment",
    [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}],
    ids=["none", "none but asked for", "wrong"],
)
def test_joining_without_the_token_is_a_typed_error(
    plain_ray: LocalCluster, tmp_path: Path, environment: dict[str, str]
) -> None:
    assert "asks for a token" in run_on(plain_ray, NO_TOKEN, environment={"HOME": str(tmp_path), **environment})


@pytest.mark.ray
def test_programs_come_while_the_coordinator_of_those_before_ends(plain_ray: LocalCluster) -> None:
    """Whoever comes then gets the next coordinator, which stays; and one whose starter died ends all the same."""
    assert run_on(plain_ray, SUCCESSION).splitlines()[-1] == "True True"
    wait_no_trace(plain_ray)
    assert run_on(plain_ray, STILLBORN)
    wait_no_trace(plain_ray)


def example(name: str, *, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
        env={**os.environ, "COLUMNS": "100", **(environment or {})},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.ray
def test_the_quickstart_prints_what_it_should() -> None:
    text = example("quickstart.py")
    assert "ready: 3 bundles, 6 GPUs, one clique" in text
    planned = re.findall(r"\((GPU-\w{8})\)", text)
    seen = re.findall(r"'(GPU-\w{8})", text)
    assert len(seen) == 6
    assert seen == planned


@pytest.mark.ray
def test_the_training_example_learns_on_its_planned_gpus() -> None:
    text = example("train_nvlink_gang.py")
    assert "GB200 NVL72" in text
    assert text.count("clique ") >= 2
    assert text.count("same") == 4
    assert "DIFFERENT" not in text
    assert "every rank saw exactly its planned GPUs" in text
    before, after = map(float, re.findall(r"loss ([\d.]+) -> ([\d.]+)", text)[0])
    assert after < before / 2


@pytest.mark.ray
def test_an_unchanged_script_runs_by_ray_address_alone() -> None:
    text = example("unchanged_script.py", environment={"RAY_ADDRESS": "ray_dra://embedded?profile=gb200-nvl72&nodes=2"})
    assert len(re.findall(r"rank \d: CUDA_VISIBLE_DEVICES=\d,\d", text)) == 4
    before, after = map(float, re.findall(r"loss ([\d.]+) -> ([\d.]+)", text)[0])
    assert after < before / 2
