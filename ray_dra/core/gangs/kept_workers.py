"""A worker is lost that had only what its gang keeps beside its shape: no bundle is hurt, and the gang goes on.

It is made anew where it was: on Kubernetes it is the worker that has the GPUs. Where that cannot be had, because its
node is lost or somebody else was quicker, what the gang kept there is given back, with the reason. Else any next shape
would wait for a worker that never comes, and so would the present one on its way back.

Neighbours: `engine.py` asks, and has the workers made; `shapes.kept_off` is what is left.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ray_dra.core.gangs.actions import Action, Note, Save, Tell, TellRepair
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.recording import Recording, changed
from ray_dra.core.gangs.reshape import stay_in_shape
from ray_dra.core.gangs.shapes import Shape, kept_off, without_kept


class KeptWorkers:
    """See the module."""

    def __init__(self, recording: Recording, planning: Planning) -> None:
        self.recording, self.planning = recording, planning

    def to_make(self, gang: Gang, seen: Observed) -> bool:
        """Whether such workers of a gang that runs are to be made anew now. Not beside a lost one that has bundles:
        what is done about that one makes all that are missing."""
        return bool(seen.kept_lost) and not seen.lost and not gang.releasing

    def look(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """Give back what is kept where no worker can come any more: its node takes none, or nothing is done about
        what else of the gang is lost."""
        states, stays = self.planning.inventory.node_states, bool(seen.lost) and not gang.on_fault.acts
        gone = [node for node in seen.kept_lost if stays or node not in states or not states[node].node.ready]
        return self.give_back(gang, gone, "the worker there is gone", now) if gone else []

    def give_back(self, gang: Gang, nodes: Collection[str], why: str, now: Moment) -> list[Action]:
        """The gang without what it keeps on these nodes. A change to a shape that needs it is over, before anything was
        let go."""
        change = gang.reshape
        if change is not None and not set(nodes).isdisjoint(change.comes.allocation.nodes):
            gang = stay_in_shape(gang, f"what it kept on {', '.join(sorted(nodes))} is lost: {why}")
            change = None
        if change is not None:
            change = replace(change, leaves=_less(change.leaves, nodes), comes=_less(change.comes, nodes))
            gang = replace(gang, reshape=change, allocation=change.present.allocation)
        elif gang.allocation is not None:
            gang = replace(gang, allocation=without_kept(gang.allocation, nodes))
        why = f"what it kept on {', '.join(sorted(nodes))} is given back: {why}"
        gang = changed(gang, gang.history[-1].to, why, now)
        noted = Note(gang.id, gang.name, gang.history[-1])
        return [TellRepair(gang.id, why), Save(gang), noted, Tell(gang.id)]


def _less(shape: Shape, nodes: Collection[str]) -> Shape:
    """A shape of a change that is under way, which keeps less. Both shapes have their counters to the end of it."""
    held = shape.allocation
    return replace(shape, allocation=held._replace(kept=kept_off(held.kept, nodes)))
