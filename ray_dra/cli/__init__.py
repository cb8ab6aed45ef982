"""`ray-dra`: look at machines, cliques and gangs, ask what would fit, and give a gang back by hand.

`entry.py` puts the commands together, `exit_codes.py` says with what they end, `connection.py` reaches the coordinator,
`terminal.py` prints; the commands are in `gangs.py`, `cluster.py`, `planning.py` and `checks.py`.
"""

from ray_dra.cli.entry import app, main

__all__ = ["app", "main"]
