"""What a program hears of its ordinary placement groups, without a Ray."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_dra.adapters import ray_groups
from ray_dra.adapters.ray_groups import Creator
from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import OnFault, on_fault
from ray_dra.core.model.shortfall import CLUSTER, ShortfallKind, short
from ray_dra.errors import CoordinatorUnavailable, RayDraError, UnsatisfiableError
from ray_dra.ports.ray import GroupAnswer, NewGroup
from ray_dra.processes import calls, ordinary_groups, start_coordinator
from ray_dra.simulated.fakes import MemoryStore
from ray_dra.translate.files.shared_records import JobPolicy, policy_to_bytes
from ray_dra.translate.names import (
    DEFAULT_LOCALITY_VARIABLE,
    EVERY_JOB,
    GANG_KEY,
    LOCALITY_KEY,
    LOCALITY_VARIABLE,
    ON_FAULT_LABEL,
    ON_FAULT_VARIABLE,
    RAYCLUSTER_LOCALITY_VARIABLE,
)
from tests.core.machines import gang

GROUP = f"{7:036x}"
ORDER = Order(gang(4, 4, name=GROUP), "train", owner="job", ordinary=OrdinaryGroup(GROUP))


class Outside:
    """The coordinator's calls, and Ray's control store."""

    def __init__(self) -> None:
        self.asked: list[Future[Any]] = []
        self.made: list[NewGroup] = []
        self.told = threading.Event()
        self.store = MemoryStore()
        self.gone = False  # there is no coordinator
        self.answers: list[object] = []  # of those that come after one that ended
        self.calls: list[str] = []

    def __getattr__(self, call: str) -> Outside:
        if call not in ("submit", "await_phase", "release"):
            raise AttributeError(call)
        self.calls.append(call)
        return self

    def remote(self, *_: object) -> Outside:
        return self

    def coordinator(self) -> Outside:
        if self.gone:
            raise CoordinatorUnavailable("This Ray cluster has no ray-dra coordinator.")
        return self

    def answer(self, *_: object, abandon: bool = True) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def future(self) -> Future[Any]:
        self.asked.append(Future())
        return self.asked[-1]

    def make(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        assert again, "it may have it already"
        self.made.append(new)
        self.told.set()
        return GroupAnswer()


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Outside:
    found = Outside()
    monkeypatch.setattr(ordinary_groups, "coordinator", found.coordinator)
    monkeypatch.setattr(ordinary_groups, "answer_to", found.answer)
    monkeypatch.setattr(ordinary_groups, "KvStore", lambda: found.store)
    monkeypatch.setattr(ordinary_groups, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(ordinary_groups, "_unanswered", {})
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ordinary_groups, "Groups", lambda: found)
    monkeypatch.setattr(ordinary_groups, "_followed", set())
    monkeypatch.setattr(ordinary_groups, "_said", {})
    return found


def waits(lacking: int) -> Status:
    lacks = (short(ShortfallKind.DEVICES, CLUSTER, 8, lacking),) if lacking < 8 else ()
    return Status(GROUP, Phase.QUEUED, "train", None, (), None, 0, (), lacks)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ray_dra"]


def test_the_log_says_once_what_is_missing_and_again_when_that_changes(
    outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ray_dra"):
        ordinary_groups._follow(outside, ORDER, None)
        for lacking in (4, 4, 6, 6):
            outside.asked[-1].set_result(waits(lacking))
        assert len(told(caplog)) == 2
        assert told(caplog)[0].startswith("placement group train (2 bundles, 8 GPUs): pending: ")
        assert "available 4" in told(caplog)[0]
        assert "available 6" in told(caplog)[1]
        ready = Status(GROUP, Phase.READY, "train", None, (), GROUP, 0, (), ())
        asked = len(outside.asked)
        outside.asked[-1].set_result(ready)
    assert len(outside.asked) == asked, "nothing more is asked"
    assert not ordinary_groups._followed


def test_of_many_that_wait_for_the_same_one_is_named(outside: Outside, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray_dra"):
        for _ in range(5):
            ordinary_groups._follow(outside, ORDER, None)
            outside.asked[-1].set_result(waits(4))
    assert len(told(caplog)) == 1


def test_few_are_followed(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordinary_groups, "MOST_FOLLOWED", 0)
    ordinary_groups._follow(outside, ORDER, None)
    outside.asked[-1].set_result(waits(4))
    assert len(outside.asked) == 1


def test_one_that_the_coordinator_refuses_is_left_to_ray(outside: Outside) -> None:
    ordinary_groups._follow(outside, ORDER, None)
    outside.asked[-1].set_exception(UnsatisfiableError("There are too many.", place="the queue"))
    assert outside.told.wait(10)
    (new,) = outside.made
    assert (new.id, new.name, new.job, len(new.bundles)) == (GROUP, "train", "job", 2)


@pytest.mark.parametrize("said", [None, "something"])
def test_one_that_it_may_have_taken_is_not_made_twice(outside: Outside, said: str | None) -> None:
    """Its answer did not come, or the group is gone: what it has on record it makes itself."""
    error: RayDraError = CoordinatorUnavailable("The coordinator did not answer.")
    if said is not None:
        error = UnsatisfiableError("The gang was given up.", place=GROUP)
    ordinary_groups._follow(outside, ORDER, said)
    outside.asked[-1].set_exception(error)
    assert not outside.told.wait(0.2)
    assert not outside.made


def ended() -> Exception:
    error: Exception = ray.exceptions.ActorDiedError()
    return error


def unavailable() -> RayDraError:
    return CoordinatorUnavailable("The coordinator did not answer.")


def after(outside: Outside, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says after a coordinator that ended before it answered, once the group is seen to."""
    with caplog.at_level(logging.INFO, "ray_dra"):
        ordinary_groups._follow(outside, ORDER, None)
        outside.asked[-1].set_exception(ended())
        eventually(lambda: not any(thread.name == ordinary_groups.AGAIN for thread in threading.enumerate()))
    return told(caplog)


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_where_the_coordinator_ends_before_it_answers_the_next_one_has_the_group(
    outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    """That one may end, too."""
    outside.answers = [unavailable(), unavailable(), waits(4)]
    assert not after(outside, caplog)
    assert GROUP in ordinary_groups._unanswered, "it is in the table while nobody has answered"
    with caplog.at_level(logging.INFO, "ray_dra"):
        outside.asked[-1].set_result(waits(4))
    assert [line.partition(":")[0] for line in told(caplog)] == ["placement group train (2 bundles, 8 GPUs)"]
    assert outside.calls == ["submit", "submit", "submit", "await_phase"]
    assert not outside.made
    assert not ordinary_groups._unanswered


def test_the_table_has_a_group_that_no_coordinator_answers_for(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordinary_groups, "_job", lambda: JobPolicy())
    monkeypatch.setattr(ray_groups, "creator", lambda: Creator("job", "", "", False))
    ordinary_groups._unanswered[GROUP] = pending = ordinary_groups._as_pending(ORDER)
    outside.gone = True
    assert ordinary_groups._pending() == ordinary_groups._pending(name="train") == [pending]
    assert ordinary_groups._pending(name="another") == []


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["none", "one that ends again and again"])
def test_where_no_coordinator_is_left_ray_has_the_group_unless_it_is_on_record(
    outside: Outside,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    recorded: bool,
    again: bool,
) -> None:
    """The log said nothing, and a group that nobody had on record was pending for ever."""
    outside.gone = not again
    outside.answers = [unavailable()] * 10_000
    monkeypatch.setattr(ordinary_groups, "START_SECONDS", 0.1)
    if recorded:
        outside.store.put(GANG_KEY + GROUP, b"its record")
    (line,) = after(outside, caplog)
    assert ("pending: no coordinator runs" in line) == recorded
    assert ("is left to Ray: " in line) == (not recorded)
    assert len(outside.made) == (not recorded)
    assert not ordinary_groups._unanswered


