"""Where a gang goes, on what there is: workers that are there, new ones on Kubernetes' nodes, or a no."""

from __future__ import annotations

from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.gang_store import RuntimeNotes
from ray_dra.coordinator.known_nodes import KnownNodes
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.gangs.lifecycle import Gang
from ray_dra.core.gangs.patience import in_turn
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import CLUSTER, QUEUE, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan
from ray_dra.errors import UnsatisfiableError, unsatisfiable


class Planning:
    """See the module. Holds nothing; the coordinator does."""

    def __init__(self, inventory: Inventory, nodes: Nodes, known: KnownNodes, backend: Backend) -> None:
        self.inventory, self.nodes, self.known, self.backend = inventory, nodes, known, backend

    def plan(self, request: GangRequest, epoch: int = 0, *, strict: bool = False) -> Allocation | Unsatisfiable:
        """On workers that are there, if they will do, before new ones are made. `strict` as in `core.plan`."""
        no = too_few(self.inventory, request)
        if no is not None:
            return no
        there = self._on_raylets(request, epoch, strict=strict)
        return there if there is not None else plan(self.inventory, request, epoch=epoch, strict=strict)

    def in_turn(self, gang: Gang, notes: RuntimeNotes, now: float) -> Allocation | Unsatisfiable:
        """For the first in the queue; `notes` keep since when it waits only for what it prefers."""

        def place(strict: bool) -> Allocation | Unsatisfiable:
            return self.plan(gang.request, gang.moves, strict=strict)

        answer, notes.could_start = in_turn(self.inventory, gang.request, notes.could_start, now, place)
        return answer

    def explained(self, request: GangRequest) -> Allocation | Unsatisfiable:
        """The same; after a no also what is nearest to a yes."""
        there = self._on_raylets(request, 0, strict=False)
        return there if there is not None else plan_and_explain(self.inventory, request)

    def _on_raylets(self, request: GangRequest, epoch: int, *, strict: bool) -> Allocation | None:
        """On GPU workers that the RayCluster has besides gangs' own. Whole cliques are not theirs to give."""
        if request.locality.exclusive:
            return None
        names = [name for name in self.backend.ready_made if name in self.inventory.node_states]
        answer = plan(self.inventory.part(names), request, epoch=epoch, strict=strict) if names else None
        return answer if isinstance(answer, Allocation) else None

    def refuse_never(self, request: GangRequest) -> None:
        """Raises UnsatisfiableError for a gang that would not fit all nodes known lately, with nobody else there: to
        wait cannot help."""
        if self.nodes.waiting:
            return  # some nodes have not been read yet
        answer = self._ever(request)
        if isinstance(answer, Unsatisfiable) and self.known.look():
            answer = self._ever(request)  # something has come since the last look
        if isinstance(answer, Unsatisfiable) and not answer.proven:
            raise refusal("No place was found within the bound of work, not even with nobody else here.", answer)
        if isinstance(answer, Unsatisfiable):
            raise refusal("The gang would not fit even if nobody else were here.", answer)

    def _ever(self, request: GangRequest) -> Allocation | Unsatisfiable:
        return too_few(self.known.cluster, request) or plan(self.known.cluster, request)


def too_few(inventory: Inventory, request: GangRequest) -> Unsatisfiable | None:
    """A no by the numbers of devices alone, before anything is searched for; None where they say nothing."""
    wanted = sum(bundle.count for bundle in request.bundles if bundle.share is None)
    if wanted <= inventory.devices:
        return None
    return Unsatisfiable(request.gang, (short(ShortfallKind.DEVICES, CLUSTER, wanted, inventory.devices),))


def not_its_turn(gang: Gang, ahead: int, first: Gang) -> Unsatisfiable:
    """The answer to a gang while others wait before it."""
    turn = short(ShortfallKind.QUEUE, QUEUE, gang.id, first.id, ahead=ahead, first=first.name)
    return Unsatisfiable(gang.id, (turn,))


def refusal(reason: str, answer: Unsatisfiable) -> UnsatisfiableError:
    """A no as an error."""
    return unsatisfiable(f"{reason} {answer}", answer.shortfalls)
