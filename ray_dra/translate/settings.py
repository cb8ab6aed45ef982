"""What an operator sets of the queue and of faults, as text in the environment of the head's raylet."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_dra.core.gangs.backfill import BOUNDS, MOST_WAITING, OFF, Bounds
from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.patience import WORTH, Worth
from ray_dra.core.gangs.preemption import MOST_TIMES, NOBODY, PREEMPTION, Preemption
from ray_dra.core.gangs.record_sense import MOST_SECONDS
from ray_dra.core.gangs.repair import GRACE_SECONDS, OnFault, on_fault
from ray_dra.core.model.locality import LEAST_SPEED
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import BACKFILL_VARIABLE, PATIENCE_VARIABLE, PREEMPTION_VARIABLE

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_DECIMAL = re.compile(r"[0-9]{1,3}(\.[0-9]{0,9})?")


def discipline_of(environment: Mapping[str, str]) -> Discipline:
    """Who may go when. Raises InvalidRequest for a variable that says something else."""
    return Discipline(backfill_of(environment), worth_of(environment), preemption_of(environment))


def worth_of(environment: Mapping[str, str]) -> Worth | None:
    """What a clique is worth to gangs that say how long they run: `speed=0.5, share=0.1`, one of the two, or `off`.

    Raises:
        InvalidRequest: it says something else.
    """
    said = environment.get(PATIENCE_VARIABLE, "").strip()
    if not said:
        return WORTH
    if said == "off":
        return None
    found = {"speed": WORTH.speed, "share": WORTH.share}
    for part in said.split(","):
        name, _, amount = (each.strip() for each in part.partition("="))
        least = {"speed": LEAST_SPEED, "share": 0.0}.get(name)
        value = float(amount) if _DECIMAL.fullmatch(amount) else -1.0
        if least is None or not least <= value <= 1:
            raise InvalidRequest(
                "It is a gang's speed outside of its clique, the share of its run that it waits blindly, or off.",
                place=PATIENCE_VARIABLE,
                wanted=shown(said),
                available=f"off, speed={LEAST_SPEED:g} to 1, share=0 to 1",
            )
        found[name] = value
    return Worth(**found)


def preemption_of(environment: Mapping[str, str]) -> Preemption:
    """How often a gang may be preempted, and after how many seconds: `times=3, least_run=600`, one of them, or `off`.

    Raises:
        InvalidRequest: it says something else.
    """
    said = environment.get(PREEMPTION_VARIABLE, "").strip()
    if not said:
        return PREEMPTION
    if said == "off":
        return NOBODY
    found = {"times": float(PREEMPTION.most), "least_run": PREEMPTION.least_run}
    for part in said.split(","):
        name, _, amount = (each.strip() for each in part.partition("="))
        known = amount.isascii() and amount.isdigit() and len(amount) < 10 and name in found
        if not known or int(amount) > (MOST_TIMES if name == "times" else MOST_SECONDS):
            raise InvalidRequest(
                "It is how often a gang may be preempted, the seconds that it runs before that, or off.",
                place=PREEMPTION_VARIABLE,
                wanted=shown(said),
                available=f"off, times=0 to {MOST_TIMES}, least_run=0 to {MOST_SECONDS:.0f}",
            )
        found[name] = float(amount)
    return Preemption(int(found["times"]), found["least_run"])


def backfill_of(environment: Mapping[str, str]) -> Bounds:
    """How far the queue is looked through for gangs that may start before their turn: a number of gangs, or `off`.

    Raises:
        InvalidRequest: it says something else.
    """
    said = environment.get(BACKFILL_VARIABLE, "").strip()
    if not said:
        return BOUNDS
    if said == "off":
        return OFF
    if not (said.isascii() and said.isdigit() and len(said) < 10 and 0 <= int(said) <= MOST_WAITING):
        raise InvalidRequest(
            "It is the number of waiting gangs that may be asked to start before their turn, or off.",
            place=BACKFILL_VARIABLE,
            wanted=shown(said),
            available=f"off, or 0 to {MOST_WAITING}",
        )
    return Bounds(waiting=int(said))


def read_on_fault(said: str, place: str) -> OnFault:
    """Ways in order, and the grace in seconds where it is not the usual one: `restart`, or `restart,grace=60`.

    Raises:
        InvalidRequest: it says something else.
    """
    *ways, last = (part.strip() for part in said.split(","))
    name, equals, amount = last.partition("=")
    if not equals:
        return on_fault((*ways, last), place=place)
    grace = float(amount) if name.strip() == "grace" and _SECONDS.fullmatch(amount.strip()) else None
    if grace is None:
        raise InvalidRequest(
            "After the ways comes nothing but the grace in seconds.",
            place=place,
            wanted=shown(last),
            available=f"grace={GRACE_SECONDS:g}, say",
        )
    return on_fault(tuple(ways), grace, place)
