"""The coordinator's actor without Ray: its loop over a store and a Ray that are fakes."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from ray_dra.coordinator import waits
from ray_dra.coordinator.pace import LEAST_SECONDS
from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import CoordinatorUnavailable, GangGone, InvalidRequest
from ray_dra.ports.nvml import NodeReading
from ray_dra.ports.ray import RayNode
from ray_dra.processes import coordinator_actor as actors
from ray_dra.processes import look_loop, node_agent, wiring
from ray_dra.translate.clique_names import clique_names
from ray_dra.translate.files.shared_records import JobPolicy, policy_from_bytes
from ray_dra.translate.names import (
    DEFAULT_LOCALITY_VARIABLE,
    EVERY_JOB,
    LOCALITY_KEY,
    LOCALITY_LABEL,
    QUEUES_VARIABLE,
)
from ray_dra.translate.ray.bundles import bundle_from_resources
from ray_dra.translate.ray.policy import parse_rules
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import tray
from tests.core.machines import gang
from tests.processes.conftest import Outside, run


def said(reading: NodeReading) -> bytes:
    """A reading as the probe writes it."""
    return json.dumps(asdict(reading)).encode()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to be within 30 s")


def counting(monkeypatch: pytest.MonkeyPatch, actor: actors.CoordinatorActor, look: Callable[[int], None]) -> list[int]:
    """The looks from now on; `look` comes before each, and may fail."""
    looks: list[int] = []
    observe = actor._core.observe

    def counted() -> None:
        looks.append(1)
        look(len(looks))
        observe()

    monkeypatch.setattr(actor._core, "observe", counted)
    return looks


def test_a_look_that_fails_is_told_and_the_next_one_comes(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once(look: int) -> None:
        if look == 1:
            raise KeyError("a fault")

    async def test(actor: actors.CoordinatorActor) -> None:
        looks = counting(monkeypatch, actor, fail_once)
        await until(lambda: len(looks) > 2)

    with caplog.at_level(logging.ERROR, "ray_dra"):
        run(test)
    assert "a look failed" in caplog.text


def test_what_drivers_say_is_looked_at_at_once(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not half a second later: the making of a gang's workers begins with a look, and its barrier opens in one."""
    world = World()
    outside.ray.jobs.add("job")
    monkeypatch.setattr(wiring, "kube_of", lambda target, changed, metrics: world.kube)
    monkeypatch.setattr(look_loop, "LOOK_SECONDS", 3600.0)

    async def test(actor: actors.CoordinatorActor) -> None:
        looks = counting(monkeypatch, actor, lambda look: None)
        await until(lambda: looks)
        await asyncio.sleep(0.2)
        assert len(looks) == 1, "nothing has changed"
        gang = await actor.submit(world.order())
        await until(lambda: len(looks) == 2)
        await actor.commit(gang.gang, "a" * 36, gang.moves)
        await until(lambda: len(looks) == 3)
        assert world.kube.writes, "the making of its workers has begun"

    run(test)


