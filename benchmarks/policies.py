"""The planner's baselines, each written from its published rule as a scorer for `plan`.

Of levels above the clique (leaves, spines) first-fit and ray know nothing. The others place a gang that no clique holds
in a domain of the lowest level that holds it, and choose among these as among cliques.

first-fit     the first clique, and the first nodes in it, by name
ray           Ray 2.60: the first domain in hash order with enough in total; in it, and where there is none,
              the node with most left for the bundle, filled up before the next (LeastResourceScorer and
              BundlePackSchedulingPolicy)
best-fit      the clique with the fewest free devices, the node with the fewest
kueue-best    Kueue 0.19 topology-aware scheduling, BestFit: the least free domain that holds all; else the
              largest first, the last the tightest. Inside of a domain the same again, level by level down, so that
              it uses few domains of each
kueue-least   the same, LeastFreeCapacity: where no domain holds all, from the least free upwards
kai           KAI Scheduler 0.17: the domain that is allocated to the highest fraction first; nodes likewise
slurm         Slurm 24 topology/block with segments: each segment in the block with the fewest free nodes
              that suffices, blocks by name where several are needed; a level's domain is an aggregated block

FGD (ATC 2023), single bundles by the fragmentation gradient, is the product's own, `core/policy/fgd.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from ray_dra.core.cluster.clique_state import LOOSE_NODE, CliqueState
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.policy.base import Choice, Policy, Score, tightest_share


class FirstFit(Policy):
    name = "first-fit"
    by_level = False

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
    by_level = False

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
    narrows = True

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (room, clique.free)

    def domain(self, cliques: Sequence[CliqueState], room: int, bundles: int) -> Score:
        return (room,)

    def domain_part(self, cliques: Sequence[CliqueState], room: int, bundles: int) -> Score:
        return (room,)


class KueueBest(Policy):
    name = "kueue-best"
    narrows = True

    def domain(self, cliques: Sequence[CliqueState], room: int, bundles: int) -> Score:
        return (room,)

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        # The same rule one level down: a node that holds the rest tightly, else the roomiest.
        return (-taken, -state.free.bit_count()) if taken else (state.free.bit_count(),), tightest_share(state, folded)


class Kai(Policy):
    name = "kai"

    def clique(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (clique.free / clique.size,)

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (clique.free / clique.size,)

    def domain(self, cliques: Sequence[CliqueState], room: int, bundles: int) -> Score:
        return (sum(clique.free for clique in cliques) / sum(clique.size for clique in cliques),)

    def node(self, state: NodeState, folded: FoldedRequest, taken: int) -> Choice:
        return ((state.free.bit_count() - taken * folded.size) / max(state.size, 1),), tightest_share(state, folded)


class Slurm(Policy):
    name = "slurm"

    def clique(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return (_free_nodes(clique), clique.free)

    def part(self, clique: CliqueState, room: int, bundles: int) -> Score:
        return ()

    def domain(self, cliques: Sequence[CliqueState], room: int, bundles: int) -> Score:
        return (sum(map(_free_nodes, cliques)), sum(clique.free for clique in cliques))


def _free_nodes(clique: CliqueState) -> int:
    return sum(1 for state in clique.node_states if state.free & state.members[clique.id])
