"""Random kills on the embedded cluster while gangs come and go: `python -m tests.e2e.soak --minutes 30`.

Programs that joined by HOST:PORT ask for gangs in turn, and each gang's workers lock the devices that they see. Once
the first gang is ready, every few seconds something dies that this cluster owns: the coordinator, the head's raylet, a
raylet, an agent, a probe, a worker, a program. For the middle third of the time the machine has twenty times as many
busy processes as cores. In the suite for one minute (test_soak.py). The control store is spared: without Redis a Ray
cluster does not outlive it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ray_dra.simulated.cluster import LocalCluster

ROOT = Path(__file__).parents[2]
PROFILE, NODES, CLIQUES = "gb200-nvl72", 4, 2
PATIENCE = 240.0
LAST = 240.0
RECOVERY = 60.0
SLOWER = 3  # under load all that was killed takes longer to come back; without rest there would be no gang at all

PROGRAM = """
import fcntl, json, os, random, sys, threading, time
import ray, ray_dra
from tests.e2e.conftest import pinned, planned
address, locks, seed, patience = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
chance = random.Random(seed)
step, since = "joining", time.monotonic()

def now(what):
    global step, since
    step, since = what, time.monotonic()

def watch():
    while time.monotonic() - since < patience + 120:
        time.sleep(1)
    say(hung=step)
    os._exit(3)

def say(**fields):
    os.write(1, ("\\n" + json.dumps(fields) + "\\n").encode())  # in one piece: Ray prints to the same line meanwhile

def use(locks, seconds):
    from ray_dra import get_devices
    seen = [d.uuid for d in get_devices()]
    files = [open(os.path.join(locks, uuid), "w") for uuid in seen]
    twice = []
    for uuid, file in zip(seen, files):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            twice.append(uuid)
    time.sleep(seconds)
    return seen, twice

def one():
    count, gpus = chance.choice([(1, 1), (1, 4), (2, 2), (2, 4), (4, 4)])
    locality = chance.choice([None, None, ray_dra.same_clique(required=False)])
    now("submitting")
    began = time.time()
    gang = ray_dra.placement_group([{"GPU": gpus}] * count, locality=locality)
    now("waiting")
    gang.wait(patience)
    ready = time.time() - began
    now("working")
    expected = [planned(gang, b)[2] for b in range(count)]
    try:
        work = ray.remote(num_gpus=gpus, num_cpus=0, max_retries=0)(use)
        tasks = [work.options(**pinned(gang, b)).remote(locks, chance.uniform(0, 2)) for b in range(count)]
        found = ray.get(tasks, timeout=patience)
        moved = [planned(gang, b)[2] for b in range(count)] != expected
        say(ready=ready, same=moved or [s for s, _ in found] == expected, twice=[u for _, t in found for u in t])
    except ray.exceptions.RayError as error:  # its worker or its node was killed
        say(ready=ready, died=type(error).__name__)
    now("removing")
    gang.remove()

try:
    threading.Thread(target=watch, daemon=True).start()
    ray.init("ray_dra://" + address, log_to_driver=False, logging_level="ERROR")
    for number in range(chance.randint(1, 4)):
        if number == 0 or not os.path.exists(os.path.join(locks, "over")):
            one()
    now("leaving")
    ray.shutdown()
except ray_dra.RayDraError as error:
    say(refused=type(error).__name__, step=step, waited=time.monotonic() - since, text=str(error)[:1000])
except BaseException as error:
    say(untyped=type(error).__name__, step=step, text=str(error)[:1000])
    raise
"""

# Ends with the soak, also where that is killed.
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    pass
"""

# After the kills: nothing is held, and the whole cluster can be used.
CLOSING = """
import json, sys, time
import ray, ray_dra
from ray_dra.processes.calls import ask, coordinator
ray.init("ray_dra://" + sys.argv[1], log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + float(sys.argv[2])
while (left := [s.gang for s in ask(coordinator().gangs.remote())]) and time.monotonic() < deadline:
    time.sleep(0.5)
whole = False
if not left:
    with ray_dra.placement_group([{"GPU": 4}] * int(sys.argv[3])) as gang:
        whole = bool(gang.wait(float(sys.argv[2])))
print(json.dumps({"left": left, "whole": whole}), flush=True)
"""


