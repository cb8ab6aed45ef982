"""Ray Train's controller asks the coordinator how many workers it can have, by the policy of its placement group."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from ray_dra.adapters import ray_groups
from ray_dra.adapters.ray_groups import Creator
from ray_dra.adapters.ray_train import TrainSizes
from ray_dra.core.gangs.elastic import ElasticRun
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import MAX_BUNDLES
from ray_dra.errors import CoordinatorUnavailable
from ray_dra.processes import elastic_runs
from ray_dra.translate.files.shared_records import JobPolicy

GROUP = f"{7:036x}"
OURS = "ray-dra.io/locality"
TRAINS_OWN = 1000


class Outside:
    """The coordinator, the clock, and what the process knows of its job."""

    def __init__(self) -> None:
        self.policy: JobPolicy | None = JobPolicy("same_clique")
        self.answers: list[int | Exception] = []
        self.asked: list[ElasticRun] = []
        self.now = 100.0
        self.slept: list[float] = []
        self.workers_that_fit = SimpleNamespace(remote=self.asked.append)

    def answer(self, *_: object) -> int:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Outside:
    found = Outside()
    monkeypatch.setattr(elastic_runs, "coordinator", lambda: found)
    monkeypatch.setattr(elastic_runs, "answer_to", found.answer)
    monkeypatch.setattr(elastic_runs, "policy_of_job", lambda bundles, said: found.policy)
    monkeypatch.setattr(elastic_runs, "time", SimpleNamespace(monotonic=lambda: found.now, sleep=found.sleep))
    monkeypatch.setattr(elastic_runs, "_last", None)
    monkeypatch.setattr(elastic_runs, "_silent_since", None)
    monkeypatch.setattr(elastic_runs, "_said", "")
    monkeypatch.setattr(ray_groups, "creator", lambda: Creator("job", "space", "a" * 32, False))
    monkeypatch.setattr(ray_groups, "mint", lambda job: GROUP)
    return found


def ask(least: int = 2, most: int = 8, selector: Any = None, starts: bool = False, **resources: float) -> int:
    sizes = TrainSizes(least, most, {"GPU": 2, **resources}, "PACK", selector, starts)
    return elastic_runs.workers(sizes, lambda: TRAINS_OWN)


def test_it_asks_for_the_most_workers_by_the_jobs_policy(outside: Outside) -> None:
    outside.answers = [4]
    assert ask(CPU=0.5, starts=True) == 4
    (run,) = outside.asked
    assert run.starts
    assert (run.least, run.owner, run.actor, run.request.gang) == (2, "job", "a" * 32, GROUP)
    assert run.request.locality == Locality(cliques=1)
    assert [(bundle.count, dict(bundle.resources)) for bundle in run.request.bundles] == [(2, {"CPU": 0.5})] * 8


def test_the_runs_own_label_selector_comes_first(outside: Outside) -> None:
    outside.answers = [4, 4]
    assert ask(selector={OURS: "same_clique.segment-3", "zone": "a"}) == 4
    outside.now += 2
    assert ask(selector=[{OURS: "at_most_cliques.2"}] * 8) == 4
    first, second = outside.asked
    assert len(first.request.bundles) == 6, "whole segments"
    assert first.request.locality == Locality(segment=3)
    assert {tuple(bundle.labels.items()) for bundle in first.request.bundles} == {(("zone", "a"),)}
    assert second.request.locality == Locality(cliques=2)


def test_its_policy_of_faults_is_taken_out_as_of_its_placement_group(outside: Outside) -> None:
    """No node has such a label: there was room for nobody."""
    outside.answers = [4]
    assert ask(selector={"ray-dra.io/on-fault": "restart", "zone": "a"}) == 4
    assert {tuple(bundle.labels.items()) for bundle in outside.asked[0].request.bundles} == {(("zone", "a"),)}


def test_of_more_workers_than_a_group_can_have_as_many_as_it_can_are_asked_for(outside: Outside) -> None:
    """Train's own count may be more than a clique holds."""
    outside.answers = [4]
    assert ask(most=MAX_BUNDLES + 1, selector=[{}] * (MAX_BUNDLES + 1)) == 4
    assert len(outside.asked[0].request.bundles) == MAX_BUNDLES
    assert ask(least=MAX_BUNDLES + 1, most=MAX_BUNDLES + 1, starts=True) == TRAINS_OWN