def test_a_reading_that_came_to_no_coordinator_is_asked_for_again(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent says once what it has read: the record of it may be one that cannot be read, and what changes while a
    coordinator dies and the next one starts is heard by nobody."""
    total = {"GPU": 4.0}
    outside.ray.nodes["raylet"] = RayNode("raylet", alive=True, labels={}, total=total, available=total)
    outside.store.put("node/raylet", b"?")
    asked: list[str] = []
    sent: list[tuple[Any, ...]] = []
    there = [True]
    monkeypatch.setattr(actors, "ask_again", asked.append)
    coordinator = SimpleNamespace(report=SimpleNamespace(remote=lambda *said: sent.append(said)))

    def found(name: str, namespace: str) -> SimpleNamespace:
        if not there[0]:
            raise ValueError("no such actor")
        return coordinator

    monkeypatch.setattr(ray, "get_actor", found)
    monkeypatch.setattr(node_agent.AgentActor, "_run", lambda agent: None)
    monkeypatch.setattr(node_agent, "HEARTBEAT_SECONDS", 0.0)
    agent = node_agent.AgentActor("raylet")
    failed, well = said(NodeReading(error="NVML did not answer")), said(NodeReading(driver="580"))

    async def passes(actor: actors.CoordinatorActor, reading: bytes | None) -> bytes | None:
        agent._send(reading)
        await actor.report(*sent[-1])
        return cast("bytes | None", sent[-1][1])

    async def first(actor: actors.CoordinatorActor) -> None:
        await until(lambda: actor._core.observer.view.nodes)
        agent._send(failed)  # lost
        assert await passes(actor, None) is None
        assert asked == ["raylet"]
        agent.say_again()
        assert await passes(actor, None) == failed
        assert await actor.ready() == ()
        assert await passes(actor, None) is None
        assert asked == ["raylet"]

    async def second(actor: actors.CoordinatorActor) -> None:
        await until(lambda: actor._core.observer.view.nodes)
        assert actor._core.nodes.readings["raylet"].error, "it knows what the one before it heard"
        assert await passes(actor, None) is None
        assert asked == ["raylet", "raylet"]
        agent.say_again()
        assert await passes(actor, None) == well
        assert not actor._core.nodes.readings["raylet"].error
        assert await passes(actor, None) is None
        assert asked == ["raylet", "raylet"]

    run(first)
    there[0] = False
    agent._send(well)
    there[0] = True
    run(second)


@pytest.mark.parametrize("cluster", ["", "same_clique"])
def test_a_job_that_no_address_of_ours_started_has_the_clusters_policy_or_none(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, cluster: str
) -> None:
    monkeypatch.setenv(DEFAULT_LOCALITY_VARIABLE, cluster)

    async def test(actor: actors.CoordinatorActor) -> None:
        assert await actor.hello("starter", "", "none")
        assert policy_from_bytes(outside.store.get(LOCALITY_KEY + "starter") or b"") == JobPolicy("", cluster or "none")
        assert await actor.hello("starter", "linked_devices")
        assert await actor.hello("starter", "", "none")
        kept = policy_from_bytes(outside.store.get(LOCALITY_KEY + "starter") or b"")
        assert kept == JobPolicy("linked_devices", cluster), "what its address says stays"

    run(test)


def test_what_an_address_says_of_faults_stays_whatever_else_is_said(outside: Outside) -> None:
    async def test(actor: actors.CoordinatorActor) -> None:
        assert await actor.hello("starter", "", "none", "replace")
        assert policy(outside, "starter") == JobPolicy("", "none", "replace")
        assert await actor.hello("starter", "same_clique", "none")
        assert await actor.hello("starter")
        assert policy(outside, "starter") == JobPolicy("same_clique", "none", "replace")
        assert await actor.hello("starter", on_fault="restart,grace=5")
        assert policy(outside, "starter") == JobPolicy("same_clique", "none", "restart,grace=5")

    run(test)


def test_a_job_may_have_as_long_a_text_of_rules_as_can_be_read(outside: Outside) -> None:
    """One over the length of a name was refused when the coordinator had started."""
    rules = ";".join(f"group_{number}_*=same_clique(set=16)" for number in range(50))
    assert len(parse_rules(rules)) == 50

    async def test(actor: actors.CoordinatorActor) -> None:
        assert await actor.hello("starter", rules, rules)
        assert policy(outside, "starter") == JobPolicy(rules, rules)

    run(test)


def test_a_jobs_gangs_are_in_the_queue_that_its_address_names(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a coordinator that comes after; a gang may name another."""
    monkeypatch.setenv(QUEUES_VARIABLE, "{a: {guarantee: 4}, b: {}}")
    total = {"GPU": 4.0}
    outside.ray.nodes["raylet"] = RayNode("raylet", alive=True, labels={}, total=total, available=total)

    async def test(actor: actors.CoordinatorActor) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await actor.hello("starter", "", "none", "", "c")
        assert refused.value.available == "a, b, default"
        await actor.report("raylet", said(tray("t0")), None, 1)
        assert await actor.hello("starter", "linked_devices", "none", "", "a")
        assert await actor.hello("starter", "", "none")
        assert policy(outside, "starter") == JobPolicy("linked_devices", "none", queue="a")
        await actor.submit(Order(gang(1, name="named"), owner="starter", team="b"))
        await actor.submit(Order(gang(1, name="silent"), owner="starter"))
        actor._jobs = type(actor._jobs)(outside.store, "starter")
        await actor.submit(Order(gang(1, name="later"), owner="starter"))
        await actor.submit(Order(gang(1, name="other"), owner="other job"))
        teams = {name: each.team for name, each in actor._core.gangs.items()}
        assert teams == {"named": "b", "silent": "a", "later": "a", "other": ""}
        assert [(each.name, each.used) for each in await actor.teams()] == [("a", 2.0), ("b", 1.0), ("default", 1.0)]

    run(test)


def test_a_policy_ends_with_its_job_and_the_actors_of_it(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's controller goes on when its program has ended, and may be started again."""
    monkeypatch.setattr("ray_dra.coordinator.jobs.TIDY_SECONDS", 0.0)
    outside.ray.jobs |= {"program", "serves"}

    async def test(actor: actors.CoordinatorActor) -> None:
        for job in ("program", "serves"):
            await actor.hello(job, "same_clique")
        outside.ray.actors["controller"] = "serves"
        outside.ray.jobs -= {"program", "serves"}
        await until(lambda: outside.store.get(LOCALITY_KEY + "program") is None)
        await asyncio.sleep(0.1)
        assert outside.store.get(LOCALITY_KEY + "serves") is not None
        outside.ray.actors.clear()
        await until(lambda: outside.store.get(LOCALITY_KEY + "serves") is None)

    run(test)


def test_it_ends_with_the_last_program_and_whoever_comes_then_asks_again(outside: Outside) -> None:
    outside.ray.nodes["raylet"] = RayNode("raylet", alive=True, labels={}, total={}, available={})

    async def test(actor: actors.CoordinatorActor) -> None:
        assert not await actor.hello("second"), "Ray does not list it"
        outside.ray.jobs.add("second")
        assert await actor.hello("second")
        outside.ray.jobs.remove("starter")
        await asyncio.sleep(0.2)
        assert not outside.killed
        outside.ray.jobs.remove("second")
        await until(lambda: outside.killed)
        outside.ray.jobs.add("third")
        assert not await actor.hello("third")
        await actor.report("raylet", said(NodeReading()), None, 1)
        await asyncio.wait_for(actor._loop.task, 30)

    run(test)
    assert outside.killed == ["itself"]
    assert not outside.store.data


def policy(outside: Outside, job: str) -> JobPolicy | None:
    """Of a job's ordinary placement groups, as its processes read it."""
    data = outside.store.get(LOCALITY_KEY + job)
    return None if data is None else policy_from_bytes(data)


def test_the_clusters_policy_is_there_for_every_job_and_it_stays_for_them(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for those that never say hello; and it goes with its annotation."""
    world = World()
    world.kube.annotate_raycluster({LOCALITY_LABEL: "same_clique"})
    monkeypatch.setattr("ray_dra.coordinator.jobs.TIDY_SECONDS", 0.0)
    monkeypatch.setattr(wiring, "kube_of", lambda target, changed, metrics: world.kube)

    async def test(actor: actors.CoordinatorActor) -> None:
        await until(lambda: policy(outside, EVERY_JOB) == JobPolicy(default="same_clique"))
        outside.ray.jobs.update({"with", "without"})
        assert await actor.hello("with", "linked_devices")
        assert await actor.hello("without")
        assert policy(outside, "with") == JobPolicy("linked_devices", "same_clique")
        assert policy(outside, "without") == JobPolicy(default="same_clique")
        outside.ray.jobs.clear()
        await until(lambda: policy(outside, "with") is None)
        await asyncio.sleep(0.2)
        assert not outside.killed
        world.kube.annotate_raycluster({LOCALITY_LABEL: "prefer:same_clique"})
        await until(lambda: policy(outside, EVERY_JOB) == JobPolicy(default="prefer:same_clique"))
        world.kube.annotate_raycluster({LOCALITY_LABEL: "nearby"})
        await until(lambda: world.kube.told)
        await asyncio.sleep(0.1)
        assert policy(outside, EVERY_JOB) == JobPolicy(default="prefer:same_clique"), "what held before goes on to"
        world.kube.annotate_raycluster({})
        await until(lambda: outside.killed)

    run(test)
    assert not outside.store.data


def test_a_clusters_policy_that_is_none_is_an_error_before_anything_starts(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told once on the RayCluster, and to whoever connects without a policy of their own."""
    world = World()
    world.kube.annotate_raycluster({LOCALITY_LABEL: "sameclique"})
    monkeypatch.setattr(wiring, "kube_of", lambda target, changed, metrics: world.kube)

    async def test(actor: actors.CoordinatorActor) -> None:
        outside.ray.jobs.add("job")
        with pytest.raises(InvalidRequest, match="sameclique"):
            await actor.hello("job")
        assert policy(outside, "job") is None
        assert await actor.hello("job", "same_clique")
        await asyncio.sleep(0.2)
        assert "sameclique" in " ".join(await actor.unseen())
        assert policy(outside, EVERY_JOB) == JobPolicy(default="sameclique"), "an error of whoever makes a group"
        world.kube.annotate_raycluster({LOCALITY_LABEL: "same_clique"})
        await until(lambda: policy(outside, EVERY_JOB) == JobPolicy(default="same_clique"))
        assert await actor.unseen() == ()

    run(test)
    assert [reason for reason, _ in world.kube.told] == ["LocalityInvalid"]


def test_it_ends_though_its_starter_died_before_it_said_hello(outside: Outside) -> None:
    async def test(actor: actors.CoordinatorActor) -> None:
        outside.ray.jobs.clear()
        await until(lambda: outside.killed)

    run(test)


def test_started_again_it_serves_whom_it_served(outside: Outside) -> None:
    outside.store.put("session/other", b"")
    outside.ray.jobs = {"other"}

    async def test(actor: actors.CoordinatorActor) -> None:
        await asyncio.sleep(0.2)
        assert not outside.killed
        outside.ray.jobs.clear()
        await until(lambda: outside.killed)

    run(test)


def test_it_ends_though_its_keys_cannot_be_deleted(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that had retired and stayed would turn every later program away."""

    delete = outside.store.delete

    def fail(key: str) -> None:
        if key == "gang/of-old":
            raise RuntimeError("the control store does not answer")
        delete(key)

    async def test(actor: actors.CoordinatorActor) -> None:
        outside.store.put("gang/of-old", b"")
        outside.ray.jobs.clear()
        await until(lambda: outside.killed)

    monkeypatch.setattr(outside.store, "delete", fail)
    run(test)


def order(gang: str, name: str = "") -> Order:
    return Order(GangRequest(gang, (bundle_from_resources({"GPU": 4}, index=0),)), name=name, owner="starter")


async def one_node(outside: Outside, actor: actors.CoordinatorActor) -> None:
    """A raylet with four GPUs that has been read."""
    outside.ray.add_node("n1", gpus=4)
    actor._look()
    await actor.report("n1", said(tray("n1")), None, 1)


def test_cliques_have_names_for_people(outside: Outside) -> None:
    async def test(actor: actors.CoordinatorActor) -> None:
        await one_node(outside, actor)
        topology = await actor.topology()
        assert await actor.clique_names() == clique_names(topology)

    run(test)


async def placed(outside: Outside, actor: actors.CoordinatorActor, gang: str) -> str:
    status = await actor.submit(order(gang))
    group = outside.ray.create_group([{"GPU": 4.0}], status.selectors, "starter")
    await actor.commit(gang, group, status.moves)
    actor._look()
    return group


def test_a_change_is_told_to_those_alone_who_wait_for_that_gang(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands that wait for gangs in the queue cost nothing at each look, and a gang's status is made out once."""

    async def test(actor: actors.CoordinatorActor) -> None:
        await one_node(outside, actor)
        await placed(outside, actor, "holder")
        for name in ("first", "second"):
            await actor.submit(order(name))
        held = ("held", "releasing")
        waiting = [asyncio.ensure_future(actor.await_phase("first", held, 60.0)) for _ in range(100)]
        gone = [asyncio.ensure_future(actor.await_ready("second", "starter")) for _ in range(100)]
        await until(lambda: len(actor._waits) == 200)
        asked: list[str] = []

        def counted(gang: str) -> Status:
            asked.append(gang)
            return actor._core.status(gang)

        monkeypatch.setattr(actor._waits, "_status", counted)
        for _ in range(10):
            actor._look()
        assert not asked
        await actor.release("second", 0.0)
        assert {type(error) for error in await asyncio.gather(*gone, return_exceptions=True)} == {GangGone}
        assert asked.count("second") == 1
        assert await actor.release("holder", 60.0)
        assert {found.phase for found in await asyncio.gather(*waiting)} == {Phase.HELD}
        assert asked.count("first") < 10, "asked at its own changes, of which a slow machine sees more than one"
        assert len(actor._waits) == 0
        assert not actor._waits.gangs

    run(test)


def test_too_many_waits_are_refused(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of programs that have ended do not count."""
    monkeypatch.setattr(waits, "MOST_WAITS", 3)
    monkeypatch.setattr(look_loop, "SETTLE_SECONDS", 0.0)
    outside.ray.jobs.add("other")

    async def test(actor: actors.CoordinatorActor) -> None:
        await one_node(outside, actor)
        await actor.submit(order("holder"))
        await actor.submit(order("queued"))
        waiting = [asyncio.ensure_future(actor.await_ready("queued", "other")) for _ in range(3)]
        await until(lambda: len(actor._waits) == 3)
        with pytest.raises(CoordinatorUnavailable, match="Too many"):
            await actor.await_ready("queued", "starter")
        with pytest.raises(CoordinatorUnavailable, match="Too many"):
            await actor.await_phase("queued", ("held",), 60.0)
        assert (await actor.await_phase("queued", ("queued",), 60.0)).phase is Phase.QUEUED, "no wait is needed"
        outside.ray.jobs.remove("other")
        await until(lambda: not len(actor._waits))
        assert all(wait.cancelled() for wait in waiting)
        assert (await actor.await_phase("queued", ("held",), 0.01)).phase is Phase.QUEUED

    run(test)


def test_a_submit_that_comes_after_its_callers_release_holds_nothing(outside: Outside) -> None:
    async def test(actor: actors.CoordinatorActor) -> None:
        await one_node(outside, actor)
        late = asyncio.ensure_future(actor.submit(order("given-up")))
        await asyncio.sleep(0)  # it waits in the loop, and the release overtakes it
        assert await actor.release("given-up", 0.0)
        with pytest.raises(GangGone):
            await late
        with pytest.raises(GangGone):
            await actor.submit(order("given-up"))
        assert not await actor.gangs()
        assert (await actor.submit(order("another"))).phase is Phase.HELD

    run(test)


def test_a_call_that_was_cancelled_before_its_turn_is_not_run(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray cancels it: the loop was busy while the call came, and while its caller gave up."""

    async def test(actor: actors.CoordinatorActor) -> None:
        loop = asyncio.get_running_loop()
        ran: list[str] = []
        for name in ("submit", "plan", "statuses"):
            monkeypatch.setattr(actor._core, name, lambda *_, name=name: ran.append(name))
        calls = [actor.submit(order("g")), actor.plan(order("g").request), actor.gangs()]
        done = threading.Event()

        def come_and_go() -> None:
            for future in [asyncio.run_coroutine_threadsafe(call, loop) for call in calls]:
                future.cancel()
            done.set()

        threading.Thread(target=come_and_go).start()
        done.wait(30)  # in the loop
        await asyncio.sleep(0.05)
        assert not ran

    run(test)


def test_an_end_that_takes_time_is_looked_for_by_the_one_loop(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait for one: each looking on its own would be more looks than the loop has time for."""
    monkeypatch.setattr(look_loop, "LOOK_SECONDS", 3600.0)

    async def test(actor: actors.CoordinatorActor) -> None:
        await one_node(outside, actor)
        group = await placed(outside, actor, "slow")
        outside.ray.groups[group].workers.add(0)
        actor._look()
        looks = counting(monkeypatch, actor, lambda look: None)
        ends = [asyncio.ensure_future(actor.release("slow", 60.0)) for _ in range(50)]
        await asyncio.sleep(0.3)
        assert not any(end.done() for end in ends)
        assert len(looks) <= 0.3 / LEAST_SECONDS + 50, "at most one in LEAST_SECONDS; a busy machine makes fewer"
        outside.ray.groups[group].workers.clear()
        assert all(await asyncio.gather(*ends))

    run(test)


def test_each_decision_is_one_line_in_the_log(
    outside: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a program calls its gang."""
    monkeypatch.setattr(wiring, "log_folder", lambda: tmp_path)

    async def test(actor: actors.CoordinatorActor) -> None:
        await one_node(outside, actor)
        await actor.submit(order("g", name="a\nb"))
        await actor.release("g", 0.0)

    try:
        run(test)
        lines = [line.split(" INFO ")[1] for line in (tmp_path / wiring.LOG_NAME).read_text().splitlines()]
    finally:
        for handler in wiring.logger.handlers:
            handler.close()
        wiring.logger.handlers, wiring.logger.propagate = [], True
    assert lines == [
        "gang a b: held: submitted; devices are held",
        "gang a b: held -> releasing: released",
        "gang a b: gone: released",
    ]


def test_whoever_waits_for_a_notice_hears_it_and_by_the_placement_groups_id_too(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.kube.say_rayservice(active="c")
    gang = world.coordinator.submit(world.order()).gang
    world.drive(gang)
    group = world.coordinator.gangs[gang].group
    assert group is not None

    async def test(actor: actors.CoordinatorActor) -> None:
        monkeypatch.setattr(actor, "_core", world.coordinator)
        monkeypatch.setattr(actor._waits, "_status", world.coordinator.status)
        assert await actor.notice(gang, 0.0) is None
        assert await actor.notice(group, 0.01) is None
        waiting = asyncio.gather(actor.notice(gang, 30.0), actor.notice(group, 30.0))
        await asyncio.sleep(0)
        world.kube.say_rayservice(active="c", pending="next")
        first, second = await waiting
        assert first is not None
        assert first == second == world.coordinator.status(gang).notice
        assert await actor.ends_at(group, 0.01) == {}, "of what is no fault Ray's libraries are not told"
        with monkeypatch.context() as patch:
            patch.setattr(world.coordinator.observer, "ends_at", lambda told: {told.id: 12.5})
            patch.setattr(world.coordinator.records.notes[gang], "told", first)
            assert await actor.ends_at(group, 30.0) == {gang: 12.5}
        await actor.release(gang, 0.0)
        with pytest.raises(GangGone):
            await actor.notice("nobody", 0.0)
        with pytest.raises(GangGone):
            await actor.ends_at("nobody", 0.0)

    run(test)
