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
