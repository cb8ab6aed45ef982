"""Brings the coordinator back on a head pod that starts: `python -m ray_dra.wake`. See `processes.revive`."""

from __future__ import annotations

from ray_dra.processes.revive import main

if __name__ == "__main__":
    main()
