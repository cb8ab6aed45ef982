"""The whole suite: `python -m tests`, with pytest's own options.

What starts Ray or a cluster has the machine for itself: it is slow, and fails, where others compute. The rest follows
in two processes; what they said comes last.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack

import pytest

ALONE = "not (gpu or by_hand) and (ray or cluster)"
TOGETHER = "not (gpu or by_hand or ray or cluster)"
PURE = ("tests/coordinator", "tests/core")
HALVES = (PURE, ("tests", *(f"--ignore={folder}" for folder in PURE)))


def main() -> int:
    command = [sys.executable, "-m", "pytest", *sys.argv[1:], "-m"]
    codes = [subprocess.run([*command, ALONE]).returncode]
    if codes[0] == pytest.ExitCode.INTERRUPTED:
        return codes[0]
    running: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        halves = [(half, stack.enter_context(tempfile.TemporaryFile())) for half in HALVES]
        for half, said in halves:
            beside = subprocess.Popen([*command, TOGETHER, *half], stdout=said, stderr=subprocess.STDOUT)
            stack.callback(beside.kill)
            running.append(beside)
        codes += [beside.wait() for beside in running]
        for _, said in halves:
            said.seek(0)
            print(said.read().decode(errors="replace"), flush=True)
    # An option such as -k may leave one of them without a test, but not all.
    return next(
        (code for code in codes if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)), min(codes)
    )


if __name__ == "__main__":
    sys.exit(main())
