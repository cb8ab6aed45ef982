"""Ray Train's count of an elastic run's workers: caught whenever its module comes, and tested by its source."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_dra.adapters import ray as ray_adapter
from ray_dra.adapters import ray_train
from ray_dra.adapters.late_import import Finder
from ray_dra.adapters.ray_parts import parameters
from ray_dra.adapters.ray_train import TrainSizes, catch_count
from ray_dra.errors import IncompatibleRay
from tests.adapters.stand_in import stand_in

CONFIG = SimpleNamespace(
    min_workers=2,
    max_workers=8,
    _resources_per_worker_not_none={"GPU": 2},
    placement_strategy="PACK",
    label_selector={},
)
SOURCE = """
class ElasticScalingPolicy:
    def __init__(self, config):
        self.scaling_config = config

    def make_decision_for_non_running_worker_group(self):
        return "start", self._count_possible_workers({{"workers": 3}})

    def _count_possible_workers(self, {parameters}):
        return {parameters}["workers"]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Writes and imports one as Train's is."""
    with stand_in(ray_train, "ray_dra_tests_elastic", tmp_path, monkeypatch) as write:
        yield lambda parameters="reserved_resources": write(SOURCE.format(parameters=parameters))


def count(sizes: TrainSizes, own: Callable[[], int]) -> int:
    assert sizes[:-1] == (2, 8, {"GPU": 2}, "PACK", None)
    return (200 if sizes.starts else 100) + own()


@pytest.mark.parametrize("first", ["caught", "imported"])
def test_whoever_is_first_it_is_caught_once(
    module: Callable[..., Any], first: str, caplog: pytest.LogCaptureFixture
) -> None:
    if first == "imported":
        module()
    catch_count(count)
    catch_count(count)
    policy = module().ElasticScalingPolicy(CONFIG)
    catch_count(count)
    assert policy._count_possible_workers({"workers": 3}) == 103
    assert policy.make_decision_for_non_running_worker_group() == ("start", 203)
    assert policy._count_possible_workers(reserved_resources={"workers": 3}) == 103
    assert not caplog.text
    assert sum(isinstance(finder, Finder) for finder in sys.meta_path) == (first == "caught")


def test_a_count_that_moved_is_left_alone(module: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    catch_count(count)
    with caplog.at_level(logging.WARNING, "ray_dra"):
        policy = module("nodes").ElasticScalingPolicy(CONFIG)
    assert policy._count_possible_workers({"workers": 3}) == 3
    assert "_count_possible_workers is not where it was" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLICY", "Gone"),
        ("PARAMETERS", {ray_train.COUNT: ["self", "more"], ray_train.START: ["self", "more"]}),
        ("MODULE", "ray.gone"),
    ],
)
def test_a_ray_that_moved_it_is_told_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    ray_adapter.check_ray()
    monkeypatch.setattr(ray_train, name, value)
    with pytest.raises(IncompatibleRay) as error:
        ray_adapter.check_ray()
    for moved in (ray_train.COUNT, ray_train.START):
        assert f"ElasticScalingPolicy.{moved}" in error.value.available
    with pytest.raises(AttributeError):
        parameters(ray_train.CONFIG, "ScalingConfig", "_gone")()
