"""What makes one allowed place better than another: a setting of `plan`.

Without a policy `plan` takes the tightest place, from the index alone. A policy sees every place that
is allowed and scores it, which costs time that grows with the cluster: for comparisons, and for
clusters whose devices are shared, where the mix of demands tells more than tightness (`fgd.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.request import Bundle
from ray_dra.core.planner.fold import FoldedRequest

Score = tuple[float, ...]
"""Lower is better; ties go to the place that comes first in topology order."""

Choice = tuple[Score, int | None]
"""The score of a node, and the device (by position) that a share is best taken from."""


class Policy:
    """Best fit; other policies override what they do differently.

    Attributes:
        name: for reports.
        by_clique: whether it looks at cliques at all; without, bundles are placed one after another.
        by_level: whether a gang over several cliques goes into a domain of the lowest level above them that holds it.
        narrows: whether inside of that domain it goes into few domains of each level below, too.
        remembered: bundle -> node -> (the node's version, its choice), as long as the node stays as it is.
    """

    name = "best-fit"
    by_clique = True
    by_level = True
    narrows = False

    def __init__(self) -> None:
        self.remembered: dict[Bundle, dict[NodeState, tuple[int, Choice | None]]] = {}

    def clique(self, clique: CliqueState, capacity: int, bundles: int) -> Score:
        """A clique that holds all of `bundles`. `capacity`: how many it could hold."""
        return (clique.free,)

    def part(self, clique: CliqueState, capacity: int, bundles: int) -> Score:
        """A clique that takes part of a gang that no clique holds whole."""
        return (-capacity, clique.free)

    def domain(self, cliques: Sequence[CliqueState], capacity: int, bundles: int) -> Score:
        """A domain of a level above cliques that holds all of `bundles`."""
        return (sum(clique.free for clique in cliques),)

    def domain_part(self, cliques: Sequence[CliqueState], capacity: int, bundles: int) -> Score:
        """A domain that takes part of a gang that no such domain holds whole."""
        return (-capacity, *self.domain(cliques, capacity, bundles))

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        """A node for one more bundle, `taken` of the gang's being there already."""
        return (state.free.bit_count() - taken * folded.size,), tightest_share(state, folded)


def tightest_share(state: NodeState, folded: FoldedRequest) -> int | None:
    """The device with least left that the share may lie on; None for whole devices, or where there is none."""
    return folded.devices.tightest(state)
