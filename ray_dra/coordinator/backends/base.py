"""The port to where gangs' workers come from.

A backend says what there is, makes a gang's workers and undoes them, selects them for Ray, numbers their devices, and
tells what of them is lost. Two fulfil it: `raylets` (workers that are there and stay) and `kubernetes` (workers made
for each gang). A third, whose workers others own, would be a third class here and no condition elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.repair import FaultRule
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.signs import Seen
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.schedule import Schedule


class Guarded(NamedTuple):
    """Whether nobody else gets the GPUs of a gang whose workers are made anew, also while none of its own has them.
    `never`: why that cannot be had; "" where it can."""

    now: bool
    never: str = ""


class GivenRaylets(Protocol):
    """Raylets that were there before any gang; on Kubernetes they stand beside the workers that are made."""

    @property
    def there(self) -> Collection[str]:
        """The names of their nodes."""

    def knows(self, name: str) -> bool:
        """Whether a raylet is, or was, on the node."""

    def sign(self, name: str) -> Seen | None:
        """Why plans leave the node out, where Ray says it of its raylet."""

    def selector(self, name: str) -> dict[str, str]:
        """The label selector that pins a bundle to the node."""


class Backend(Protocol):
    """See the module.

    Attributes:
        own_workers: a gang's workers are made for it, so that where they fail or others' work took them, new ones are
            made, and at its end they are undone.
        begins: the progress of a gang whose devices were just held.
        place_within: seconds for Ray to place a gang whose workers have joined, before looking elsewhere.
    """

    @property
    def own_workers(self) -> bool: ...
    @property
    def begins(self) -> Progress: ...
    @property
    def place_within(self) -> float: ...

    # what there is

    def look(self, wanted: Iterable[Allocation]) -> None:
        """Read what there is into the inventory. `wanted`: the allocations that gangs hold now."""

    def check(self, request: GangRequest) -> None:
        """What would keep any such gang from getting workers. Raises InvalidRequest, or NotFound for no RayCluster."""

    def problems(self) -> tuple[str, ...]:
        """Why the inventory may differ from what is there."""

    def hear(self, node: str, reading: NodeReading) -> None:
        """Take note of what an agent in a gang's own worker says of its devices."""

    @property
    def default_policy(self) -> str:
        """The policy of ordinary placement groups for which nobody says one, as it is set: it may be none that can be.
        "" where none is set."""

    @property
    def default_on_fault(self) -> Sequence[FaultRule]:
        """What is done about faults of gangs whose programs do not say it, as it is set."""

    @property
    def schedule(self) -> Schedule | None:
        """When gangs have which of their named shapes, as it is set there; None where it is not."""

    @property
    def ready_made(self) -> Collection[str]:
        """Nodes on which a gang is tried before workers are made for it."""

    @property
    def left_to_others(self) -> str:
        """Which devices are left to others' gangs; "" for none."""

    # a gang's workers

    def make(
        self, request: GangRequest, allocation: Allocation, joined: Collection[str], *, grouped: bool, queue: str = ""
    ) -> Progress:
        """Make the gang's workers one step further. `joined`: slot labels of the raylets that live; `grouped`: the
        placement group is there; `queue`: outside, that pays for the gang."""

    def undo(self, wanted: Iterable[Allocation]) -> None:
        """Take all workers that none of these allocations wants one step back."""

    def guard(self, gangs: Mapping[str, Allocation]) -> None:
        """Keep everybody else off these GPUs of gangs whose workers are made anew, one step further; and off no
        others."""

    def guarded(self, gang: str, gpus: Allocation) -> Guarded:
        """Whether everybody else is kept off these GPUs of a gang, as the last `guard` was told."""

    def gone(self, gang: str, moves: int) -> bool:
        """Whether nothing is left of any workers made for a gang."""

    @property
    def idle(self) -> bool:
        """Whether nothing is left of any workers made for any gang."""

    def lost(self, request: GangRequest, allocation: Allocation, joined: Collection[str]) -> Mapping[str, str]:
        """The nodes whose workers are not there (any more), each with a sentence; of those that have bundles."""

    def kept_lost(self, allocation: Allocation, joined: Collection[str]) -> frozenset[str]:
        """The nodes whose workers are not there (any more), of those that have only what the gang keeps."""

    def ending(self, allocation: Allocation) -> Ending | None:
        """What of a gang's workers will end before its program gives it back, as far as is known."""

    def given_twice(self, allocation: Allocation) -> tuple[str, ...]:
        """Which of its devices others were given as well, each as a sentence."""

    def sign(self, node: str) -> Seen | None:
        """Why plans leave the node out, where that is a sign of Kubernetes' or the backend's own choice."""

    # how Ray sees them

    def selector(self, allocation: Allocation, node: str) -> Mapping[str, str]:
        """The label selector that pins the gang's bundles on a node to its worker there."""

    def slots(self, allocation: Allocation) -> Mapping[str, str]:
        """The label of each of the gang's own workers -> its node."""

    def numbers(self, allocation: Allocation) -> Mapping[str, Mapping[DeviceId, int]]:
        """Node -> a device -> its number in the gang's own worker there; none where all are seen."""

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        """An event for people who look at the cluster."""
