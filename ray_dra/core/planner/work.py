"""How much searching one plan may do, counted in steps and not by a clock, so that plan stays deterministic.

Counting needs no search. What does (bundles of several classes, node by node) takes its steps from the plan's one
`Work`; once that is used up, the no says so (`proven=False`, a shortfall of kind "search bound").
"""

from __future__ import annotations

STEPS = 300_000
"""Steps of one plan, each a microsecond or two of a present-day core; a whole counterfactual has half as many."""

LOOK = 2
"""Steps of a look at one node's CPUs and labels. Counting goes on without any left; a search does not."""

MOST_CLASSES = 1_000
"""A gang with more classes of bundles is not searched a place for: the answer is a no that is not proven."""


class Work:
    """The steps that are left. Shared by all searches of one plan, or by all plans of one counterfactual."""

    __slots__ = ("left",)

    def __init__(self, steps: int = STEPS) -> None:
        self.left = steps

    @property
    def spent(self) -> bool:
        return self.left <= 0
