"""What is told to Ray Train's watcher of preemptions, whatever the coordinator answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ray_dra.errors import CoordinatorUnavailable, GangGone
from ray_dra.processes import train_notice
from ray_dra.processes.train_notice import AGAIN_SECONDS, CALL_SECONDS, watch

GONE = GangGone("It is not there any more.")


class Outside:
    """The coordinator, and the clock."""

    def __init__(self, *answers: dict[str, float] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, float]] = []
        self.slept: list[float] = []
        self.ends_at = SimpleNamespace(remote=lambda *call: self.asked.append(call))

    def answer(self, *_: object, **__: object) -> dict[str, float]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def told(monkeypatch: pytest.MonkeyPatch, outside: Outside, group: str = "g") -> list[Any]:
    monkeypatch.setattr(train_notice, "coordinator", lambda: outside)
    monkeypatch.setattr(train_notice, "ask", outside.answer)
    monkeypatch.setattr(train_notice, "time", SimpleNamespace(sleep=outside.slept.append))
    found: list[Any] = []
    watch(lambda: group, found.append)
    return found


def test_each_notice_is_told_once_until_the_gang_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    first, more = {"a": 10.0}, {"a": 10.0, "b": 10.0}
    outside = Outside({}, first, first, first, more, {}, GONE)
    assert told(monkeypatch, outside) == [first, more]
    assert outside.asked == [("g", CALL_SECONDS)] * 7
    assert outside.slept == [AGAIN_SECONDS] * 2, "not asked without a pause"


def test_a_coordinator_that_starts_again_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside(CoordinatorUnavailable("It did not answer."), {"a": 10.0}, GONE)
    assert told(monkeypatch, outside) == [{"a": 10.0}]
    assert outside.slept == [AGAIN_SECONDS]


@pytest.mark.parametrize("error", [GONE, RuntimeError("a fault of ours")])
def test_a_group_that_is_no_gangs_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    outside = Outside(error)
    assert told(monkeypatch, outside) == []
    assert len(outside.asked) == 1


def test_workers_without_a_placement_group_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside()
    assert told(monkeypatch, outside, "") == []
    assert not outside.asked
