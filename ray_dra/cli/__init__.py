"""`ray-dra`: look at machines, cliques and gangs, ask what would fit, and give a gang back by hand.

`entry.py` puts the commands together, `exit_codes.py` says with what they end, `connection.py` reaches the coordinator,
`elsewhere.py` has a RayCluster's head answer, `terminal.py` prints; the commands are in `gangs.py`, `cluster.py`,
`planning.py`, `checks.py`, `validation.py` and `map_page.py`.
"""

from ray_dra.cli.entry import app, kubectl, main

__all__ = ["app", "kubectl", "main"]
