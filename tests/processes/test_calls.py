"""How the coordinator is looked up, where Ray could not load its class in this process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._common.signature import extract_signature
from ray._private.function_manager import FunctionActorManager

from ray_dra.errors import CoordinatorUnavailable
from ray_dra.processes import calls, ordinary_groups
from ray_dra.processes.coordinator_actor import CoordinatorActor

HOLLOW = FunctionActorManager._create_fake_actor_class(None, "CoordinatorActor", ["status"], "")


def handle(of: Any) -> SimpleNamespace:
    """As Ray makes one of what it has loaded."""
    return SimpleNamespace(_ray_method_signatures={"status": extract_signature(of.status, ignore_first=True)})


class Process:
    """What Ray keeps in a process. `importable`: whether the coordinator's class can be unpickled there now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.importable, self.looked, self.core_worker = True, 0, object()
        self.function_actor_manager = SimpleNamespace(_loaded_actor_classes={b"other": int})
        monkeypatch.setattr(calls, "_handle", None)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray._private.worker, "global_worker", self)
        monkeypatch.setattr(ray, "get_actor", self.get_actor)

    def get_actor(self, name: str, namespace: str) -> SimpleNamespace:
        loaded = self.function_actor_manager._loaded_actor_classes
        self.looked += 1
        return handle(loaded.setdefault(b"ours", CoordinatorActor if self.importable else HOLLOW))


def test_a_class_that_could_not_be_loaded_before_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray kept what stands for it, so that every call was refused for too many arguments as long as the process
    lived."""
    process = Process(monkeypatch)
    process.importable = False
    process.get_actor("", "")
    process.importable = True
    found = calls.coordinator()
    assert not calls._is_hollow(found)
    assert calls.coordinator() is found
    assert process.looked == 3, "once before, once in vain, once more; then it is remembered"
    assert process.function_actor_manager._loaded_actor_classes == {b"other": int, b"ours": CoordinatorActor}


def test_a_class_that_cannot_be_loaded_is_no_coordinator_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch)
    process.importable = False
    with pytest.raises(CoordinatorUnavailable, match="could not load"):
        calls.coordinator()
    process.importable = True
    assert not calls._is_hollow(calls.coordinator())


class Late:
    """What Ray gives for a call whose answer does not come."""

    def future(self) -> SimpleNamespace:
        def result(timeout: float) -> object:
            raise TimeoutError

        return SimpleNamespace(result=result)


def test_a_question_without_an_answer_in_time_is_not_answered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = list[object]()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cancel", lambda ref, recursive: given_up.append(ref))
    reference = Late()
    with pytest.raises(CoordinatorUnavailable):
        ordinary_groups.answer_to(reference, 0.01)
    assert given_up == [reference]
    with pytest.raises(CoordinatorUnavailable):
        ordinary_groups.answer_to(reference, 0.01, abandon=False)
    assert given_up == [reference], "to give something back is done, however late"


def test_a_question_is_not_taken_back_where_ray_has_been_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's cancel would start a cluster on this machine first."""
    given_up = list[object]()
    monkeypatch.setattr(ray, "cancel", lambda ref, recursive: given_up.append(ref))
    assert not ray.is_initialized()
    with pytest.raises(CoordinatorUnavailable):
        ordinary_groups.answer_to(Late(), 0.01)
    assert given_up == []
