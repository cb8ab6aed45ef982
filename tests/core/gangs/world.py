"""An engine without a coordinator: what it decides is done on its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.actions import (
    Action,
    AskQuota,
    BuryGroup,
    Drop,
    EndWorkers,
    MakeGroup,
    Refuse,
    RemoveGroup,
    Save,
)
from ray_dra.core.gangs.backfill import BOUNDS, Bounds
from ray_dra.core.gangs.consolidation import CONSOLIDATION, Consolidation
from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.engine import Engine
from ray_dra.core.gangs.events import (
    Event,
    GroupMade,
    Moment,
    NextTurn,
    Submitted,
    WorkersLeft,
)
from ray_dra.core.gangs.gang import Gang, OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.patience import WORTH, Worth
from ray_dra.core.gangs.preemption import PREEMPTION, Preemption
from ray_dra.core.gangs.progress import STARTS, THERE
from ray_dra.core.model.locality import ANYWHERE
from ray_dra.core.model.node import Node
from tests.core.machines import gang, rack


class World:
    """An engine, and an executor of which nothing is left but the records."""

    def __init__(
        self,
        *,
        own_workers: bool = False,
        nodes: int = 2,
        machines: Sequence[Node] | None = None,
        backfill: Bounds = BOUNDS,
        worth: Worth | None = WORTH,
        preemption: Preemption = PREEMPTION,
        consolidation: Consolidation = CONSOLIDATION,
        learn: bool = True,
    ) -> None:
        self.inventory = Inventory(machines if machines is not None else rack("a", nodes))
        known = KnownNodes(self.inventory)
        known.look(0.0)
        begins = STARTS if own_workers else THERE
        self.discipline = Discipline(backfill, worth, preemption, consolidation, learn)
        self.engine = Engine(self.inventory, known, begins=begins, own_workers=own_workers, discipline=self.discipline)
        self.now = 0.0
        self.busy: set[str] = set()  # gangs of which workers still run
        self.done: list[Action] = []
        self.asked: set[str] = set()  # gangs that ask a queue outside
        self.ray: dict[str, str] = {}  # ordinary placement groups that Ray was told of, and their states

    @property
    def gangs(self) -> dict[str, Gang]:
        return self.engine.records.gangs

    def serve(self) -> None:
        """Until nobody more starts."""
        while self.act(NextTurn()):
            pass

    def decide(self, event: Event) -> list[Action]:
        return self.engine.handle(event, Moment(self.now, self.now))

    def act(self, event: Event) -> list[Action]:
        """Decide, act, and decide on what comes of it."""
        actions = self.decide(event)
        for action in actions:
            self.do(action)
        self.engine.validate()
        return actions

    def do(self, action: Action) -> None:
        self.done.append(action)
        if isinstance(action, Refuse):
            raise action.error
        if isinstance(action, Save):
            self.engine.saved(action, Moment(self.now, self.now))
        elif isinstance(action, Drop):
            self.engine.records.drop(action.gang, keep_until=action.keep_until)
        elif isinstance(action, MakeGroup):
            group = self.gangs[action.gang].group or action.gang
            again = group in self.ray
            self.ray.setdefault(group, "PENDING")
            assert action.again or not again, "Ray would take up what it has removed"
            self.act(GroupMade(action.gang, removed=self.ray[group] == "REMOVED"))
        elif isinstance(action, BuryGroup):
            self.ray[action.gang] = "REMOVED"
        elif isinstance(action, AskQuota):
            self.asked.add(action.gang)
        elif isinstance(action, RemoveGroup):
            self.ray[action.group] = "REMOVED"
        elif isinstance(action, EndWorkers):
            self.act(WorkersLeft(action.gang, action.gang in self.busy, undone=True, why=action.why))

    def submit(self, *sizes: int, name: str, queue: str = "", **more: Any) -> Gang:
        request = gang(*sizes, name=name, locality=more.pop("locality", None), priority=more.pop("priority", 0))
        request = replace(request, preemptible=more.pop("preemptible", False))
        self.act(Submitted(Order(request, **more), queue=queue))
        return self.gangs[name]

    def ordinary(self, *sizes: int, number: int, actor: str = "", **more: Any) -> str:
        """An ordinary placement group; its id."""
        group = f"{number:036x}"
        minted = OrdinaryGroup(group, actor, bool(more.pop("outlives_job", False)), more.pop("part_of", None))
        request = gang(*sizes, name=group, locality=more.pop("locality", ANYWHERE))
        queue = str(more.pop("queue", ""))
        self.act(Submitted(Order(request, ordinary=minted, **more), queue=queue))
        return group


def plans_of(engine: Engine) -> list[object]:
    """What is given to the planner from now on, a call each."""
    asked: list[object] = []
    plan = engine.planning.plan

    def counted(*given: object, **more: object) -> object:
        asked.append((given, more))
        return plan(*given, **more)  # type: ignore[arg-type]

    engine.planning.plan = counted  # type: ignore[method-assign,assignment]
    return asked
