"""Devices that two claims have at once, anybody's: told, until that is over.

Kubernetes' scheduler gives no device out twice. Two schedulers on one node do: neither sees in time what the other has
given, and KAI's binder does not look again. What is being made of a gang and is met by it ends at once, in
`Provisioning._refuse_taken`; one whose pods run has its devices, since the driver readies each for one claim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ray_dra.ports.kube_objects import Claim
from ray_dra.ports.kubernetes import KubeView
from ray_dra.translate.kube.schedulers import ONE_SCHEDULER, GivenTwice, given_twice

MOST_TOLD = 10  # devices at a time; they come by dozens


class Doubled:
    """See the module. `tell`: an event about the RayCluster."""

    def __init__(self, tell: Callable[[str, str], object]) -> None:
        self._tell = tell
        self._found: Mapping[tuple[str, str], str] = {}  # (node, device) -> what is said of it

    def look(self, view: KubeView, gang_of: Callable[[Claim], str]) -> None:
        """`gang_of`: the gang of ours that a claim is of; "" for none."""
        twice = given_twice(view.claims, view.slices)
        gangs = {(claim.namespace, claim.name): gang_of(claim) for claim in view.claims} if twice else {}
        found = {(each.node, each.device): _said(each, gangs) for each in twice}
        news = [said for device, said in found.items() if device not in self._found]
        self._found = found
        for said in news[:MOST_TOLD]:
            self._tell("DevicesGivenTwice", said)
        if len(news) > MOST_TOLD:
            self._tell("DevicesGivenTwice", f"and {len(news) - MOST_TOLD} more devices")

    def problems(self) -> tuple[str, ...]:
        said = list(self._found.values())
        more = len(said) - MOST_TOLD
        return (*said[:MOST_TOLD], *([f"and {more} more devices were given out twice"] if more > 0 else ()))

    def of(self, devices: Collection[tuple[str, str]]) -> tuple[str, ...]:
        """What is said of these (node, device)."""
        return tuple(said for device, said in self._found.items() if device in devices) if self._found else ()


def _said(each: GivenTwice, gangs: Mapping[tuple[str, str], str]) -> str:
    ours = sorted({gang for claim in each.claims if (gang := gangs.get(claim, ""))})
    whose = f" (of gang {', '.join(ours)})" if ours else ""
    return f"{each}{whose}; {ONE_SCHEDULER}"
