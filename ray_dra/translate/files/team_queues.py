"""The queues of teams as an operator writes them, in a file, a ConfigMap or a setting: one parser for all three.

    team-a: {guarantee: 16, weight: 2, limit: 64}   # GPUs
    team-b: {guarantee: 8}
    default: {limit: 8}                             # of gangs that name no queue

Neighbours: `core/gangs/team_queues.py` says what the numbers mean, `coordinator/declared_queues.py` when they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ray_dra.core.gangs.team_queues import (
    DEFAULT,
    MOST_GPUS,
    MOST_QUEUES,
    MOST_WEIGHT,
    NAME,
    NO_QUEUES,
    TeamQueue,
    TeamQueues,
)
from ray_dra.core.model.checked import number, table
from ray_dra.core.model.request import WHOLE
from ray_dra.errors import InvalidRequest, InvalidSnapshot, shown
from ray_dra.translate.files.plain import plain, read_file
from ray_dra.translate.names import QUEUES_VARIABLE

FIELDS = ("guarantee", "weight", "limit")
FORM = "{guarantee: GPUs, weight: a number, limit: GPUs}, each of which may be left out"


def queues_of(environment: Mapping[str, str]) -> Callable[[], str] | None:
    """What reads the text that declares the queues of teams: the setting's own, or that of the file whose absolute path
    it is. None where nothing is set. The call raises InvalidRequest where the file cannot be read."""
    said = environment.get(QUEUES_VARIABLE, "").strip()
    if not said:
        return None
    return partial(_read_queues, said) if said.startswith("/") else lambda: said


def _read_queues(path: str) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except (InvalidSnapshot, UnicodeDecodeError) as error:
        reason = error.available if isinstance(error, InvalidSnapshot) else "no UTF-8"
        raise InvalidRequest(
            "The file that declares the queues of teams cannot be read.",
            place=QUEUES_VARIABLE,
            wanted=path,
            available=reason,
        ) from error


def check_queues(environment: Mapping[str, str]) -> None:
    """Raises InvalidRequest where the setting declares what is no queue of a team."""
    read = queues_of(environment)
    if read is not None:
        read_team_queues(read(), QUEUES_VARIABLE)


def read_team_queues(said: str, place: str) -> TeamQueues:
    """The queues that a text declares; none where it is empty.

    Args:
        place: where the text stands, for the message, which names the queue and its field, too.

    Raises:
        InvalidRequest: it declares something that is no queue.
    """
    if all(not line.strip() or line.lstrip().startswith("#") for line in said.splitlines()):
        return NO_QUEUES
    try:
        found = plain(said, "queues of teams")
    except InvalidSnapshot as error:
        where = f"{place}, {error.place}" if error.place and error.place != "file" else place
        raise InvalidRequest(
            f"These are no queues of teams: {error.reason}", place=where, wanted=error.wanted, available=error.available
        ) from error
    if found is None:
        return NO_QUEUES
    if not isinstance(found, dict):
        raise InvalidRequest(
            "Queues of teams are names, each with what it has.",
            place=place,
            wanted=shown(found),
            available=f"team-a: {FORM}",
        )
    queues = TeamQueues.of(_queue(name, given, place) for name, given in table(found, place, most=MOST_QUEUES).items())
    _check_together(queues, place)
    return queues


def _queue(name: Any, given: Any, place: str) -> TeamQueue:
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise InvalidRequest(
            "This is no name of a queue.",
            place=place,
            wanted=shown(name),
            available="at most 63 letters, digits, - and _, in quotes if it looks like a number",
        )
    line = f"{place}: {name}"
    fields = {} if given is None else given
    if not isinstance(fields, dict) or not fields.keys() <= set(FIELDS):
        unknown = fields.keys() - set(FIELDS) if isinstance(fields, dict) else fields
        wanted = ", ".join(map(shown, sorted(unknown, key=str))) if isinstance(fields, dict) else shown(given)
        raise InvalidRequest("This is nothing that a queue has.", place=line, wanted=wanted, available=FORM)
    guarantee = _gpus(fields.get("guarantee"), f"{line}.guarantee") or 0
    limit = _gpus(fields.get("limit"), f"{line}.limit")
    said = fields.get("weight")
    weight = 1.0 if said is None else number(said, f"{line}.weight", least=0.0, most=MOST_WEIGHT)
    if limit is not None and guarantee > limit:
        raise InvalidRequest(
            "A queue cannot be guaranteed more than its limit.",
            place=f"{line}.guarantee",
            wanted=f"{guarantee / WHOLE:g} GPUs",
            available=f"at most {limit / WHOLE:g}, its limit",
        )
    return TeamQueue(name, guarantee, weight, limit)


def _gpus(said: Any, place: str) -> int | None:
    """In thousandths of one; None where nothing is said."""
    if said is None:
        return None
    gpus = number(said, place, least=0.0, most=MOST_GPUS)
    if gpus and not round(WHOLE * gpus):
        raise InvalidRequest(
            "GPUs are counted in thousandths.",
            place=place,
            wanted=shown(said),
            available=f"0, or {1 / WHOLE:g} and more",
        )
    return round(WHOLE * gpus)


def _check_together(queues: TeamQueues, place: str) -> None:
    """Two queues whose names differ in case alone are a slip of somebody's."""
    seen: dict[str, str] = {}
    for name in queues.each:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise InvalidRequest("Two queues differ in case alone.", place=place, wanted=name, available=other)
    if DEFAULT in seen and seen[DEFAULT] != DEFAULT:
        raise InvalidRequest(
            "The queue of gangs that name none is spelt so.", place=place, wanted=seen[DEFAULT], available=DEFAULT
        )
