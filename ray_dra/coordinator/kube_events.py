"""What a gang has come to, as a Kubernetes event: a word and a sentence. Neighbour: `executor.py` tells each once."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ray_dra.core.gangs.phases import Phase
from ray_dra.translate.text import GangStatus


class Told(NamedTuple):
    """An event: a word, a sentence, and whether something is wrong."""

    reason: str
    message: str
    warning: bool = False


class Gang(GangStatus, Protocol):
    """`status.Status` is one."""

    @property
    def gang(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def failed(self) -> str: ...


# stage that has begun -> what is behind the gang then
PASSED = {
    "": ("GangPlanned", "planned"),
    "applied": ("GangPlanned", "planned"),
    "pods": ("GangApplied", "its ComputeDomains, where it has any, are there; its pods and claims are made"),
    "bound": ("GangLetIn", "all its pods are there and their gates are opened"),
    "prepared": ("GangBound", "its claims are allocated and its pods bound"),
    "started": ("GangBound", "its claims are allocated and its pods bound"),
    "image": ("GangBound", "its claims are allocated and its pods bound"),
    "verified": ("GangStarted", "its containers run; where it has IMEX domains, each of its nodes is ready"),
    "joined": ("GangVerified", "NVML shows in every pod what was planned"),
}


def told_of(gang: Gang, stage: str, joined: bool) -> Told:
    """The event for what a gang is now."""
    who = f"gang {gang.name or gang.gang}"
    if gang.failed:
        return Told("GangFailed", f"{who} was given up: {gang.failed}", True)
    if gang.phase is Phase.RELEASING:
        return Told("GangReleasing", f"{who} is being given back")
    if gang.allocation is None:
        why = "; ".join([*map(str, gang.waits_for), *filter(None, [gang.said])]) or "its turn"
        if gang.phase is Phase.QUOTA:
            return Told("GangAwaitsQuota", f"{who} waits for {why}", bool(gang.moves))
        return Told("GangMoved" if gang.moves else "GangQueued", f"{who} waits for {why}", bool(gang.moves))
    grants = gang.allocation.grants
    kind = "GPUs"
    if any(grant.part is not None for grant in grants):
        kind = "parts of GPUs"
    elif any(grant.amount is not None for grant in grants):
        kind = "shares of GPUs"
    where = f"{len(grants)} {kind} on {', '.join(dict.fromkeys(gang.allocation.nodes))}"
    if gang.phase is Phase.READY:
        return Told("GangReady", f"{who} is ready: {where}")
    if gang.phase is Phase.DRAINING:
        return Told("GangDraining", f"{who} will be ended for a fault of what it has, and has notice of it", True)
    if gang.phase is Phase.REPAIRING:
        return Told("GangRepairing", f"{who}: lost workers are replaced: {where}", True)
    if gang.phase is Phase.DEGRADED:
        return Told("GangDegraded", f"{who} has lost {'; '.join(gang.lost)}", True)
    if joined:
        return Told("GangJoined", f"{who}: its raylets have joined")
    reason, behind = PASSED.get(stage, PASSED[""])
    again = f", planned again {gang.moves} times" if gang.moves else ""
    return Told(reason, f"{who}: {behind}: {where}{again}")
