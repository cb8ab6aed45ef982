"""Which signs to drain are told to gangs' programs: those that stand, and none in a wave of signs. Pure.

A sign that comes and goes (a cordon of ten seconds) moves nothing: programs hear of one that has stood for
FLAP_SECONDS. Where half of the cluster shows signs within WAVE_SECONDS, the signs are more likely wrong than the
cluster: a breaker trips, nobody more is told, and a person is asked. It closes once fewer nodes show any.

A coordinator that has just started knows of no sign for how long it has stood, nor of a wave. So nothing ends by what
programs were told of before it has looked for FLAP_SECONDS.

Planning does not wait for either: nothing new is planned on what shows a sign to drain. Neighbours: `core.model.signs`
says what is a sign to drain; `notice.py` makes the notice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ray_dra.core.gangs.notice import Ending, Notice

FLAP_SECONDS = 10.0
WAVE_SECONDS = 300.0
LEAST_NODES = 3  # fewer are no wave, however small the cluster is
MOST_NAMED = 4
TO_DRAIN = "to be drained: "
ASKS = (
    "{new} of {nodes} nodes have come to show signs to drain within {minutes:.0f} minutes: no more gangs get notice of"
    " it until fewer than half of the nodes do. If the signs are wrong, take them back (uncordon the nodes, say); if"
    " the nodes are really to go, give the gangs there back, or tell their programs"
)
ASKS_OF_SILENCE = (
    "{new} of {nodes} nodes have fallen silent within {minutes:.0f} minutes: nothing is done about faults until fewer"
    " than half of the nodes are. If they cannot be reached, mend that; if they are really gone, give the gangs there"
    " back"
)


class Drain(NamedTuple):
    """A sign to drain. `place`: the node or device that shows it; `said`: what was seen there."""

    place: str
    said: str


class Drains:
    """Since when each place shows signs, and the breaker. `asks`: what a person is asked then.

    Attributes:
        tripped: why nobody more is told, for a person; "" while all is well.
    """

    def __init__(self, asks: str = ASKS) -> None:
        self._asks = asks
        self._since: dict[str, float] = {}
        self._now = 0.0
        self._first: float | None = None
        self.tripped = ""

    def look(self, shown: Mapping[str, Collection[str]], nodes: int, now: float) -> None:
        """`shown`: the nodes with signs to drain -> the places there that show them; `nodes`: how many nodes the
        cluster has; `now`: monotonic seconds."""
        self._now = now
        self._first = now if self._first is None else self._first
        self._since = {place: self._since.get(place, now) for places in shown.values() for place in places}
        ages = [max(now - self._since[place] for place in places) for places in shown.values() if places]
        standing = [age for age in ages if age >= FLAP_SECONDS]
        new = [age for age in standing if age < FLAP_SECONDS + WAVE_SECONDS]
        if not _is_wave(len(standing if self.tripped else new), nodes):
            self.tripped = ""
        else:
            said = self._asks.format(new=len(new), nodes=nodes, minutes=WAVE_SECONDS / 60)
            self.tripped = self.tripped or said

    @property
    def sure(self) -> bool:
        """Whether a wave would have been seen."""
        return self._first is not None and self._now - self._first >= FLAP_SECONDS

    def stands(self, place: str) -> bool:
        """Whether it has shown a sign for long enough, at every look."""
        return place in self._since and self._now - self._since[place] >= FLAP_SECONDS

    def ending(
        self, drains: Iterable[tuple[int, Drain]], unseen: Collection[int], told: Notice | None
    ) -> Ending | None:
        """What is told of a gang's bundles that show signs to drain.

        Whoever has been told, also by a coordinator before this one, is told so as long as a sign shows, or cannot be
        seen.

        Args:
            drains: by the bundle's index.
            unseen: bundles that are lost, so that nobody can see what signs they show.
            told: the gang's notice; one of something else tells of no sign.
        """
        before = told if told is not None and told.reason.startswith(TO_DRAIN) else None
        known = frozenset() if before is None else frozenset(before.faulty or before.ranks)
        found = [
            (rank, drain) for rank, drain in drains if rank in known or (not self.tripped and self.stands(drain.place))
        ]
        ranks = {rank for rank, _ in found}
        still = known & frozenset(unseen)
        if before is not None and still and ranks <= known:
            return Ending(before.reason, None, tuple(sorted(ranks | still)))
        if not found:
            return None
        said = list(dict.fromkeys(f"{drain.place}: {drain.said}" for _, drain in found))
        more = f"; and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
        return Ending(TO_DRAIN + "; ".join(said[:MOST_NAMED]) + more, None, tuple(sorted(ranks | still)))


def to_drain(ending: Ending | None) -> bool:
    """Whether it is for its hardware's signs that something of a gang will end."""
    return ending is not None and ending.reason.startswith(TO_DRAIN)


def _is_wave(shown: int, nodes: int) -> bool:
    return shown >= LEAST_NODES and 2 * shown >= nodes
