"""What a program asks of the coordinator: a gang, and for whom. It travels from process to process as it is here."""

from __future__ import annotations

from dataclasses import dataclass

from ray_dra.core.gangs.gang import Beside, GroupSet, Maker, OrdinaryGroup
from ray_dra.core.gangs.record_sense import MOST_SECONDS, is_actor, is_group
from ray_dra.core.gangs.repair import MOST_GRACE, OnFault, check_on_fault, check_shrink
from ray_dra.core.model.checked import MAX_NAME, flag, number, text, whole
from ray_dra.core.model.request import MAX_BUNDLES, GangRequest, check_request
from ray_dra.errors import InvalidRequest, shown

MOST_SPARES = 17  # of the 18 nodes of a rack
LEAST_SECONDS = 1.0  # that a program may guess for a gang


@dataclass(frozen=True, slots=True)
class Order:
    """A request, with who asks and how long the gang lives.

    Attributes:
        owner: Ray's job id; the gang is given back when the job ends, unless `detached`.
        wait: False: refuse at once what cannot be met now.
        ordinary: the placement group that the program made by Ray's own call, whose id is the gang's, too. It waits for
            as long as it takes.
        maker: the coordinator may make the placement group in this name, under the gang's id, if the gang starts at
            once.
        runs_for: seconds for which the program guesses that the gang runs; None: it does not say.
        on_fault: what is done about a fault once the gang is placed; None: the cluster's default.
        grace: the grace with the cluster's default; None: its own.
        beside: another gang that it goes with.
        movable: it may be moved to other devices, so that another gang has its clique.
        team: the queue of a team; "": it names none.
        spares: so many free nodes of each of its cliques are held for its repairs.
    """

    request: GangRequest
    name: str = ""
    namespace: str = ""
    owner: str = ""
    detached: bool = False
    wait: bool = True
    ordinary: OrdinaryGroup | None = None
    maker: Maker | None = None
    runs_for: float | None = None
    on_fault: OnFault | None = None
    grace: float | None = None
    beside: Beside | None = None
    movable: bool = False
    team: str = ""
    spares: int = 0

    def __post_init__(self) -> None:
        _check_fields(self)


def check_order(order: object) -> Order:
    """The same order, if everything in it is what it should be; for orders that came out of another process.

    Raises:
        InvalidRequest: it is not; names the field.
    """
    if not isinstance(order, Order):
        raise InvalidRequest("This is no order.", place="order", wanted=shown(order))
    try:
        _check_fields(order)
        check_request(order.request)
    except AttributeError as error:  # a field that is not even there
        raise InvalidRequest("This is no whole order.", place="order") from error
    return order


def _check_fields(order: Order) -> None:
    text(order.name, "name", empty=True)
    text(order.namespace, "namespace", empty=True)
    text(order.owner, "owner", empty=True)
    text(order.team, "queue", empty=True)
    flag(order.detached, "detached")
    flag(order.wait, "wait")
    flag(order.movable, "movable")
    if order.runs_for is not None:
        number(order.runs_for, "runs_for", least=LEAST_SECONDS, most=MOST_SECONDS)
    if order.on_fault is not None:
        check_shrink(check_on_fault(order.on_fault), order.request, ordinary=order.ordinary is not None)
    if order.grace is not None:
        number(order.grace, "grace", least=0.0, most=MOST_GRACE)
    if order.beside is not None:
        if not isinstance(order.beside, Beside) or order.ordinary is not None:
            raise InvalidRequest("This gang goes with no other.", place="beside", wanted=shown(order.beside))
        text(order.beside.gang, "beside.gang")
        flag(order.beside.near, "beside.near")
        flag(order.beside.ends, "beside.ends")
    _check_spares(order)
    ordinary, maker = order.ordinary, order.maker
    if maker is not None:
        if not isinstance(maker, Maker) or not is_actor(maker.actor) or not is_group(order.request.gang) or ordinary:
            raise InvalidRequest("Nobody can make this gang's placement group.", place="maker", wanted=shown(maker))
        flag(maker.outlives_job, "maker.outlives_job")
    if ordinary is None:
        return
    known = isinstance(ordinary, OrdinaryGroup) and is_group(ordinary.id) and is_actor(ordinary.actor)
    if not known or ordinary.id != order.request.gang:
        raise InvalidRequest("This is no ordinary placement group.", place="ordinary", wanted=shown(ordinary))
    flag(ordinary.outlives_job, "ordinary.outlives_job")
    if ordinary.part_of is not None:
        if not isinstance(ordinary.part_of, GroupSet):
            raise InvalidRequest("This is no set of groups.", place="ordinary.part_of", wanted=shown(ordinary.part_of))
        text(ordinary.part_of.id, "ordinary.part_of.id", most=3 * MAX_NAME)
        whole(ordinary.part_of.size, "ordinary.part_of.size", least=0, most=MAX_BUNDLES)
        if ordinary.part_of.size > 1 and order.request.locality.exclusive:
            said = "Of a set that is one gang no group has a clique to itself."
            raise InvalidRequest(said, place="ordinary.part_of", wanted=str(order.request.locality))


def _check_spares(order: Order) -> None:
    """Whether nodes can be held for this gang's repairs. Raises InvalidRequest otherwise."""
    request = order.request
    if not whole(order.spares, "spares", least=0, most=MOST_SPARES):
        return
    in_part = any(bundle.part is not None or bundle.share is not None for bundle in request.bundles)
    if order.ordinary is not None or request.pool or in_part:
        raise InvalidRequest(
            "Spares of its own has a gang of whole GPUs alone.",
            place="spares",
            wanted=str(order.spares),
            available="ray_dra.placement_group(...) of whole GPUs",
        )
    if request.locality.exclusive:
        raise InvalidRequest(
            "A gang that has its cliques to itself has their free nodes, too.",
            place="spares",
            wanted=str(order.spares),
            available="exclusive=True without spares, or spares without it",
        )
    if order.on_fault is not None and not order.on_fault.acts:
        raise InvalidRequest(
            "A gang that degrades after a fault never needs spares.",
            place="spares",
            wanted=f"{order.spares}, with on_fault {order.on_fault.ways[0].value}",
            available='on_fault="replace", "shrink" or "restart"',
        )
