"""What an operator sets of the queue and of faults, as text in the environment of the head's raylet."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_dra.core.gangs.backfill import BOUNDS, MOST_WAITING, OFF, Bounds
from ray_dra.core.gangs.consolidation import CONSOLIDATION, MOST_MOVED, NO_CONSOLIDATION, Consolidation
from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.patience import WORTH, Worth
from ray_dra.core.gangs.preemption import MOST_TIMES, NOBODY, PREEMPTION, Preemption
from ray_dra.core.gangs.record_sense import MOST_SECONDS
from ray_dra.core.gangs.repair import GRACE_SECONDS, OnFault, on_fault
from ray_dra.core.model.locality import LEAST_SPEED
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import (
    BACKFILL_VARIABLE,
    CONSOLIDATION_VARIABLE,
    LEARN_VARIABLE,
    PATIENCE_VARIABLE,
    PREEMPTION_VARIABLE,
)

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_DECIMAL = re.compile(r"[0-9]{1,3}(\.[0-9]{0,9})?")


def discipline_of(environment: Mapping[str, str]) -> Discipline:
    """Who may go when. Raises InvalidRequest for a variable that says something else."""
    return Discipline(
        backfill_of(environment),
        worth_of(environment),
        preemption_of(environment),
        consolidation_of(environment),
        learns(environment),
    )


def learns(environment: Mapping[str, str]) -> bool:
    """Whether guesses are learnt from earlier runs: `on` or `off`. Raises InvalidRequest for anything else."""
    said = environment.get(LEARN_VARIABLE, "").strip() or "on"
    if said not in ("on", "off"):
        raise InvalidRequest("It is on or off.", place=LEARN_VARIABLE, wanted=shown(said), available="on, off")
    return said == "on"


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
    found, given = {"speed": WORTH.speed, "share": WORTH.share}, set[str]()
    for part in said.split(","):
        name, _, amount = (each.strip() for each in part.partition("="))
        least = {"speed": LEAST_SPEED, "share": 0.0}.get(name)
        value = float(amount) if _DECIMAL.fullmatch(amount) else -1.0
        if least is None or not least <= value <= 1 or name in given:
            raise InvalidRequest(
                "It is a gang's speed outside of its clique, the share of its run that it waits blindly, or off.",
                place=PATIENCE_VARIABLE,
                wanted=shown(said),
                available=f"off, speed={LEAST_SPEED:g} to 1, share=0 to 1",
            )
        found[name] = value
        given.add(name)
    return Worth(**found)


def preemption_of(environment: Mapping[str, str]) -> Preemption:
    """How often a gang may be preempted, after how many seconds, and how long one that gives back what is borrowed
    needs to work again: `times=3, least_run=600, restart=600`, some of them, or `off`.

    Raises:
        InvalidRequest: it says something else.
    """
    usual = {
        "times": (PREEMPTION.most, MOST_TIMES),
        "least_run": (int(PREEMPTION.least_run), int(MOST_SECONDS)),
        "restart": (int(PREEMPTION.restart), int(MOST_SECONDS)),
    }
    found = _counts(environment, PREEMPTION_VARIABLE, usual, "how often and when gangs are preempted")
    if found is None:
        return NOBODY
    return Preemption(found["times"], float(found["least_run"]), float(found["restart"]))


def consolidation_of(environment: Mapping[str, str]) -> Consolidation:
    """How many gangs are moved for one that waits, how often each, what a move costs it, and after how many seconds:
    `gangs=3, times=2, restart=600, least_run=600`, some of them, or `off`.

    Raises:
        InvalidRequest: it says something else.
    """
    usual = {
        "gangs": (CONSOLIDATION.gangs, MOST_MOVED),
        "times": (CONSOLIDATION.times, MOST_TIMES),
        "restart": (int(CONSOLIDATION.restart), int(MOST_SECONDS)),
        "least_run": (int(CONSOLIDATION.least_run), int(MOST_SECONDS)),
    }
    found = _counts(environment, CONSOLIDATION_VARIABLE, usual, "how many gangs are moved for one, and how often")
    if found is None:
        return NO_CONSOLIDATION
    return Consolidation(found["times"], found["gangs"], float(found["restart"]), float(found["least_run"]))


def _counts(
    environment: Mapping[str, str], variable: str, usual: Mapping[str, tuple[int, int]], what: str
) -> dict[str, int] | None:
    """Whole numbers by name: what is usual, up to what may be, where the variable does not say; None: it says off."""
    said = environment.get(variable, "").strip()
    if said == "off":
        return None
    found, given = {name: amount for name, (amount, _) in usual.items()}, set[str]()
    for part in said.split(",") if said else ():
        name, _, amount = (each.strip() for each in part.partition("="))
        known = amount.isascii() and amount.isdigit() and len(amount) < 10 and name in usual and name not in given
        if not known or int(amount) > usual[name][1]:
            available = ", ".join(f"{name}=0 to {most}" for name, (_, most) in usual.items())
            raise InvalidRequest(
                f"It is {what}, or off.", place=variable, wanted=shown(said), available=f"off, {available}"
            )
        found[name] = int(amount)
        given.add(name)
    return found


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
