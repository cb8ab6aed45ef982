"""How an order for a gang comes to the coordinator, and what of it the program's own words decide.

`api.py` makes orders; whatever comes between an order and its handle, nothing is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.repair import GRACE_SECONDS, MOST_GRACE, OnFault
from ray_dra.core.gangs.repair import on_fault as declared
from ray_dra.core.model.checked import number
from ray_dra.errors import InvalidRequest, NameTaken, UnsatisfiableError, shown
from ray_dra.processes.calls import ask
from ray_dra.processes.start_coordinator import coordinator_here
from ray_dra.program.gang_handle import GangPlacementGroup
from ray_dra.translate.names import RAY_NODE_ID


def check_lifetime(lifetime: object) -> None:
    if lifetime is not None and not (isinstance(lifetime, str) and lifetime == "detached"):
        raise InvalidRequest("lifetime is None or 'detached'.", place="lifetime", wanted=shown(lifetime))


def fault_ways(ways: str | Sequence[str] | None, grace: float | None, min_bundles: int | None) -> OnFault | None:
    if ways is not None:
        return declared(ways, GRACE_SECONDS if grace is None else grace, min_bundles=min_bundles)
    if min_bundles is not None:
        said = "min_bundles is for a gang that may shrink: say on_fault, too."
        available = "on_fault='shrink'"
        raise InvalidRequest(said, place="min_bundles", wanted=shown(min_bundles), available=available)
    return None


def grace_alone(grace: float, *, may_end: bool) -> float:
    """Of a gang that leaves it to the cluster what is done about faults."""
    if not may_end:
        said = "grace is for what on_fault does, a preemption, a move or a team: say one of them, too."
        available = "on_fault='restart', say, preemptible=True, movable=True or queue="
        raise InvalidRequest(said, place="grace", wanted=shown(grace), available=available)
    return number(grace, "grace", least=0.0, most=MOST_GRACE)


def submit(order: Order, soft_node: str | None) -> GangPlacementGroup:
    """The gang's handle; or, whatever comes between, nothing is held."""
    actor = coordinator_here()
    try:
        return GangPlacementGroup.of(order, _planned(actor, order, soft_node))
    except (UnsatisfiableError, NameTaken):
        raise  # the coordinator's no
    except BaseException:
        actor.release.remote(order.request.gang, 0.0)  # also where the submit is run after that
        raise


def _planned(actor: Any, order: Order, soft_node: str | None) -> Status:
    if soft_node:
        near = _with_labels(order, {RAY_NODE_ID: soft_node.lower()})
        try:
            found: Status = ask(actor.submit.remote(near))
            return found
        except UnsatisfiableError:
            pass  # soft: anywhere else will do
    answer: Status = ask(actor.submit.remote(order))
    return answer


def _with_labels(order: Order, labels: dict[str, str]) -> Order:
    bundles = tuple(replace(b, labels={**b.labels, **labels}) for b in order.request.bundles)
    return replace(order, request=replace(order.request, bundles=bundles), wait=False)
