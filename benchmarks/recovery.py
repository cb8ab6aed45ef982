"""How long a coordinator killed with SIGKILL is away, beside a plain call to it.

From the kill to the next answer, with a gang held; and the change of a machine's state to the
coordinator's view of it.
"""

from __future__ import annotations

import os
import signal
import time

import ray
from figures import parser, percentile, write

import ray_dra
from ray_dra.processes.calls import ask, coordinator


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    ray.init("ray_dra://embedded?profile=gb200-nvl72&nodes=2", log_to_driver=False, logging_level="ERROR")
    cluster = ray_dra.embedded_cluster()
    assert cluster is not None
    away, calls, seen = [], [], []
    with ray_dra.placement_group([{"GPU": 4}]) as gang:
        gang.wait(60)
        for _ in range(options.rounds):
            began = time.perf_counter()
            pid = ask(coordinator().pid.remote())
            calls.append(time.perf_counter() - began)
            os.kill(pid, signal.SIGKILL)
            began = time.perf_counter()
            assert ask(coordinator().gangs.remote())[0].allocation == gang.allocation
            away.append(time.perf_counter() - began)
            time.sleep(1)
    node = cluster.nodes[0].name
    machine = cluster.machine(node)
    for link in range(options.rounds):
        machine.link_down(0, link)
        began = time.perf_counter()
        while ray_dra.topology().nodes[node].links[0][1] != 17 - link:
            time.sleep(0.01)
        seen.append(time.perf_counter() - began)
    ray.shutdown()
    row = {
        "away_p50_s": percentile(away, 50),
        "away_max_s": max(away),
        "call_p50_s": percentile(calls, 50),
        "change_seen_p50_s": percentile(seen, 50),
        "change_seen_max_s": max(seen),
    }
    print(f"killed coordinator answers again after {row['away_p50_s']:.2f} s (longest {row['away_max_s']:.2f} s);")
    print(f"a plain call takes {row['call_p50_s'] * 1000:.1f} ms")
    print(
        f"a link that goes down shows after {row['change_seen_p50_s']:.2f} s (longest {row['change_seen_max_s']:.2f} s)"
    )
    write(options.json, [row])


if __name__ == "__main__":
    main()