def test_one_that_is_removed_meanwhile_is_not_submitted_again(
    outside: Outside, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(*_: object) -> object:
        ordinary_groups._unanswered.clear()
        return waits(4)

    monkeypatch.setattr(ordinary_groups, "answer_to", removed)
    assert not after(outside, caplog)
    assert outside.calls == ["submit", "release"]
    assert not outside.made


def test_one_that_waits_says_so_when_the_coordinator_ends(outside: Outside, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray_dra"):
        ordinary_groups._follow(outside, ORDER, "it waited for something")
        outside.asked[-1].set_exception(ended())
    assert told(caplog) == [f"placement group train (2 bundles, 8 GPUs): pending: {ordinary_groups.NO_COORDINATOR}"]
    assert not outside.calls, "what has ended meanwhile is not made anew"
    assert not ordinary_groups._followed


@pytest.mark.parametrize(
    ("said", "address", "environment", "selector", "declared"),
    [
        ("nobody", "", "", "", None),
        ("the address", "replace,grace=60", "degrade", "", on_fault("replace", 60.0)),
        ("the environment", "", "restart", "", on_fault("restart")),
        ("a rule by name", "degrade", "train*=replace", "", on_fault("replace")),
        ("a rule for others", "serve*=degrade", "", "", None),
        ("the call", "degrade", "train*=restart", "replace.grace-5", on_fault("replace", 5.0)),
    ],
)
def test_what_is_done_about_faults_goes_with_the_order(
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    address: str,
    environment: str,
    selector: str,
    declared: OnFault | None,
) -> None:
    orders: list[Order] = []
    checked: list[Any] = []
    monkeypatch.setattr(ordinary_groups, "_job", lambda: JobPolicy("same_clique", "", address))
    monkeypatch.setattr(ordinary_groups, "_submit", lambda order: orders.append(order) or True)  # type: ignore[func-returns-value]
    monkeypatch.setattr(ray_groups, "validate", lambda *arguments: checked.append(arguments[4]))
    monkeypatch.setattr(ray_groups, "creator", lambda: Creator("job", "", "", False))
    monkeypatch.setattr(ray_groups, "mint", lambda job: GROUP)
    monkeypatch.setattr(ray_groups, "handle", lambda group, bundles: group)
    monkeypatch.setenv(ON_FAULT_VARIABLE, environment)
    labels = [{ON_FAULT_LABEL: selector, "zone": "a"}] * 2 if selector else [{"zone": "a"}] * 2
    made = ordinary_groups.placement_group([{"GPU": 4}] * 2, "PACK", "train-1", None, None, labels, None)
    assert (made, [order.on_fault for order in orders]) == (GROUP, [declared]), said
    assert checked == [[{"zone": "a"}] * 2], "Ray would look for nodes with our key"
    monkeypatch.setenv(ON_FAULT_VARIABLE, "mend")
    if not selector:
        with pytest.raises(ValueError, match=ON_FAULT_VARIABLE):
            ordinary_groups.placement_group([{"GPU": 4}] * 2, "PACK", "train-1", None, None, labels, None)


class Job:
    """A process of a job that no address of ours started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.entered, self.fails = MemoryStore(), list[str](), False
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ordinary_groups, "KvStore", lambda: self.store)
        monkeypatch.setattr(ordinary_groups, "_known", None)
        monkeypatch.setattr(ray_groups, "connection", lambda: self)
        monkeypatch.setattr(ray_groups, "creator", lambda: Creator("job", "", "", False))
        monkeypatch.setattr(start_coordinator, "enter", self.enter)
        monkeypatch.setattr(ordinary_groups, "_awaited", False)
        for name in (LOCALITY_VARIABLE, DEFAULT_LOCALITY_VARIABLE, RAYCLUSTER_LOCALITY_VARIABLE):
            monkeypatch.delenv(name, raising=False)

    def enter(self, default: str) -> None:
        self.entered.append(default)
        if self.fails:
            raise CoordinatorUnavailable("It did not start.")
        self.store.put(LOCALITY_KEY + "job", policy_to_bytes(JobPolicy("", default)))

    def have(self, job: str, policy: JobPolicy) -> None:
        self.store.put(LOCALITY_KEY + job, policy_to_bytes(policy))

    def policy(self, said: str = "", gpus: float = 4) -> JobPolicy | None:
        """For a group of which the call says something, or nothing."""
        return ordinary_groups._job() or ordinary_groups._enter([{"CPU": 1}, {"GPU": gpus}], said)


def test_a_job_of_which_nobody_says_anything_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(monkeypatch)
    monkeypatch.setenv(DEFAULT_LOCALITY_VARIABLE, "none")
    assert job.policy() is job.policy("none") is None
    monkeypatch.setenv(DEFAULT_LOCALITY_VARIABLE, "same_clique")
    assert job.policy(gpus=0) is None, "there is nothing to plan"
    assert not job.entered


def test_a_call_that_says_a_policy_is_planned_and_others_of_the_job_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(monkeypatch)
    assert job.policy() is None
    assert job.policy("same_clique") == JobPolicy("", "none")
    assert job.policy() == JobPolicy("", "none"), "by which a call that says nothing is left to Ray"
    assert job.entered == ["none"], "once"


@pytest.mark.parametrize("variable", [LOCALITY_VARIABLE, DEFAULT_LOCALITY_VARIABLE])
def test_the_environment_of_the_raylet_or_of_an_actor_says_it(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    job = Job(monkeypatch)
    monkeypatch.setenv(variable, "at_most_cliques(2)")
    assert job.policy() == JobPolicy("", "at_most_cliques(2)" if variable == DEFAULT_LOCALITY_VARIABLE else "none")


def test_where_no_coordinator_starts_it_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(monkeypatch)
    job.fails = True
    with caplog.at_level(logging.WARNING, "ray_dra"):
        assert job.policy("same_clique") is job.policy("same_clique") is None
    assert len(job.entered) == len(told(caplog)) == 1


def test_a_job_without_a_policy_has_the_clusters_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to say hello for it; a controller that lives for months sees the changes."""
    job = Job(monkeypatch)
    assert ordinary_groups._job() is None
    for said in ("same_clique", "linked_devices"):
        job.have(EVERY_JOB, JobPolicy(default=said))
        assert ordinary_groups._job() == JobPolicy(default=said)
    job.store.delete(LOCALITY_KEY + EVERY_JOB)
    assert ordinary_groups._job() is None


def test_a_jobs_own_policy_comes_first_and_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(monkeypatch)
    job.have(EVERY_JOB, JobPolicy(default="same_clique"))
    job.have("job", JobPolicy("none"))
    assert ordinary_groups._job() == JobPolicy("none")
    job.store.data.clear()
    assert ordinary_groups._job() == JobPolicy("none")


def test_a_program_that_is_there_before_the_coordinator_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a head that started with a policy; what the coordinator says counts, which may be another by now."""
    job, slept = Job(monkeypatch), list[float]()
    bundles = [{"GPU": 4}]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            job.have(EVERY_JOB, JobPolicy(default="linked_devices"))

    monkeypatch.setattr(time, "sleep", sleep)
    assert ordinary_groups._await_clusters(bundles) is None, "nothing is to come"
    monkeypatch.setenv(RAYCLUSTER_LOCALITY_VARIABLE, "same_clique")
    assert ordinary_groups._await_clusters([{"CPU": 1}]) is None, "nothing is to be planned"
    assert not slept
    assert ordinary_groups._await_clusters(bundles) == JobPolicy(default="linked_devices")
    assert len(slept) == 3


def test_it_waits_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The annotation may have gone since."""
    Job(monkeypatch)
    monkeypatch.setenv(RAYCLUSTER_LOCALITY_VARIABLE, "same_clique")
    monkeypatch.setattr(ordinary_groups, "START_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING, "ray_dra"):
        for _ in range(2):
            assert ordinary_groups._await_clusters([{"GPU": 4}]) is None
    assert len(told(caplog)) == 1


@pytest.mark.parametrize("name", ["x" * 300, "\ud800"])
def test_a_group_whose_name_no_gang_can_have_is_left_to_ray(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    job, left = Job(monkeypatch), list[object]()
    job.have("job", JobPolicy("same_clique"))
    monkeypatch.setattr(ray_groups, "mint", lambda _: GROUP)
    monkeypatch.setattr(ordinary_groups, "plain", lambda _: lambda *call: left.append(call[2]))
    ordinary_groups.placement_group([{"GPU": 4}], None, name, None, None, None, None)
    assert left == [name]


def test_a_coordinator_that_does_not_answer_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may have its name by now; the handle to the old one stays dead."""
    dead: Future[Any] = Future()
    dead.set_exception(ended())
    monkeypatch.setattr(calls, "_handle", (None, "the old one"))
    with pytest.raises(CoordinatorUnavailable):
        ordinary_groups.answer_to(SimpleNamespace(future=lambda: dead), 1.0)
    assert calls._handle is None
    assert not ray.is_initialized(), "to take the call back Ray would start a cluster of its own"
