"""Brings the coordinator back on a head pod that starts: `python -m ray_dra.wake`, run by the start hook.

A head that was lost took its control store along, and with it every gang. What they had on Kubernetes is still there,
and nobody would give it back but a coordinator, whose first look does.
"""

from __future__ import annotations

import sys
import time

import ray

from ray_dra.errors import RayDraError

HEAD_SECONDS = 300.0


def main() -> None:
    """Wait until the head answers, start its coordinator, and leave."""
    deadline = time.monotonic() + HEAD_SECONDS
    while True:
        try:
            ray.init("ray_dra://kubernetes?locality=none", log_to_driver=False, logging_level="ERROR")
            ray.shutdown()
            return
        except (RayDraError, ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            ray.shutdown()
            if time.monotonic() > deadline:
                print(f"ray-dra: no coordinator was started: {error}", file=sys.stderr)
                raise SystemExit(1) from error
            time.sleep(2)