@dataclass
class Found:
    """What a soak saw; `wrong` is what must be empty."""

    ready: list[float] = field(default_factory=list)
    died: collections.Counter[str] = field(default_factory=collections.Counter)
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    ended: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: dict[str, list[object]] = field(default_factory=lambda: collections.defaultdict(list))

    def __str__(self) -> str:
        times = f"median {statistics.median(self.ready):.1f} s, most {max(self.ready):.1f} s" if self.ready else "none"
        return "\n".join(
            [
                f"{len(self.ready)} gangs ready ({times}); work that died under them: {dict(self.died)}",
                f"programs that ended otherwise: {dict(self.ended)}",
                f"{sum(self.kills.values())} kills: {dict(self.kills)}",
                *(f"WRONG, {what}: {len(cases)}, such as {cases[:3]}" for what, cases in self.wrong.items()),
            ]
        )


class Soak:
    def __init__(self, *, seed: int = 0, every: float = 5.0, programs: int = 3, load: int = 20) -> None:
        self.random, self.every, self.programs = random.Random(seed), every, programs
        self.load = load * (os.cpu_count() or 1)
        self.found = Found()
        self.served = threading.Event()  # the first gang is ready: from here on things die
        self.over = threading.Event()
        self.killed: dict[str, float] = {}  # when this kind of process, or this program, was killed last
        self.loaded = False
        self.loaded_until = 0.0
        self.running: dict[int, subprocess.Popen[str]] = {}

    def run(self, seconds: float) -> Found:
        self.cluster = LocalCluster.start(PROFILE, nodes=NODES, cliques=CLIQUES)
        self.supervisor = psutil.Process(self.cluster._process.pid)
        try:
            with tempfile.TemporaryDirectory(prefix="ray-dra-soak-") as locks:
                threads = [threading.Thread(target=self._programs, args=(locks, n)) for n in range(self.programs)]
                threads.append(threading.Thread(target=self._kill_for_ever))
                for thread in threads:
                    thread.start()
                if not self.served.wait(PATIENCE):
                    self.found.wrong["nothing was served, and nothing had died"].append(None)
                self.over.wait(seconds / 3)
                with self._loaded():
                    self.over.wait(seconds / 3)
                self.over.wait(seconds / 3)
                self.over.set()
                Path(locks, "over").touch()
                for thread in threads:
                    thread.join()
                self._close()
        finally:
            self.over.set()
            for process in list(self.running.values()):
                process.kill()
            self.cluster.stop()
        return self.found

    def _programs(self, locks: str, number: int) -> None:
        """One program after the other until the time is over."""
        seed = number
        while not self.over.is_set():
            seed += self.programs
            process = _python(PROGRAM, self.cluster.address, locks, str(seed), str(PATIENCE))
            self.running[process.pid] = process
            began = time.monotonic()
            assert process.stdout is not None
            last = {}
            for line in filter(lambda text: text.startswith("{"), process.stdout):  # Ray prints there, too
                last = json.loads(line)
                self._note(last)
            process.wait()
            del self.running[process.pid]
            if process.returncode and not last.keys() & {"untyped", "hung"}:
                self._ended(process, began)

    def _note(self, said: dict[str, object]) -> None:
        found = self.found
        if "ready" in said:
            self.served.set()
            found.ready.append(float(str(said["ready"])))
            if "died" in said:
                found.died[str(said["died"])] += 1
            elif not said["same"]:
                found.wrong["devices other than planned"].append(said)
            if said.get("twice"):
                found.wrong["devices twice"].append(said)
        elif "refused" in said and (reason := self._reason(str(said["refused"]), float(str(said["waited"])))):
            found.ended[f"{said['refused']} while {said['step']}, {reason}"] += 1
        elif "refused" in said:  # every gang fits the whole cluster, and waits longer than anything is away
            when = {
                kind: f"{time.monotonic() - at:.0f} s ago" for kind, at in self.killed.items() if not kind.isdigit()
            }
            found.wrong[f"refused by {said['refused']} while {said['step']}"].append({**said, "killed": when})
        else:
            found.wrong[f"{said.get('untyped', 'hung')} while {said.get('step', said.get('hung'))}"].append(said)

    def _reason(self, error: str, waited: float) -> str:
        """The true reason of a refusal after so many seconds of waiting; "" where there is none."""
        since = time.monotonic() - waited - RECOVERY
        if error in ("CoordinatorUnavailable", "ClusterUnavailable"):
            if max(self.killed.get("head", 0.0), self.killed.get("coordinator", 0.0)) > since:
                return "after a kill"
            return "under load" if self.loaded or self.loaded_until > since else ""
        if error == "GangGone" and self.killed.get("head", 0.0) > time.monotonic() - RECOVERY:
            return "as Ray ends the jobs of a raylet that was killed"  # the program ends, too, a moment later
        return ""

    def _ended(self, process: subprocess.Popen[str], began: float) -> None:
        """A program without a last word: killed by us, or by Ray, which ends a program whose raylet is gone."""
        if str(process.pid) in self.killed:
            self.found.ended["killed"] += 1
        elif self.killed.get("head", 0.0) > began - 30:
            self.found.ended["the head's raylet, which it used, was killed"] += 1
        else:
            self.found.wrong["a program ended without a word"].append(process.returncode)

    def _close(self) -> None:
        """Nothing is held any more, and every device can be given out again."""
        done = None
        for _ in range(3):  # a program may come while the head's raylet is just being started again
            process = _python(CLOSING, self.cluster.address, str(LAST), str(NODES))
            self.running[process.pid] = process
            try:
                out, _ = process.communicate(timeout=3 * LAST)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
            del self.running[process.pid]
            if said := [line for line in out.splitlines() if line.startswith("{")]:
                done = json.loads(said[-1])
                break
        if done is None or done["left"] or not done["whole"]:
            self.found.wrong["leaks at the end"].append(done)

    @contextlib.contextmanager
    def _loaded(self) -> Iterator[None]:
        busy = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(self.load)]
        self.loaded = True
        try:
            yield
        finally:
            for process in busy:
                process.kill()
            self.loaded, self.loaded_until = False, time.monotonic()
            for process in busy:
                process.wait()

    def _kill_for_ever(self) -> None:
        victims = {"coordinator": 3, "agent": 3, "probe": 3, "worker": 4, "raylet": 2, "program": 2, "head": 0.5}
        self.served.wait(PATIENCE)
        while not self.over.wait(self.random.expovariate(1 / self.every) * (SLOWER if self.loaded else 1)):
            kind = self.random.choices(list(victims), list(victims.values()))[0]
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                pids = self._pids(kind)
                if pids:
                    pid = self.random.choice(pids)
                    self.killed[str(pid) if kind == "program" else kind] = time.monotonic()
                    os.kill(pid, signal.SIGKILL)
                    self.found.kills[kind] += 1

    def _pids(self, kind: str) -> list[int]:
        """The living processes of a kind; all descend from this cluster's supervisor, or were started here."""
        if kind == "program":
            return [pid for pid, process in self.running.items() if process.poll() is None]
        if kind in ("raylet", "head"):
            return [pid for name, pid in self.cluster.raylets().items() if (name == "") == (kind == "head")]
        marks = {"coordinator": "ray::CoordinatorActor", "agent": "ray::AgentActor", "probe": "ray_dra.adapters.nvml"}
        return [p.pid for p in self.supervisor.children(recursive=True) if _is(p, marks.get(kind, "ray::use"))]


def _is(process: psutil.Process, mark: str) -> bool:
    try:
        return mark in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=5, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load", type=int, default=20, help="busy processes for each core in the middle third")
    options = parser.parse_args()
    found = Soak(seed=options.seed, every=options.every, load=options.load).run(options.minutes * 60)
    print(found)
    raise SystemExit(bool(found.wrong))


if __name__ == "__main__":
    main()
