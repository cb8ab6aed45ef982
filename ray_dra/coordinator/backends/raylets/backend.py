"""Workers that are there before any gang and stay after it: nothing is made, and nothing is undone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ray_dra.coordinator.backends.base import GivenRaylets, Guarded
from ray_dra.core.gangs.lifecycle import PLACE_SECONDS
from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.progress import THERE, Progress
from ray_dra.core.gangs.repair import FaultRule
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.signs import Seen
from ray_dra.errors import InvalidRequest
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.ray.confidential import is_confidential


class RayletsBackend:
    """See the module, and `backends.base.Backend`. What there is, `nodes.py` writes into the inventory."""

    own_workers = False
    begins = THERE
    place_within = PLACE_SECONDS
    ready_made: Collection[str] = ()  # all are, so none comes before the others
    left_to_others = ""
    default_policy = ""
    schedule = None
    default_on_fault: tuple[FaultRule, ...] = ()
    idle = True

    def __init__(self, raylets: GivenRaylets) -> None:
        self._raylets = raylets

    def look(self, wanted: Iterable[Allocation]) -> None:
        """The raylets are looked at with Ray."""

    def check(self, request: GangRequest) -> None:
        """Nothing has to be there. Raises InvalidRequest for what only workers that are made can be."""
        if is_confidential(request.bundles):
            raise InvalidRequest(
                "Confidential workers are made for their gang, on Kubernetes.",
                place="confidential",
                available='ray.init("ray_dra://kubernetes")',
            )

    def problems(self) -> tuple[str, ...]:
        return ()

    def hear(self, node: str, reading: NodeReading) -> None:
        """No gang has an agent of its own."""

    def make(
        self, request: GangRequest, allocation: Allocation, joined: Collection[str], *, grouped: bool, queue: str = ""
    ) -> Progress:
        return THERE

    def undo(self, wanted: Iterable[Allocation]) -> None:
        """Nothing was made."""

    def guard(self, gangs: Mapping[str, Allocation]) -> None:
        """No workers are made anew."""

    def guarded(self, gang: str, gpus: Allocation) -> Guarded:
        return Guarded(True)

    def gone(self, gang: str, moves: int) -> bool:
        return True

    def lost(self, request: GangRequest, allocation: Allocation, joined: Collection[str]) -> Mapping[str, str]:
        return {}

    def kept_lost(self, allocation: Allocation, joined: Collection[str]) -> frozenset[str]:
        return frozenset()

    def ending(self, allocation: Allocation) -> Ending | None:
        return None

    def given_twice(self, allocation: Allocation) -> tuple[str, ...]:
        return ()

    def sign(self, node: str) -> Seen | None:
        return self._raylets.sign(node)

    def selector(self, allocation: Allocation, node: str) -> Mapping[str, str]:
        return self._raylets.selector(node)

    def slots(self, allocation: Allocation) -> Mapping[str, str]:
        return {}

    def numbers(self, allocation: Allocation) -> Mapping[str, Mapping[DeviceId, int]]:
        return {}

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Nobody watches; the log has it."""
