"""The coordinator's life over fake ports: everything that can happen, in any order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.gangs.gang import Gang, Maker
from ray_dra.core.gangs.phases import ARROWS
from ray_dra.core.gangs.repair import OnFault, on_fault
from ray_dra.core.model.locality import Locality
from ray_dra.errors import RayDraError, UnsatisfiableError
from tests.core.machines import gang

from .world import Phase, World, positions


def test_a_history_outlives_the_coordinator() -> None:
    world = World()
    world.submit(gang(4, 4, name="g"))
    world.place("g")
    world.report("t0", xids=(79,))
    world.pass_time(1)
    before = [change.to for change in world.coordinator.status("g").history]
    assert before == [Phase.HELD, Phase.PLACING, Phase.READY, Phase.DEGRADED]
    world.restart()
    after = [change.to for change in world.coordinator.status("g").history]
    assert after[:2] == before[:2], "what was only seen is stored with the next decision"
    assert after[-1] is Phase.DEGRADED, "and seen again"
    world.check()


LOCALITIES = [
    Locality(),
    *(Locality(cliques=n, exclusive=alone) for n in (1, 2) for alone in (False, True)),
    *(Locality(cliques=1, required=False, patience=patience) for patience in (0.0, 10.0)),
]


class Life(RuleBasedStateMachine):
    """Holds, commits, releases, kills and faults in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.coordinator._wall = self.world.clock
        self.count = 0
        self.phases: dict[str, Phase] = {}

    @rule(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        locality=st.sampled_from(LOCALITIES),
        priority=st.integers(0, 1),
        wait=st.booleans(),
        detached=st.booleans(),
        maker=st.sampled_from([None, Maker()]),
        runs_for=st.sampled_from([None, None, 1.0, 1e6]),
        declared=st.sampled_from([None, on_fault("restart", 0.0), on_fault("restart", 5.0)]),
    )
    def submit(
        self,
        sizes: list[int],
        locality: Locality,
        priority: int,
        wait: bool,
        detached: bool,
        maker: Maker | None,
        runs_for: float | None,
        declared: OnFault | None,
    ) -> None:
        self.count += 1
        name = f"g{self.count}" if maker is None else f"{self.count + 2**64:036x}"
        request = gang(*sizes, name=name, locality=locality, priority=priority)
        try:
            status = self.world.submit(
                request, wait=wait, detached=detached, maker=maker, runs_for=runs_for, on_fault=declared
            )
            assert wait or status.allocation is not None
        except UnsatisfiableError as error:
            assert error.shortfalls
            assert request.gang not in self.world.coordinator.gangs

    def gangs(self, *phases: Phase) -> list[str]:
        found = self.world.coordinator
        return [g for g in found.gangs if found.status(g).phase in phases]

    @precondition(lambda self: self.gangs(Phase.HELD))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.world.place(data.draw(st.sampled_from(self.gangs(Phase.HELD))))

    @precondition(lambda self: self.gangs(Phase.PLACING, Phase.READY))
    @rule(data=st.data())
    def commit_by_another_copy(self, data: st.DataObject) -> None:
        """Of the handle, which made a placement group of its own at the same time; the first one stays."""
        name = data.draw(st.sampled_from(self.gangs(Phase.PLACING, Phase.READY)))
        before = self.world.coordinator.status(name)
        after = self.world.coordinator.commit(name, "f" * 36, before.moves)
        assert after.group == before.group
        assert after.phase == before.phase

    @precondition(lambda self: self.world.coordinator.gangs)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.world.coordinator.release(data.draw(st.sampled_from(list(self.world.coordinator.gangs))))

    @rule()
    def kill_coordinator(self) -> None:
        before = dict(self.world.coordinator.gangs)
        self.world.restart()
        self.keeps_decisions(before)

    def keeps_decisions(self, before: dict[str, Gang]) -> None:
        """A restart keeps every decision; what was declared about a fault may just be due, and is done at once."""
        for name, was in before.items():
            now = self.world.coordinator.gangs.get(name)
            if was.allocation is not None and now is not None and now.allocation != was.allocation:
                assert was.on_fault.acts
                assert any(change.why.startswith("restart: ") for change in now.history if change not in was.history)

    @precondition(lambda self: self.world.coordinator.gangs)
    @rule(data=st.data())
    def lose_record(self, data: st.DataObject) -> None:
        """A gang's record cannot be read any more; its placement group lives on."""
        lost = data.draw(st.sampled_from(list(self.world.coordinator.gangs)))
        before = {name: gang for name, gang in self.world.coordinator.gangs.items() if name != lost}
        self.world.store.data[f"gang/{lost}"] = data.draw(st.sampled_from([b"", b"?", b"{}", b'{"version":9}']))
        self.world.restart()
        assert f"gang/{lost}" in self.world.coordinator.aside.records
        self.keeps_decisions(before)

    @rule(seconds=st.sampled_from([3.0, 40.0]))
    def stop_coordinator(self, seconds: float) -> None:
        """It hears nobody meanwhile."""
        self.world.clock.now += seconds
        self.world.coordinator.observe()
        assert not [
            s.node.reason for s in self.world.coordinator.inventory.node_states.values() if "silent" in s.node.reason
        ]
        self.world.pass_time(0.5)

    @rule(at=st.integers(0, 3), gpus=st.integers(1, 4), hooked=st.booleans())
    def start_task(self, at: int, gpus: int, hooked: bool) -> None:
        raylet = self.world.raylet(f"t{at}")
        if self.world.ray.nodes[raylet].alive and (task := self.world.ray.start_task(raylet, gpus)) and hooked:
            try:
                devices = positions(self.world.coordinator.devices_for(raylet, "", -1, task[1], task[0]))
            except RayDraError:
                del self.world.ray.tasks[task[0]]  # the worker fails, and Ray ends it
                return
            assert len(set(devices)) == gpus
            held = self.world.coordinator.inventory.node_states[f"t{at}"].held
            assert not any(held >> d & 1 for d in devices)

    @precondition(lambda self: self.world.ray.tasks)
    @rule()
    def end_tasks(self) -> None:
        self.world.ray.tasks.clear()

    @rule(at=st.integers(0, 3), xid=st.sampled_from([(), (79,), (31,)]))
    def fault(self, at: int, xid: tuple[int, ...]) -> None:
        if self.world.ray.nodes[self.world.raylet(f"t{at}")].alive:
            self.world.report(f"t{at}", xids=xid)

    @rule(at=st.integers(0, 3))
    def kill_raylet(self, at: int) -> None:
        self.world.ray.kill_node(self.world.raylet(f"t{at}"))
        self.world.coordinator.observe()

    @rule(at=st.integers(0, 3))
    def restart_raylet(self, at: int) -> None:
        name = f"t{at}"
        self.world.ray.kill_node(self.world.raylet(name))
        self.world.coordinator.observe()
        self.world.incarnation[name] += 1
        self.world.ray.add_node(self.world.raylet(name), gpus=4, labels={"ray-dra.io/node": name})
        self.world.coordinator.observe()
        self.world.report(name)

    @rule(seconds=st.sampled_from([0.5, 4.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    @invariant()
    def devices_of_lost_records_are_nobody_elses(self) -> None:
        maps = self.world.coordinator.foreign_work.unclaimed.values()
        theirs = {device[1] for bundles in maps for bundle in bundles for device in bundle}
        for held in self.world.coordinator.gangs.values():
            assert held.allocation is None or theirs.isdisjoint(g.uuid for g in held.allocation.grants)

    @invariant()
    def phases_change_as_allowed(self) -> None:
        now = {g: self.world.coordinator.status(g).phase for g in self.world.coordinator.gangs}
        for name, before in self.phases.items():
            after = now.get(name, Phase.GONE)
            steps = {before} | {to for was, to in ARROWS if was is before}
            reachable = steps | {to for was, to in ARROWS if was in steps}  # a rule may take two steps
            assert after in reachable, f"{name}: {before} -> {after}"
        self.phases = now

    def teardown(self) -> None:
        self.world.ray.tasks.clear()
        for group in self.world.coordinator.foreign_work.unclaimed:
            self.world.ray.remove_group(group)
        for unread in list(self.world.coordinator.aside.records.values()):
            self.world.coordinator.release(unread.key.removeprefix("gang/"))
        for name in list(self.world.coordinator.gangs):
            self.world.coordinator.release(name)
        for _ in range(3):
            self.world.pass_time()
        self.world.pass_time(60)  # for as long as places are kept
        self.world.check_empty()


TestLife = Life.TestCase


TestLife.settings = settings(max_examples=75, stateful_step_count=30, deadline=None)
