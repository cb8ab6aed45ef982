"""Ray's own functions for placement groups, caught by their code; and what of Ray that needs, tested by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from ray_dra.adapters import ray as ray_adapter
from ray_dra.adapters import ray_groups
from ray_dra.errors import IncompatibleRay

EARLY: dict[str, Any] = {  # whoever imported the functions before they were caught
    "placement_group": placement_group,
    "remove_placement_group": remove_placement_group,
    "get_placement_group": get_placement_group,
    "placement_group_table": placement_group_table,
}


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    calls: list[tuple[Any, ...]] = []
    handlers = {name: lambda *given, name=name: calls.append((name, *given)) for name in ray_groups.PARAMETERS}
    monkeypatch.setattr(ray._private.auto_init_hook, "enable_auto_connect", False)  # no Ray is started here
    own = {name: EARLY[name].__wrapped__.__code__ for name in EARLY}
    monkeypatch.setattr(ray_groups, "_handlers", {})
    monkeypatch.setattr(ray_groups, "_plain", {})
    ray_groups.catch(handlers)
    ray_groups.catch(handlers)
    yield calls
    for name, code in own.items():
        EARLY[name].__wrapped__.__code__ = code


def test_early_importers_and_late_ones_are_caught_with_rays_own_arguments(caught: list[tuple[Any, ...]]) -> None:
    EARLY["placement_group"]([{"GPU": 1}], name="n", lifetime="detached")
    ray.util.placement_group([{"GPU": 2}], "SPREAD", "m", None, "node", [{}], {"a": "b"})
    EARLY["remove_placement_group"]("handle")
    EARLY["get_placement_group"](placement_group_name="n")
    EARLY["placement_group_table"]()
    assert caught == [
        ("placement_group", [{"GPU": 1}], None, "n", "detached", None, None, None),
        ("placement_group", [{"GPU": 2}], "SPREAD", "m", None, "node", [{}], {"a": "b"}),
        ("remove_placement_group", "handle"),
        ("get_placement_group", "n"),
        ("placement_group_table", None),
    ]
    with pytest.raises(TypeError):
        EARLY["placement_group"]()


def test_rays_own_functions_are_at_hand(caught: list[tuple[Any, ...]]) -> None:
    for name, parameters in ray_groups.PARAMETERS.items():
        own = ray_groups.plain(name)
        assert tuple(inspect.signature(own).parameters) == parameters
        assert own.__code__ is not EARLY[name].__wrapped__.__code__
        assert own.__code__.co_filename.endswith("placement_group.py")
        assert ray_groups.handled(name) is not own
        with ray_groups.uncaught():
            assert ray_groups.handled(name) is own
            with ray_groups.uncaught():
                pass
            assert ray_groups.handled(name) is own
        assert ray_groups.handled(name) is not own
    assert not caught


def test_a_ray_that_moved_a_part_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_adapter.check_ray()
    module = ray_groups._module()
    changes: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
        (lambda m: m.delattr(module.placement_group, "__wrapped__"), "ray.util.placement_group.__wrapped__"),
        (lambda m: m.setattr(module.remove_placement_group, "__wrapped__", lambda group: None), "the parameters of"),
        (lambda m: m.delattr(module, "validate_placement_group"), "validate_placement_group"),
        (lambda m: m.delattr(ray._private.state.GlobalState, "_gen_placement_group_info"), "_gen_placement_group_info"),
        (lambda m: m.setattr(ray_groups, "_pb", lambda _: object()), "PlacementGroupSpec"),
    ]
    for change, name in changes:
        with monkeypatch.context() as patch:
            change(patch)
            with pytest.raises(IncompatibleRay) as caught:
                ray_adapter.check_ray()
            assert name in caught.value.available
    ray_adapter.check_ray()


STATES: dict[
    str, tuple[str, str, bool]
] = {  # state, scheduling state, whether Ray is left to reserve the bundles first
    "just registered": ("PENDING", "QUEUED", True),
    "bundles asked of raylets": ("PENDING", "SCHEDULING_STARTED", True),
    "bundles reserved, not yet given": ("PREPARED", "SCHEDULING_STARTED", True),
    "placed again after a raylet was lost": ("RESCHEDULING", "SCHEDULING_STARTED", True),
    "no room": ("PENDING", "NO_RESOURCES", False),
    "never": ("PENDING", "INFEASIBLE", False),
    "placed": ("CREATED", "FINISHED", False),
    "removed": ("REMOVED", "REMOVED", False),
}


@pytest.mark.parametrize("case", STATES)
def test_a_group_is_not_removed_while_ray_reserves_its_bundles(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would lose what a raylet reserves just then."""
    from ray.core.generated.gcs_pb2 import PlacementGroupStats, PlacementGroupTableData

    def record(state: str, scheduling: str) -> PlacementGroupTableData:
        stats = PlacementGroupStats(scheduling_state=PlacementGroupStats.SchedulingState.Value(scheduling))
        return PlacementGroupTableData(state=PlacementGroupTableData.PlacementGroupState.Value(state), stats=stats)

    state, scheduling, waits = STATES[case]
    first, then = record(state, scheduling), record("CREATED", "FINISHED")
    asked: list[str] = []

    def found(group: str) -> PlacementGroupTableData:
        asked.append(group)
        return first if len(asked) < 4 else then

    monkeypatch.setattr(ray_groups, "_record", found)
    told: list[tuple[object, int]] = []
    monkeypatch.setattr(ray_groups, "plain", lambda name: lambda group: told.append((group, len(asked))))
    group = ray_groups.handle("ab" * 18, [{"GPU": 1.0}])
    ray_groups.remove(group)
    assert told == [(group, 4 if waits else 1)]
    assert set(asked) == {"ab" * 18}


def test_a_group_that_ray_reserves_without_end_is_removed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    monkeypatch.setattr(ray_groups, "_record", lambda group: PlacementGroupTableData())
    monkeypatch.setattr(ray_groups, "PREPARE_SECONDS", 0.02)
    told: list[object] = []
    monkeypatch.setattr(ray_groups, "plain", lambda name: told.append)
    ray_groups.remove(group := ray_groups.handle("ab" * 18, [{"GPU": 1.0}]))
    assert told == [group]
