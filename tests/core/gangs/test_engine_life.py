"""Everything that can happen to gangs, in any order, on the engine alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.gangs.actions import MakeWorkers
from ray_dra.core.gangs.consolidation import Consolidation
from ray_dra.core.gangs.events import (
    Committed,
    DevicesTaken,
    GangObserved,
    JobsSeen,
    NextTurn,
    QuotaAnswered,
    ReleaseAsked,
    ReshapeAsked,
    Submitted,
    WorkersDue,
    WorkersProgressed,
)
from ray_dra.core.gangs.gang import GroupSet, Maker
from ray_dra.core.gangs.lifecycle import HOLD_SECONDS, Observed, phase
from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.preemption import Preemption
from ray_dra.core.gangs.progress import STARTS, THERE, Progress
from ray_dra.core.gangs.quota import Answer, Said, kinds
from ray_dra.core.gangs.repair import OnFault, for_fault, on_fault
from ray_dra.core.gangs.reshape import GROWS, NOTICE
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest, RayDraError
from tests.core.gangs.world import World
from tests.core.machines import gang, group_id

DECLARED = st.sampled_from(
    [
        None,
        on_fault("restart", 0.0),
        on_fault("restart", 3.0),
        on_fault("replace", 0.0),
        on_fault(("replace", "restart"), 0.0),
        on_fault("shrink", 0.0, min_bundles=1),
        on_fault(("replace", "shrink", "restart"), 2.0, min_bundles=1),
    ]
)
FAULT = Ending("lost: a node", 3.0, (0,), (0,))
GUESSES = st.sampled_from([None, None, 2.0, 1000.0])
QUEUES = st.sampled_from(["", "", "outside/q"])


class Life(RuleBasedStateMachine):
    """Anything said of any gang in any order: the invariants hold, and so does the table of changes."""

    own_workers = False

    def __init__(self) -> None:
        super().__init__()
        preemption = Preemption(most=2, least_run=2.0)
        moves = Consolidation(restart=0.0, least_run=0.0)
        self.world = World(own_workers=self.own_workers, nodes=3, preemption=preemption, consolidation=moves)
        self.count = 0

    def drawn(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.world.gangs)))

    @rule(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        priority=st.integers(0, 1),
        wait=st.booleans(),
        maker=st.sampled_from([None, Maker(), Maker("a" * 32)]),
        queue=QUEUES,
        runs_for=GUESSES,
        declared=DECLARED,
        preemptible=st.booleans(),
        movable=st.booleans(),
        cliques=st.sampled_from([None, 1]),
    )
    def submit(
        self,
        sizes: list[int],
        priority: int,
        wait: bool,
        maker: Maker | None,
        queue: str,
        runs_for: float | None,
        declared: OnFault | None,
        preemptible: bool,
        movable: bool,
        cliques: int | None,
    ) -> None:
        self.count += 1
        if declared is not None and declared.min_bundles is not None and len(sizes) < 2:
            declared = None
        request = gang(*sizes, name=f"{self.count:036x}" if maker else f"g{self.count}", priority=priority)
        request = replace(request, preemptible=preemptible, locality=Locality(cliques=cliques))
        order = Order(
            request,
            owner=f"job{self.count % 2}",
            wait=wait,
            maker=maker,
            runs_for=runs_for,
            on_fault=declared,
            movable=movable,
        )
        try:
            self.world.act(Submitted(order, queue=queue))
        except InvalidRequest:
            assert queue
            assert not wait

    @rule(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        actor=st.booleans(),
        outlives=st.booleans(),
        part_of=st.sampled_from([None, None, GroupSet("near"), GroupSet("pair", 2), GroupSet("three", 3)]),
        queue=QUEUES,
    )
    def ordinary(self, sizes: list[int], actor: bool, outlives: bool, part_of: GroupSet | None, queue: str) -> None:
        self.count += 1
        who, owner = "a" * 32 if actor else "", f"job{self.count % 2}"
        outlives = actor and outlives
        try:
            self.world.ordinary(
                *sizes,
                number=self.count,
                actor=who,
                owner=owner,
                outlives_job=outlives,
                part_of=part_of,
                queue=queue,
            )
        except InvalidRequest:
            assert queue
            assert part_of is not None

    @precondition(lambda self: self.world.engine.records.with_quota())
    @rule(
        data=st.data(),
        said=st.sampled_from(Said),
        labels=st.sampled_from([(), (("zone", "a"),)]),
        state=st.sampled_from(["PENDING", "CREATED"]),
    )
    def answer(self, data: st.DataObject, said: Said, labels: tuple[tuple[str, str], ...], state: str) -> None:
        """A queue outside says anything at any time."""
        paying = data.draw(st.sampled_from(self.world.engine.records.with_quota()))
        granted = (labels,) * len(kinds(paying.request)) if said is Said.ADMITTED else ()
        grouped = paying.group is not None
        seen = Observed(group_state=state if grouped else None, placed_once=grouped and state == "CREATED")
        self.world.act(QuotaAnswered(paying.id, Answer(said, "it says so", granted), seen))
        now = self.world.gangs.get(paying.id)
        if now is not None and said is Said.EVICTED and not seen.placed_once:
            assert now.releasing or now.unpaid

    @precondition(lambda self: self.world.gangs)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        name = self.drawn(data)
        if not self.world.gangs[name].releasing:
            self.count += 1
            self.world.act(Committed(name, group_id(f"group{self.count}"), self.world.gangs[name].moves))

    @precondition(lambda self: self.world.gangs)
    @rule(
        data=st.data(),
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        grace=st.sampled_from([0.0, 2.0]),
        cliques=st.sampled_from([None, 1]),
        keep=st.booleans(),
    )
    def reshape(self, data: st.DataObject, sizes: list[int], grace: float, cliques: int | None, keep: bool) -> None:
        """Another shape at any time: begun for one that runs, refused with nothing changed for any other."""
        name = self.drawn(data)
        before = self.world.gangs[name]
        seen = Observed(
            group_state="CREATED" if before.group is not None else None,
            placed_once=before.group is not None,
            provisioned=self.world.engine.records.notes[name].progress.ready,
        )
        request = gang(*sizes, name=name, priority=before.request.priority, locality=Locality(cliques=cliques))
        try:
            self.world.act(ReshapeAsked(name, request, 10.0, grace, seen, keep))
        except RayDraError:
            assert self.world.gangs[name] == before
            return
        now = self.world.gangs[name]
        if now.reshape is not before.reshape:
            assert now.allocation == before.allocation, "nothing is let go before its time"
            assert now.notice is not None

    @precondition(lambda self: self.world.gangs)
    @rule(data=st.data(), busy=st.booleans())
    def release(self, data: st.DataObject, busy: bool) -> None:
        name = self.drawn(data)
        if busy:
            self.world.busy.add(name)
        self.world.act(ReleaseAsked(name))

    @precondition(lambda self: self.world.gangs)
    @rule(
        data=st.data(),
        state=st.sampled_from([None, "PENDING", "CREATED", "ABSENT"]),
        lost=st.booleans(),
        alive=st.booleans(),
        late=st.booleans(),
        taken=st.booleans(),
        breaker=st.sampled_from(["", "", "a wave"]),
        ending=st.sampled_from([None, Ending("it is upgraded", None, (0,)), Ending("it is deleted", 0.0, (0,)), FAULT]),
    )
    def observe(
        self,
        data: st.DataObject,
        state: str | None,
        lost: bool,
        alive: bool,
        late: bool,
        taken: bool,
        breaker: str,
        ending: Ending | None,
    ) -> None:
        name = self.drawn(data)
        held = self.world.gangs[name]
        seen = Observed(
            group_state=state if held.group is not None else None,
            owner_alive=alive,
            busy=name in self.world.busy,
            lost=("a node",) if lost else (),
            held_for=2 * HOLD_SECONDS if late else 0.0,
            provisioned=self.world.engine.records.notes[name].progress.ready,
            placed_once=state not in (None, "PENDING"),
            ending=ending if held.allocation is not None else None,
            breaker=breaker,
        )
        self.world.act(WorkersDue(name, seen))
        if taken and not held.releasing and phase(held, seen) in (Phase.HELD, Phase.PLACING):
            self.world.act(DevicesTaken(name, seen))
        elif name in self.world.gangs:
            self.world.act(GangObserved(name, seen))
        now = self.world.gangs.get(name)
        if now is not None and not now.releasing and now.allocation is held.allocation:
            told = now.notice.reason if now.notice is not None else None
            drains = now.reshape is not None and now.reshape.stage is ReshapeStage.DRAINS
            grows = now.reshape is not None and now.reshape.grows
            program = GROWS if grows else NOTICE
            shown = seen.ending.reason if seen.ending is not None else program if drains else None
            over = held.eviction is not None and now.eviction is None  # nobody waits for it any more
            if now.eviction is not None and (seen.ending is None or for_fault(seen.ending)):
                shown = now.eviction.why
            assert told == shown or (over and told is None)

    @precondition(lambda self: self.own_workers and self.world.gangs)
    @rule(
        data=st.data(),
        progress=st.sampled_from(
            [THERE, Progress(ready=True), STARTS, Progress(failed="no node"), Progress(failed="no", final=True)]
        ),
    )
    def workers_progress(self, data: st.DataObject, progress: Progress) -> None:
        name = self.drawn(data)
        if MakeWorkers(name) in self.world.decide(WorkersDue(name, Observed())):
            self.world.act(WorkersProgressed(name, progress))

    @rule(jobs=st.sampled_from([("job0", "job1"), ("job0",), ()]), ended=st.booleans())
    def jobs(self, jobs: tuple[str, ...], ended: bool) -> None:
        self.world.act(JobsSeen(jobs, ("a" * 32,) if ended else ()))

    @rule()
    def workers_end(self) -> None:
        self.world.busy.clear()

    @rule()
    def serve(self) -> None:
        self.world.now += 1.0
        while self.world.act(NextTurn()):
            pass

    @invariant()
    def valid(self) -> None:
        self.world.engine.validate()
        for each in self.world.gangs.values():
            assert (each.ends is not None) == (each.runs_for is not None and each.allocation is not None)
            assert (each.started is not None) == (each.allocation is not None)
            if each.eviction is not None:
                assert each.movable if each.eviction.moves else each.request.preemptible
                assert each.preempted < 2 or each.eviction.moves
                by = self.world.gangs.get(each.eviction.by)
                higher = by is None or by.request.priority > each.request.priority
                assert higher or each.eviction.moves

    def teardown(self) -> None:
        self.world.busy.clear()
        for name in list(self.world.gangs):
            self.world.act(ReleaseAsked(name))
        assert not self.world.gangs
        assert set(self.world.ray.values()) <= {"REMOVED"}, "nobody waits in Ray for what is gone"
        self.world.act(JobsSeen(()))  # with a program ends what is kept for it
        assert self.world.inventory.free_devices == 12, "of a change of shape nothing is left, wherever it was"


class LifeWithOwnWorkers(Life):
    own_workers = True


TestLife = Life.TestCase


TestLife.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


TestLifeWithOwnWorkers = LifeWithOwnWorkers.TestCase


TestLifeWithOwnWorkers.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
