"""How many small changes of the code the fast tests notice, and how many statements they run.

    python -m tests.mutation mutants --count 300 --seed 1     changes in core's planner, cluster and gangs, the executor
    python -m tests.mutation lines                            statements of core, coordinator and translate

Each change is made alone, in a copy of the package. Of the tests only those run that run the changed statement,
the quick ones first. See docs/testbed.md for the figures and for the changes that no test notices.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mutation import forked, probes
from tests.mutation.changes import Change, changes

ROOMS = ("ray_dra/core/gangs", "ray_dra/core/planner", "ray_dra/core/cluster", "ray_dra/coordinator/executor.py")
LINES = ("ray_dra/core", "ray_dra/coordinator", "ray_dra/translate")
LINE_TESTS = (
    "tests/core",
    "tests/coordinator",
    "tests/translate",
    "tests/processes",
    "tests/adapters",
    "tests/test_cli.py",
)
TESTS = ("tests/core", "tests/coordinator")
FIRST_FILES = 2
SLACK, LEAST_SECONDS = 8.0, 10.0  # a test hangs if it takes so many times its CPU, and so many seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mutants", "lines"))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=ROOMS, help="folders or modules that are changed")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds of tests for one change")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--kept", type=Path, help="file that keeps which test runs what, while nothing changes")
    parser.add_argument("--done", type=Path, help="what an earlier run printed: not tried again")
    parser.add_argument("--log", type=Path, help="where pytest's own output goes")
    given = parser.parse_args()
    with forked.copied() as folder:
        forked.load_libraries(folder)
        if given.what == "lines":
            lines(folder, given.log)
        else:
            mutants(folder, given)


def modules(folder: Path, rooms: Sequence[str]) -> list[str]:
    found = []
    for room in rooms:
        there = folder / room
        paths = sorted(there.rglob("*.py")) if there.is_dir() else [there] if there.is_file() else []
        found += [str(path.relative_to(folder)) for path in paths]
    return found


class Ran:
    """What each test runs, found by running all of them once."""

    def __init__(
        self, folder: Path, rooms: Sequence[str], tests: Sequence[str], log: Path | None, kept: Path | None = None
    ) -> None:
        self.places: list[probes.Probe] = []
        began = time.monotonic()
        with contextlib.ExitStack() as probed:
            for path in modules(folder, rooms):
                source = probes.probed(path, (folder / path).read_bytes(), self.places)
                probed.enter_context(forked.changed(folder / path, source))
            self.outcome = forked.run(tests, marks=probes.install(), every=True, log=log, kept=kept)
        forked.compile_all(folder)
        self.seconds = self.outcome.seconds
        failed = self.outcome.failed
        print(f"{len(self.seconds)} tests in {time.monotonic() - began:.0f} s, failed: {failed or 'none'}", flush=True)
        self.all = bytearray(len(self.places))
        self.by_place: dict[probes.Probe, set[str]] = {place: set() for place in self.places}
        for test, marked in self.outcome.ran.items():
            for at, place in enumerate(self.places):
                if marked[at]:
                    self.all[at] = 1
                    if test and test not in failed:
                        self.by_place[place].add(test)
        self.imported = {p for p, m in zip(self.places, self.outcome.ran.get("", b""), strict=False) if m}

    def of(self, change: Change) -> list[str]:
        """The tests that run the changed statement, the quick ones first."""
        place = (change.path, *change.statement)
        chosen = set(self.by_place.get(place, ()))
        if place in self.imported or place not in self.by_place:  # run by importing: whoever uses the module
            for other, tests in self.by_place.items():
                if other[0] == change.path:
                    chosen |= tests
            chosen |= self._importing(change.path)
            # Where no file names it, who imports it is not known: any test may.
            chosen = chosen or set(self.seconds) - set(self.outcome.failed.split(", "))
        return sorted(chosen, key=lambda test: self.seconds[test])

    def _importing(self, path: str) -> set[str]:
        """The tests of files that import a module, and may do no more with it than to read a constant."""
        package, _, name = path.removesuffix(".py").replace("/", ".").rpartition(".")
        imports = re.compile(rf"^(from|import) {package}(\.{name}\b| import .*\b{name}\b)", re.MULTILINE)
        files = {
            file for file in {test.split("::")[0] for test in self.seconds} if imports.search(Path(file).read_text())
        }
        return {test for test in self.seconds if test.split("::")[0] in files} - set(self.outcome.failed.split(", "))


def lines(folder: Path, log: Path | None) -> None:
    ran = Ran(folder, LINES, LINE_TESTS, log)
    total: Counter[str] = Counter()
    run: Counter[str] = Counter()
    missed: dict[str, list[int]] = {}
    for (path, line, _), marked in zip(ran.places, ran.all, strict=True):
        for name in (path, next(room for room in LINES if path.startswith(room))):
            total[name] += 1
            run[name] += marked
        if not marked:
            missed.setdefault(path, []).append(line)
    for name in sorted(total):
        print(f"{run[name] / total[name]:7.1%} of {total[name]:5d}  {name}  {missed.get(name, '')}")
    every = sum(total[room] for room in LINES)
    print(f"{sum(run[room] for room in LINES) / every:7.1%} of {every:5d} statements are run by the fast tests")


def mutants(folder: Path, given: argparse.Namespace) -> None:
    rooms = given.only
    ran = Ran(folder, rooms, TESTS, given.log, given.kept)
    every = [c for path in modules(folder, rooms) for c in changes(path, (folder / path).read_bytes())]
    chosen = random.Random(given.seed).sample(every, min(given.count, len(every)))  # a part of it is a sample, too
    print(f"{len(chosen)} of {len(every)} changes", flush=True)
    done = given.done.read_text().splitlines() if given.done else []
    killed = {line[9:].split("   ")[0] for line in done if line.startswith("killed  ")}
    before = [change for change in chosen if str(change) in killed]
    chosen = [change for change in chosen if str(change) not in killed]
    began = time.monotonic()
    readers = [_worker(folder, chosen[at :: given.jobs], ran, given) for at in range(given.jobs)]
    survived = [chosen[at] for reader in readers for at in _numbers(reader, given.jobs, readers.index(reader))]
    took = time.monotonic() - began
    tried = len(chosen) + len(before)
    noticed = tried - len(survived)
    print(f"{noticed} of {tried} changes were noticed ({noticed / tried:.1%}), {len(chosen)} tried in {took:.0f} s")
    for change in sorted(survived):
        print(f"SURVIVED {change}")


def _worker(folder: Path, chosen: Sequence[Change], ran: Ran, given: argparse.Namespace) -> int:
    """A process with a copy of its own; the number of each change that no test notices comes out of the pipe."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return reading
    try:
        with tempfile.TemporaryDirectory(prefix="ray-dra-mutants-") as own:
            copy = Path(shutil.copytree(folder, Path(own) / "copy"))
            forked.use(copy)
            for number, change in enumerate(chosen):
                noticed = _noticed(copy, change, ran, given)
                print(f"{'killed  ' if noticed else 'SURVIVED'} {change}   {noticed}", flush=True)
                if not noticed:
                    os.write(writing, f"{number}\n".encode())
    except BaseException:
        traceback.print_exc()
        os.write(writing, b"broken\n")
    finally:
        os._exit(0)


def _numbers(reader: int, jobs: int, at: int) -> list[int]:
    with os.fdopen(reader) as told:
        return [int(line) * jobs + at for line in told]


def _noticed(folder: Path, change: Change, ran: Ran, given: argparse.Namespace) -> str:
    """The test that notices a change; empty if none does."""
    tests: list[str] = []
    left = given.budget
    for test in ran.of(change):
        left -= ran.seconds[test]
        if left < 0 and tests:
            break
        tests.append(test)
    if not tests:
        return ""
    limits = {test: max(LEAST_SECONDS, SLACK * ran.seconds[test]) for test in tests}
    there = folder / change.path
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    first = tuple(files[:FIRST_FILES])  # collecting files takes longer than running the quick tests in them
    with forked.changed(there, change.applied(there.read_bytes())):
        for part in (first, tuple(files[FIRST_FILES:])):
            chosen = [test for test in tests if test.split("::")[0] in part]
            failed = forked.run(part, chosen=chosen, limits=limits, log=given.log).failed if chosen else ""
            if failed:
                return failed
    return ""


if __name__ == "__main__":
    main()
