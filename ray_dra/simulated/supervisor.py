"""The process that owns an embedded cluster: `python -m ray_dra.simulated.supervisor FOLDER`.

It makes the folder, starts Ray's head and one raylet for each simulated machine, starts raylets again that die, and
ends everything when it is told to or when its standard input closes, which is what happens however the program that
started it dies. Speaks JSON lines: first what to start, then a request on standard input for an answer on standard
output.
Started by `simulated.cluster.LocalCluster`.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import queue
import secrets
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_dra.errors import SimulationError
from ray_dra.processes.start_hook import WORKER_HOOK, labels_here
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import HEAD_ADDRESS, SimulatedNode, machine_address
from ray_dra.translate.names import ACCELERATOR_TYPE, WORKER_HOOK_VARIABLE
from ray_dra.translate.ray.labels import node_resources

if TYPE_CHECKING:
    from ray_dra.simulated.raylets import RayletNode

TOKEN = "auth_token"  # in the cluster's folder: Ray's token
ADDRESS = "address"  # in the cluster's folder: host:port of Ray's control store, once everything is up
TURN_SECONDS = 0.25
PROBE_SECONDS = 120.0
STEADY_SECONDS = 60.0
LONGEST_PAUSE = 10.0
UNHEARD_SECONDS = 10.0
LOG_BYTES = 4000
logger = logging.getLogger("ray_dra")


class Ended(BaseException):
    """Standard input has closed, or a signal asks for the end: whatever is being done is left."""


class Supervisor:
    """The raylets of a simulated cluster. Used from the main thread alone: a raylet dies with the thread that
    started it."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.machines = [SimulatedNode(**n) for n in config["nodes"]]
        self.head: RayletNode
        self.raylets: dict[str, RayletNode] = {}
        self._off: set[str] = set()  # killed on purpose: they stay down until they are added again
        self._restarts: dict[str, tuple[float, float]] = {}  # of each raylet: when, and the least pause until the next

    def start(self, say: Callable[[str], None]) -> str:
        """Everything up; the address of the control store. `say` is told what is waited for."""
        from ray_dra.simulated.raylets import prepare_ray, start_head

        prepare_ray()
        pool = ThreadPoolExecutor(os.cpu_count() or 2)
        try:
            labels = [pool.submit(self._labels, node) for node in self.machines]
            say("Ray's control store and the head's raylet")
            self.head = start_head(HEAD_ADDRESS, self.folder, env_vars=self._hook())
            for at, (node, found) in enumerate(zip(self.machines, labels, strict=True)):
                say(f"the NVML probe of {node.name}")
                read = found.result()
                say(f"the raylet of {node.name}")
                self.raylets[node.name] = self._machine(node, machine_address(at), read)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if not self.config["plain"]:
            (self.folder / ADDRESS).write_text(self.head.gcs_address)
        return str(self.head.gcs_address)

    def kill(self, name: str) -> None:
        """The node is gone at once, as when its power fails, until `add`."""
        self._off.add(name)
        self.raylets[name].end_raylet()

    def add(self, name: str) -> None:
        """Start the raylet of a killed node again."""
        self._off.discard(name)
        self.raylets[name].start_again()

    def processes(self) -> dict[str, int]:
        """The raylets that live, by the name of their machine; the head's is ""."""
        return {n: r.process_id for n, r in self._all().items() if n not in self._off and r.ended is None}

    def mend(self) -> None:
        """Start again each raylet that has ended by itself; one that ends again and again after longer and longer
        pauses."""
        if self.head.all_processes["gcs_server"][0].process.poll() is not None:
            raise RuntimeError("Ray's control store has ended, and what it knew with it")
        now = time.monotonic()
        for name, raylet in self._all().items():
            if name in self._off or raylet.ended is None:
                continue
            started, pause = self._restarts.get(name, (-STEADY_SECONDS, TURN_SECONDS))
            if now - started > STEADY_SECONDS:
                pause = TURN_SECONDS
            if now - started < pause:
                continue
            self._restarts[name] = (now, min(2 * pause, LONGEST_PAUSE))
            logger.warning("the raylet of %s ended (%s) and is started again", name or "the head", raylet.ended)
            try:
                raylet.start_again()
            except Exception:  # no process or no memory to be had just now
                logger.exception("the raylet of %s does not start", name or "the head")

    def _all(self) -> dict[str, RayletNode]:
        return {"": self.head, **self.raylets}

    def _environment(self, node: SimulatedNode) -> dict[str, str]:
        machine = Machine(self.folder / "nodes" / node.name)
        path = os.pathsep.join(filter(None, (self.config["library"], os.environ.get("LD_LIBRARY_PATH"))))
        return {"LD_LIBRARY_PATH": path, **self._hook(), **machine.environment}

    def _hook(self) -> dict[str, str]:
        """Of the head's raylet, too: controllers of libraries run there, and make placement groups."""
        return {} if self.config["plain"] else {WORKER_HOOK_VARIABLE: WORKER_HOOK}

    def _labels(self, node: SimulatedNode) -> dict[str, str]:
        Machine.create(self.folder / "nodes" / node.name, node)
        found = labels_here(node.name, environment={**os.environ, **self._environment(node)}, timeout=PROBE_SECONDS)
        if node.profile.gpus and not found:
            raise SimulationError(
                "The simulated NVML library did not answer.",
                place=node.name,
                wanted=f"its GPUs, read within {PROBE_SECONDS:g} s",
            )
        return found

    def _machine(self, node: SimulatedNode, address: str, labels: dict[str, str]) -> RayletNode:
        from ray_dra.simulated.raylets import start_machine

        kind = labels.get(ACCELERATOR_TYPE)
        return start_machine(
            node.name,
            address,
            self.folder,
            self.head.gcs_address,
            num_cpus=self.config["cpus"] or node.profile.cpus,
            num_gpus=node.profile.gpus,
            # As Ray itself names it on a machine with GPUs; it would look for them in this process.
            resources={**({f"accelerator_type:{kind}": 1} if kind else {}), **node_resources(labels)},
            labels={} if self.config["plain"] else labels,
            env_vars=self._environment(node),
        )


