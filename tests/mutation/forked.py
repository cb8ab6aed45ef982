"""pytest in a child process that has the libraries loaded already, over a copy of the package."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
FAST = "not ray and not cluster and not slow and not gpu"
LIBRARIES = (
    "pytest", "_pytest.assertion.rewrite", "hypothesis", "hypothesis.stateful", "hypothesis.strategies._internal",
    "yaml", "networkx", "pydantic", "typer", "rich", "ortools.sat.python.cp_model", "numpy",
)  # fmt: skip
HUNG = 99  # a test took many times the CPU that it takes without a change
MOST_MEMORY = 8 << 30
HANG_SECONDS = 600.0


class Outcome(NamedTuple):
    """What became of one run.

    Attributes:
        failed: the first test that failed, or why no test ran; empty if all passed.
        seconds: of CPU, of each test that passed.
        ran: for each test, the statements that it ran; the entry "" has those that importing ran.
    """

    failed: str
    seconds: dict[str, float]
    ran: dict[str, bytes]


class Watcher:
    """A pytest plugin: chooses and sorts the tests, ends one that hangs, notes what each runs."""

    def __init__(self, chosen: Sequence[str] | None, limits: dict[str, float], marks: bytearray | None) -> None:
        self.place = None if chosen is None else {test: at for at, test in enumerate(chosen)}
        self.limits = limits
        self.marks = marks
        self.outcome = Outcome("", {}, {})
        self.failed: list[str] = []
        self._began = 0.0

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        place = self.place
        if place is not None:
            items[:] = sorted((i for i in items if i.nodeid in place), key=lambda i: place[i.nodeid])
        self._take("")

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        self._take("")
        self._began = time.process_time()
        signal.signal(signal.SIGPROF, lambda *_: os._exit(HUNG))
        signal.setitimer(signal.ITIMER_PROF, self.limits.get(nodeid, HANG_SECONDS))

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.outcome.seconds[nodeid] = time.process_time() - self._began
        self._take(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid} cannot be imported")

    def _take(self, test: str) -> None:
        """What was marked since the last time belongs to this test."""
        if self.marks is not None and any(self.marks):
            known = int.from_bytes(self.outcome.ran.get(test, b""), "big")
            both = known | int.from_bytes(self.marks, "big")
            self.outcome.ran[test] = both.to_bytes(len(self.marks), "big")
            self.marks[:] = bytes(len(self.marks))


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A copy of all that git tracks here, compiled, so that nothing is ever changed in the checkout."""
    with tempfile.TemporaryDirectory(prefix="ray-dra-mutants-") as folder:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        for name in names.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        yield Path(folder)


@contextlib.contextmanager
def changed(path: Path, source: bytes) -> Iterator[None]:
    """A module as something else for a while; what was compiled of it is for the other, as the time tells."""
    plain, was = path.read_bytes(), path.stat()
    try:
        path.write_bytes(source)
        os.utime(path, (was.st_mtime + 100, was.st_mtime + 100))
        yield
    finally:
        path.write_bytes(plain)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def compile_all(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", "ray_dra"], cwd=folder, check=True)


def load_libraries(folder: Path) -> None:
    """Once, for all children; none of the package."""
    for library in LIBRARIES:
        importlib.import_module(library)
    use(folder)


def use(folder: Path) -> None:
    """From here on the package and its tests are those of this folder, in all children."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    copies = tempfile.gettempdir() + "/ray-dra-mutants-"
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT and not p.startswith(copies))]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "ray_dra")]:
        del sys.modules[name]  # these are the checkout's


def run(
    arguments: Sequence[str],
    *,
    chosen: Sequence[str] | None = None,
    limits: dict[str, float] | None = None,
    marks: bytearray | None = None,
    every: bool = False,
    log: Path | None = None,
    kept: Path | None = None,
) -> Outcome:
    """pytest on `arguments` in a child; `every`: goes on after a test that fails. `kept`: the outcome is kept there,
    and read there while the files are the same."""
    key = _digest() if kept is not None else b""
    if kept is not None and kept.exists():
        found, outcome = pickle.loads(kept.read_bytes())
        if found == key:
            return Outcome(*outcome)
    done = in_child(lambda: _tests(arguments, chosen, limits or {}, marks, every), log)
    if kept is not None and done.seconds:
        kept.write_bytes(pickle.dumps((key, tuple(done))))
    return done


def _digest() -> bytes:
    """Of all sources of the package and of the tests, but for these here."""
    paths = sorted(path for room in ("ray_dra", "tests") for path in Path(room).rglob("*.py"))
    paths = [path for path in paths if "mutation" not in path.parts]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).digest()


def in_child(work: Callable[[], Outcome], log: Path | None) -> Outcome:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setpgrp()
            with open(log or os.devnull, "ab") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
            with os.fdopen(writing, "wb") as answer:
                pickle.dump(tuple(work()), answer)  # plain: the child has no such class

        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what its tests left behind
    if told:
        return Outcome(*pickle.loads(told))
    return Outcome("a test that hangs" if os.waitstatus_to_exitcode(status) == HUNG else "the process ended", {}, {})


def _tests(
    arguments: Sequence[str],
    chosen: Sequence[str] | None,
    limits: dict[str, float],
    marks: bytearray | None,
    every: bool,
) -> Outcome:
    import hypothesis
    import pytest

    sys.dont_write_bytecode = not every  # the first run leaves the tests compiled, and no change is ever compiled

    # The same examples each time, and none kept; a failure need not be made small.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    watcher = Watcher(chosen, limits, marks)
    options = ["-q", "-p", "no:cacheprovider", "-m", FAST, "--tb=no", "-o", "addopts=--strict-markers"]
    code = pytest.main([*options, *([] if every else ["-x"]), *arguments], plugins=[watcher])
    module = sys.modules.get("ray_dra")
    if module is not None and not str(module.__file__).startswith(os.getcwd()):
        raise RuntimeError(f"the tests ran on {module.__file__}, not on the copy")
    failed = ", ".join(watcher.failed) if watcher.failed else "" if code == 0 else f"pytest ended with {code}"
    return watcher.outcome._replace(failed=failed)