@pytest.mark.parametrize("why", ["no policy of the job", "none", "a part of a GPU", "no GPU", "a set that is a gang"])
def test_what_is_left_to_ray_train_counts_itself(outside: Outside, why: str) -> None:
    gpus = {"a part of a GPU": 0.5, "no GPU": 0.0}.get(why, 2.0)
    if why == "no policy of the job":
        outside.policy = None
    elif why in ("none", "a set that is a gang"):
        outside.policy = JobPolicy("none" if why == "none" else "same_clique(set=2)")
    assert ask(GPU=gpus, CPU=1) == TRAINS_OWN
    assert not outside.asked


def test_it_asks_once_a_second_and_a_controller_without_workers_pauses(outside: Outside) -> None:
    outside.answers = [4, 0, 2]
    assert [ask(), ask(), ask()] == [4, 4, 4]
    outside.now += 1
    assert ask() == 0
    assert not outside.slept
    assert ask() == 2
    assert outside.slept == [1.0]
    assert len(outside.asked) == 3


def test_a_coordinator_that_does_not_answer_leaves_the_size_as_it_is(
    outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    silent = CoordinatorUnavailable("The coordinator did not answer.")
    outside.answers = [silent, silent, 4, silent, silent, 3]
    with caplog.at_level(logging.WARNING, "ray_dra"):
        assert [ask(), ask()] == [TRAINS_OWN, TRAINS_OWN], "as long as nobody has answered"
        found = []
        for _ in range(4):
            found.append(ask())
            outside.now += 2
    assert found == [4, 4, 4, 3]
    assert caplog.text.count("The coordinator did not answer") == 1


def test_a_start_after_a_fault_is_not_told_what_a_look_was_told_before_it(outside: Outside) -> None:
    outside.answers = [8, 6]
    assert ask() == 8
    outside.now += 0.5
    assert ask(starts=True) == 6
    assert ask(starts=True) == 6
    assert ask() == 6
    assert not outside.slept


@pytest.mark.parametrize("selector", ["same_clique", ["zone"] * 8, 3])
def test_an_error_of_ours_is_not_trains(outside: Outside, selector: object) -> None:
    """It would start the workers of a run anew."""
    assert ask(selector=selector) == TRAINS_OWN
    outside.answers = [4, RuntimeError("a bug"), RuntimeError("a bug")]
    assert ask() == 4
    outside.now += 2
    assert [ask(), ask(starts=True)] == [4, TRAINS_OWN]


def test_a_run_that_starts_again_waits_for_a_coordinator_that_is_restarted(outside: Outside) -> None:
    """It was told its size before the fault, of which there is no room for all: Train waited for its group a minute."""
    silent = CoordinatorUnavailable("The coordinator did not answer.")
    outside.answers = [8, silent, silent, 6, silent, *[silent] * 100]
    assert ask() == 8
    outside.now += 2
    assert [ask(starts=True) for _ in range(3)] == [0, 0, 6]
    assert outside.slept == [1.0, 1.0]
    outside.now += 2
    assert ask() == 6, "its workers run"
    found = [ask(starts=True) for _ in range(62)]
    assert found == [0] * 60 + [TRAINS_OWN] * 2, "there is none any more: Ray places its group"
    assert ask(least=0, starts=True) == TRAINS_OWN, "it would start without workers"


def test_sizes_that_make_no_segments_are_told_and_left_to_train(
    outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    outside.policy = JobPolicy("same_clique(segment=4)")
    with caplog.at_level(logging.WARNING, "ray_dra"):
        assert [ask(least=5, most=7), ask(least=5, most=7)] == [TRAINS_OWN] * 2
    assert caplog.text.count("No number of workers from 5 to 7 makes whole segments of 4") == 1
    assert not outside.asked