def _adopt_orphans() -> None:
    """Become the parent of what our raylets leave behind (their agents, workers and probes)."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _children() -> list[int]:
    found = []
    for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
        try:
            found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            pass  # the thread has ended
    return found


def _end_descendants() -> None:
    """Kill and reap every process that descends from this one."""
    while children := _children():
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def _reap(ours: set[int]) -> None:
    """Reap the orphans that have ended; `ours`: the processes that others wait for."""
    for child in set(_children()) - ours:
        try:
            os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            pass


def _listen(requests: queue.SimpleQueue[str], folder: Path, parent: int) -> None:
    """Hand on each line; at the end of input, or when the program is gone, end the main thread whatever it does."""
    buffer = b""
    while os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], 1.0)
        if not ready:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            requests.put(line.decode())
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(UNHEARD_SECONDS)  # the main thread is in a call that no signal ends
    _end_all(folder)


def _end_all(folder: Path) -> None:
    _end_descendants()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # Ray's threads and exit handlers have nothing left to do


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Ended


def trouble(folder: Path, error: BaseException) -> str:
    """What went wrong, and the ends of the logs; kept beside the folder, which goes."""
    load = f"{os.getloadavg()[0]:.0f} processes wanted a processor in the last minute, and there are {os.cpu_count()}"
    said = [f"{type(error).__name__}: {error}", f"  load: {load}"]
    logs = sorted([folder / "supervisor.log", *folder.glob("ray/session_*/logs/*")])
    kept = folder.with_name(f"{folder.name}-failed.log")
    with open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(said) + "\n")
        for log in logs:
            if log.is_file() and (text := log.read_text(errors="replace")):
                cut = text if len(text) < 2 * LOG_BYTES else f"{text[:LOG_BYTES]}\n...\n{text[-LOG_BYTES:]}"
                file.write(f"\n==> {log.name}\n{cut}\n")
    return "\n".join([*said, f"  logs: {kept}"])


def _run(folder: Path, requests: queue.SimpleQueue[str], answer: Any) -> None:
    config = json.loads(requests.get())
    (folder / TOKEN).write_text(secrets.token_hex(32))
    try:
        supervisor = Supervisor(folder, config)
        answer(address=supervisor.start(lambda what: answer(waiting=what)))
    except Exception as error:
        answer(error=trouble(folder, error))
        return
    do: dict[str, Callable[[str], Any]] = {
        "kill": supervisor.kill,
        "add": supervisor.add,
        "processes": lambda _: supervisor.processes(),
    }
    while True:
        try:
            request = json.loads(requests.get(timeout=TURN_SECONDS))
        except queue.Empty:
            supervisor.mend()
            _reap({p[0].process.pid for r in supervisor._all().values() for p in r.all_processes.values()})
            continue
        try:
            answer(done=do[request["do"]](request.get("node", "")))
        except Exception as error:  # said to whoever asked; the cluster goes on
            answer(error=repr(error))


def main() -> None:
    folder = Path(sys.argv[1])
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers = os.fdopen(os.dup(1), "w", buffering=1)

    def answer(**fields: Any) -> None:
        try:
            answers.write(json.dumps(fields) + "\n")
        except BrokenPipeError:
            pass  # nobody listens any more; the end of standard input says so too

    signal.signal(signal.SIGTERM, _end)
    try:
        _adopt_orphans()
        folder.mkdir(mode=0o700)
        log = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)  # whatever Ray prints is no answer
        os.dup2(log, 2)
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        threading.Thread(target=_listen, args=(requests, folder, os.getppid()), daemon=True).start()
        _run(folder, requests, answer)
    except Ended:
        pass
    except Exception:
        logger.exception("the cluster ends")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all(folder)


if __name__ == "__main__":
    main()
