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

from ray_dra import settings
from ray_dra.adapters.ray import WORKER_HOOK
from ray_dra.errors import InvalidAddress
from ray_dra.settings import Embedded, Running, parse_address
from ray_dra.simulated.cluster import LocalCluster, _configuration, _end, _environment, _read
from ray_dra.simulated.library import library_folder
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
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None], ids=str)
def test_a_program_that_dies_leaves_nothing(end: signal.Signals | None) -> None:
    """Killed, terminated, or simply at its end without ray.shutdown()."""
    program = run(START + ("time.sleep(600)" if end else ""))
    assert program.stdout is not None
    try:
        folder = program.stdout.readline().strip()
        assert program.stdout.readline() == "ready\n"
        if end is not None:
            program.send_signal(end)
        program.wait(30)
    finally:
        program.kill()
        program.wait()
    deadline = time.monotonic() + 20
    while left_over(folder) or Path(folder).exists():
        assert time.monotonic() < deadline, left_over(folder)
        time.sleep(0.2)


@pytest.fixture
def plain_ray(tmp_path: Path) -> Iterator[str]:
    """A Ray cluster that ray-dra did not start: two raylets with GPUs, no labels of ours, no hook."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ray-dra-", dir="/tmp"))
    config = _configuration(simulated_nodes("gb200-nvl72", nodes=2), folder, library_folder(), None)
    for node in config["nodes"].values():
        node["labels"] = {}
        del node["environment"][WORKER_HOOK]
    (folder / "cluster.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_dra.simulated.supervisor", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
        start_new_session=True,
    )
    answer = _read(process, 120)
    assert "address" in answer, answer
    yield answer["address"]
    _end(process)


JOIN = """
import ray, ray_dra, sys, json
from tests.e2e.conftest import seen, pinned
ray.init("ray_dra://" + sys.argv[1], log_to_driver=False, logging_level="ERROR")
with ray_dra.placement_group([{"GPU": 2}] * 4, locality=ray_dra.same_clique()) as gang:
    gang.wait(60)
    planned = [[g.uuid for g in b.grants] for b in gang.allocation.bundles]
    task = ray.remote(seen)
    got = ray.get([task.options(num_gpus=2, num_cpus=0, **pinned(gang, b)).remote() for b in range(4)])
    print(json.dumps([planned, [g[2] for g in got], len(ray_dra.topology().cliques)]))
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
from ray_dra import client
from ray_dra.calls import ask
from ray_dra.starting import start_coordinator
from ray_dra.adapters.ray import KvStore
from ray_dra.errors import CoordinatorUnavailable
from ray_dra.runtime.jobs import KEY
client._greet(None)
first = start_coordinator()
KvStore().delete(KEY + ray.get_runtime_context().get_job_id())  # to the coordinator this program has ended
deadline = time.monotonic() + 60
try:
    while time.monotonic() < deadline:
        ask(first.pid.remote())
except CoordinatorUnavailable:
    pass
found = itertools.chain([first, first], map(start_coordinator, itertools.repeat(None)))
client.start_coordinator = lambda kubernetes: next(found)  # the next one found the first, just before its end
client._greet(None)
time.sleep(1)
print(first._actor_id != start_coordinator()._actor_id, bool(ask(start_coordinator().pid.remote())))
"""
)
STILLBORN = (
    PLAIN
    + """
from ray_dra.calls import ask
from ray_dra.starting import start_coordinator
print(ask(start_coordinator().pid.remote()), flush=True)
os._exit(0)
"""
)


def on_plain_ray(code: str, address: str, seconds: float = 120) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def wait_no_trace(address: str) -> None:
    """No actor and no key of ours is left."""
    deadline = time.monotonic() + 30
    while (left := on_plain_ray(LOOK, address, 60).strip()) != "0":
        assert time.monotonic() < deadline, left


@pytest.mark.ray
def test_joining_a_running_ray_and_leaving_no_trace(plain_ray: str) -> None:
    """GPUs are found by NVML on each node, bundles pinned by node id, and the last program to leave takes
    coordinator, agents and keys along."""
    planned, got, cliques = json.loads(on_plain_ray(JOIN, plain_ray))
    assert planned == got
    assert cliques == 1
    wait_no_trace(plain_ray)


@pytest.mark.ray
def test_programs_come_while_the_coordinator_of_those_before_ends(plain_ray: str) -> None:
    """Whoever comes then gets the next coordinator, which stays; and one whose starter died ends all the same."""
    assert on_plain_ray(SUCCESSION, plain_ray).splitlines()[-1] == "True True"
    wait_no_trace(plain_ray)
    assert on_plain_ray(STILLBORN, plain_ray)
    wait_no_trace(plain_ray)


BAD_ADDRESSES = [
    ("embeded", "HOST:PORT"),
    ("embedded?profile=gb300", "gb300-nvl72"),
    ("embedded?node=4", "nodes"),
    ("embedded?nodes=four", "whole number"),
    ("embedded?nodes=0", "whole number"),
    ("embedded?nodes=1000", "whole number"),
    ("embedded?nodes=4&nodes=5", ""),
    ("embedded?nodes", "name=value"),
    ("embedded?profile=hgx-h100&cliques=2", "leave it out"),
    ("embedded?nodes=4&cliques=9", "1 to 18"),
    ("embedded?profile=mixed&nodes=3", "leave them out"),
    ("host:port", "HOST:PORT"),
    ("host:99999", "HOST:PORT"),
    ("host:6379?nodes=1", "HOST:PORT"),
]


@pytest.mark.parametrize(("address", "allowed"), BAD_ADDRESSES)
def test_a_bad_address_lists_what_is_allowed_before_anything_starts(address: str, allowed: str) -> None:
    def start() -> None:
        target = parse_address(address)
        assert isinstance(target, Embedded)
        LocalCluster.start(target.profile, nodes=target.nodes, cliques=target.cliques)

    with pytest.raises(InvalidAddress) as caught:
        start()
    assert allowed in caught.value.available
    assert caught.value.reason


def test_good_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_address("embedded") == Embedded()
    assert parse_address("10.0.0.1:6379") == Running(address="10.0.0.1:6379")
    assert parse_address("", {"RAY_CLUSTER_NAME": "c", "FQ_RAY_IP": "head.ns.svc"}) == Running(
        address="head.ns.svc:6379"
    )
    assert parse_address("", {"RAY_GCS_ADDRESS": "10.0.0.2:6379"}) == Running(address="10.0.0.2:6379")
    monkeypatch.setattr(settings, "_beside", lambda: None)  # whatever Ray runs on this machine
    with pytest.raises(InvalidAddress, match="there is none here"):
        parse_address("", {})


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
