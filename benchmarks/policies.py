"""The planner's baselines, each written from its published rule as a scorer for `plan`.

first-fit     the first clique, and the first nodes in it, by name
ray           Ray 2.60: the first domain in hash order with enough in total; in it, and where there is none,
              the node with most left for the bundle, filled up before the next (LeastResourceScorer and
              BundlePackSchedulingPolicy)
best-fit      the clique with the fewest free devices, the node with the fewest
kueue-best    Kueue 0.19 topology-aware scheduling, BestFit: the least free domain that holds all; else the
              largest first, the last the tightest
kueue-least   the same, LeastFreeCapacity: where no domain holds all, from the least free upwards
kai           KAI Scheduler 0.17: the domain that is allocated to the highest fraction first; nodes likewise
slurm         Slurm 24 topology/block with segments: each segment in the block with the fewest free nodes
              that suffices, blocks by name where several are needed

FGD (ATC 2023), single bundles by the fragmentation gradient, is the product's own, `core/policy/fgd.py`.
"""

from __future__ import annotations

import zlib

from ray_dra.core.cluster.clique_state import LOOSE_NODE, CliqueState
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.policy.base import Choice, Policy, Score, tightest_share


class FirstFit(Policy):
    name = "first-fit"

    def clique(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return ()

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return ()

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        return (), tightest_share(state, folded)


def _any(clique: CliqueState) -> int:
    """A number that says nothing about the clique, and is the same in every run."""
    return zlib.crc32(f"{'#loose/' * (clique.kind == LOOSE_NODE)}{clique.name}".encode())


class Ray(Policy):
    name = "ray"

    def clique(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (_any(clique),)

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (_any(clique),)

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        left = state.free.bit_count() - taken * folded.size
        wanted = folded.size if not folded.share else folded.share / 1000
        return (-(taken > 0), -(left - wanted) / max(left, 1)), tightest_share(state, folded)


class KueueLeast(Policy):
    name = "kueue-least"

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (room, clique.free)


class KueueBest(Policy):
    name = "kueue-best"

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        # The same rule one level down: a node that holds the rest tightly, else the roomiest.
        return (-taken, -state.free.bit_count()) if taken else (state.free.bit_count(),), tightest_share(state, folded)


class Kai(Policy):
    name = "kai"

    def clique(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (clique.free / clique.size,)

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (clique.free / clique.size,)

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        return ((state.free.bit_count() - taken * folded.size) / max(state.size, 1),), tightest_share(state, folded)


class Slurm(Policy):
    name = "slurm"

    def clique(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (sum(1 for s in clique.node_states if s.free & s.members[clique.id]), clique.free)

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return ()
