"""How long one full NVML probe of a node takes.

On every simulated machine, and on the real driver where this machine has one; beside it, in the same
run, the same calls without ours: NVML's init, count and shutdown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import parser, percentile, write

from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import load_profile, profile_names, simulated_nodes

CHILD = """
import json, sys, time
import pynvml
from ray_dra.adapters.nvml import probe
def bare():
    pynvml.nvmlInit(); pynvml.nvmlDeviceGetCount(); pynvml.nvmlShutdown()
def times(call, n=int(sys.argv[1])):
    found = []
    for _ in range(n):
        began = time.perf_counter(); call(); found.append((time.perf_counter() - began) * 1000)
    return found
probe()
print(json.dumps([times(probe), times(bare)]))
"""


def measure(environment: dict[str, str], rounds: int) -> tuple[list[float], list[float]] | None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(rounds)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return None
    full, bare = json.loads(done.stdout)
    return full, bare


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=200)
    options = arguments.parse_args()
    library = str(library_folder())
    rows = []
    print(f"{'machine':<20}{'p50 ms':>9}{'p99 ms':>9}{'bare p50 ms':>13}")
    with tempfile.TemporaryDirectory() as folder:
        machines: list[tuple[str, dict[str, str]]] = [("this machine", {})]
        for name in profile_names():
            if not load_profile(name).cluster:
                machine = Machine.create(Path(folder) / name, simulated_nodes(name)[0])
                machines.append((name, {"LD_LIBRARY_PATH": library, **machine.environment}))
        for name, environment in machines:
            found = measure(environment, options.rounds)
            if found is None:
                print(f"{name:<20}{'no NVML here':>20}")
                continue
            full, bare = found
            row = {
                "machine": name,
                "p50_ms": percentile(full, 50),
                "p99_ms": percentile(full, 99),
                "bare_p50_ms": percentile(bare, 50),
            }
            rows.append(row)
            print(f"{name:<20}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['bare_p50_ms']:>13.3f}")
    write(options.json, rows)


if __name__ == "__main__":
    main()
