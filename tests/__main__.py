"""The whole suite: `python -m tests`, with pytest's own arguments.

What starts neither Ray nor a cluster runs beside the rest, which waits more than it computes; what it said comes last.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

ALONE = "not (gpu or by_hand) and (ray or cluster)"
BESIDE = "not (gpu or by_hand or ray or cluster)"


def main() -> int:
    pytest = [sys.executable, "-m", "pytest", *sys.argv[1:], "-m"]
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(["nice", *pytest, BESIDE], stdout=said, stderr=subprocess.STDOUT)
        try:
            alone = subprocess.run([*pytest, ALONE]).returncode
            quick = beside.wait()
        finally:
            beside.kill()
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
    return alone or quick


if __name__ == "__main__":
    sys.exit(main())
