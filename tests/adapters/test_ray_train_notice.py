"""Ray Train's watcher of preemptions: who is told beside it, and that it is as it was."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_dra.adapters import ray as ray_adapter
from ray_dra.adapters import ray_train_notice
from ray_dra.adapters.ray_train_notice import CHANGED, MADE, Tell, catch_watcher
from ray_dra.errors import IncompatibleRay
from tests.adapters.stand_in import stand_in

NAME = "ray_dra_tests_preemption"
SOURCE = """
class PreemptionWatcher:
    def __init__(self, node_to_ranks, poll_interval_s=5.0, {actors}=None):
        self.made, self.told = (node_to_ranks, poll_interval_s, {actors}), []

    def _on_drain_change(self, drained):
        self.told.append(drained)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Writes and imports one as Train's is."""
    with stand_in(ray_train_notice, NAME, tmp_path, monkeypatch) as write:
        yield lambda actors="worker_actors_by_rank": write(SOURCE.format(actors=actors))


class Beside:
    """What runs beside each watcher: tells it once, of two raylets."""

    def __init__(self) -> None:
        self.groups: list[str] = []
        self.told = threading.Event()

    def __call__(self, group_of: Callable[[], str], tell: Tell) -> None:
        self.groups.append(group_of())
        tell({"a": 12.5, "of another run": 9.0})
        tell({"of another run": 9.0})
        self.told.set()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A rank's actor, in the placement group "g"."""
    group = SimpleNamespace(id=SimpleNamespace(hex=lambda: "g"))
    monkeypatch.setattr(ray_train_notice, "get_current_placement_group", lambda: group)

    def get(answer: object, timeout: float | None = None) -> object:
        if timeout is not None:  # it loads what it is to run for longer than anybody would say
            raise ray.exceptions.GetTimeoutError
        return answer

    monkeypatch.setattr(ray, "get", get)
    return SimpleNamespace(__ray_call__=SimpleNamespace(remote=lambda function: function(None)))


def test_a_watcher_is_told_of_its_own_raylets_in_its_own_unit(
    module: Callable[..., Any], worker: SimpleNamespace
) -> None:
    beside = Beside()
    catch_watcher(beside)
    watcher = module().PreemptionWatcher(
        node_to_ranks={"a": [0]}, poll_interval_s=1.0, worker_actors_by_rank={1: None, 0: worker}
    )
    catch_watcher(beside)
    assert beside.told.wait(30)
    assert beside.groups == ["g"], "once, by the first rank"
    assert watcher.told == [{"a": 12500}]
    assert watcher.made == ({"a": [0]}, 1.0, {1: None, 0: worker})


def test_a_watcher_without_workers_is_left_alone(module: Callable[..., Any]) -> None:
    beside = Beside()
    catch_watcher(beside)
    assert module().PreemptionWatcher({"a": [0]}).made == ({"a": [0]}, 5.0, None)
    assert not beside.told.wait(0.1)


def test_a_worker_outside_of_a_placement_group_has_none(
    worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ray_train_notice._group_of(worker) == "g"
    monkeypatch.setattr(ray_train_notice, "get_current_placement_group", lambda: None)
    assert ray_train_notice._group_of(worker) == ""


def test_a_watcher_that_moved_is_left_alone(module: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    def watch(group_of: Callable[[], str], tell: Callable[[Mapping[str, float]], None]) -> None:
        raise AssertionError

    catch_watcher(watch)
    with caplog.at_level(logging.WARNING, "ray_dra"):
        made = module("workers").PreemptionWatcher({}, 5.0, {0: None})
    assert made.made == ({}, 5.0, {0: None})
    assert "PreemptionWatcher.__init__ is not where it was" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("WATCHER", "Gone"), ("MODULE", "ray.gone")])
def test_a_ray_that_moved_it_is_told_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    ray_adapter.check_ray()
    monkeypatch.setattr(ray_train_notice, name, value)
    with pytest.raises(IncompatibleRay) as error:
        ray_adapter.check_ray()
    for moved in (MADE, CHANGED):
        assert f"PreemptionWatcher.{moved}" in error.value.available


@pytest.mark.ray  # Train's own: its import takes seconds
def test_trains_own_watcher_tells_its_workers(worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    said = threading.Event()
    told: list[Any] = []

    def mark_preempt(info: Any) -> None:
        told.append(info)
        said.set()

    worker.mark_preempt = SimpleNamespace(remote=mark_preempt)
    beside, before = Beside(), list(sys.meta_path)
    monkeypatch.delitem(sys.modules, ray_train_notice.MODULE, raising=False)
    catch_watcher(beside)
    train = importlib.import_module(ray_train_notice.MODULE)
    monkeypatch.setattr(train, "_get_draining_nodes", dict)
    watcher = train.PreemptionWatcher(node_to_ranks={"a": [0]}, worker_actors_by_rank={0: worker})
    assert said.wait(30)
    assert beside.told.wait(30)
    assert [(each.deadline_ms, each.preempted_node_to_ranks) for each in told] == [(12500, {"a": [0]})]
    assert watcher.get_latest_preemption_info() == told[0]
    watcher._stop_event.set()
    sys.meta_path[:] = before
    del sys.modules[ray_train_notice.MODULE]
