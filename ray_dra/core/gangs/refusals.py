"""The errors with which a gang is refused. Neighbours: `admission.py` says when."""

from __future__ import annotations

from collections.abc import Collection

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.team_queues import TeamQueues
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import InvalidRequest, NameTaken, UnsatisfiableError, unsatisfiable


def refusal(reason: str, answer: Unsatisfiable) -> UnsatisfiableError:
    """A no as an error."""
    return unsatisfiable(f"{reason} {answer}", answer.shortfalls)


def name_taken(gang: Gang) -> NameTaken:
    return NameTaken(
        f"A gang named {gang.name!r} exists already; choose another name or remove that one.",
        place=f"namespace {gang.namespace}",
        wanted=gang.name,
    )


def no_queue(name: str, queues: TeamQueues) -> InvalidRequest:
    """To a gang that names a queue which is not declared."""
    if not queues:
        return InvalidRequest(
            "No queues of teams are declared here: leave out queue=, or have the operator declare them.",
            place="queue",
            wanted=name,
            available="none (docs/queue.md)",
        )
    return InvalidRequest("There is no such queue.", place="queue", wanted=name, available=queues.names())


def no_spares(outside: str) -> InvalidRequest:
    """To a gang with spares where a queue outside pays for gangs."""
    return InvalidRequest(
        "A queue outside pays for a gang's nodes, and for none that are held besides: leave out spares=.",
        place="spares",
        available=outside,
    )


def two_queues(name: str, outside: str) -> InvalidRequest:
    """To a gang that names its team's queue where a queue outside pays for gangs."""
    return InvalidRequest(
        "This RayCluster's gangs are paid from a queue of Kueue's, which shares GPUs among teams: leave out queue=.",
        place="queue",
        wanted=name,
        available=outside,
    )


def no_pool(gang: Gang, pools: Collection[str]) -> InvalidRequest:
    """To a gang that names a pool which is not there."""
    return InvalidRequest(
        "There is no such pool, or it is given back.",
        place="pool",
        wanted=gang.request.pool,
        available=f"{', '.join(sorted(pools)) or 'none'}; ray_dra.pool(name, ...) makes one",
    )


def pool_taken(gang: Gang) -> NameTaken:
    return NameTaken(
        f"A pool named {gang.request.pool!r} exists already; choose another name or remove that one.",
        place="pool",
        wanted=gang.request.pool,
    )


def no_queue_for_pool(queue: str) -> InvalidRequest:
    """To a pool, or a gang with shares of one, that would be paid from a queue outside."""
    return InvalidRequest(
        "A queue outside that pays for gangs may take back what it pays for, and a pool stays where it is.",
        place="pool",
        wanted=f"the queue {queue}",
        available="gangs with GPUs of their own",
    )


def no_answer(queue: str, *, together: bool) -> InvalidRequest:
    """To what a queue outside cannot be asked."""
    if together:
        said = (
            "A queue admits one after the other, so half of a set that is one gang could wait for ever with its quota."
        )
        return InvalidRequest(said, place=f"the queue {queue}", wanted="a set of ordinary groups as one gang")
    said = "Nobody can say at once whether a gang that is paid from a queue can start: leave out wait=False."
    return InvalidRequest(said, place=f"the queue {queue}", wanted="wait=False")
