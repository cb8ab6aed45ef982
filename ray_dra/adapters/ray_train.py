"""Ray Train's private parts that elastic runs need: how many workers its controller thinks there is room for.

Train is large, and few processes use it: the count is caught when somebody imports its module, and what is tested
before anything starts is its source. `PRIVATE_OF_TRAIN` lists every part; `adapters.ray.check_ray` tests them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from ray_dra.adapters.late_import import when_imported
from ray_dra.adapters.ray_parts import parameters

MODULE = "ray.train.v2._internal.execution.scaling_policy.elastic"
POLICY, COUNT, START = "ElasticScalingPolicy", "_count_possible_workers", "make_decision_for_non_running_worker_group"
PARAMETERS = {COUNT: ["self", "reserved_resources"], START: ["self"]}
CONFIG, RESOURCES = "ray.train.v2.api.config", "_resources_per_worker_not_none"
CAUGHT, STARTS = "_ray_dra_caught", "_ray_dra_starts"  # ours, on their method and their policy
logger = logging.getLogger("ray_dra")

Count = Callable[["TrainSizes", Callable[[], int]], int]
"""How many workers there is room for; the second argument is Train's own count."""


class TrainSizes(NamedTuple):
    """What a run's ScalingConfig says. `label_selector`: one for all workers, or one each for the most of them;
    `starts`: it has no workers, or has lost some, and starts as many as are counted."""

    least: int
    most: int
    resources: dict[str, float]
    strategy: str
    label_selector: dict[str, str] | list[dict[str, str]] | None
    starts: bool


def catch_count(count: Count) -> None:
    """From now on this process's elastic runs have as many workers as `count` says. Harmless when repeated."""
    when_imported(MODULE, partial(_catch_in, count=count))


def _catch_in(module: ModuleType, count: Count) -> None:
    policy = getattr(module, POLICY, None)
    own: dict[str, Any] = {name: getattr(policy, name, None) for name in PARAMETERS}
    if hasattr(own[COUNT], CAUGHT):
        return
    moved = [n for n, each in own.items() if each is None or list(inspect.signature(each).parameters) != PARAMETERS[n]]
    if moved:
        moved_to = f"{MODULE}.{POLICY}.{moved[0]}"
        logger.warning("%s is not where it was: Ray Train counts an elastic run's workers itself", moved_to)
        return

    def counted(self: Any, *of_nodes: Any, **by_name: Any) -> int:
        sizes = _sizes(self.scaling_config, starts=getattr(self, STARTS, False))
        return count(sizes, partial(own[COUNT], self, *of_nodes, **by_name))

    def started(self: Any) -> Any:
        setattr(self, STARTS, True)
        try:
            return own[START](self)
        finally:
            setattr(self, STARTS, False)

    setattr(counted, CAUGHT, True)
    setattr(policy, COUNT, counted)
    setattr(policy, START, started)


def _sizes(config: Any, *, starts: bool) -> TrainSizes:
    resources = getattr(config, RESOURCES)
    selector = config.label_selector or None
    return TrainSizes(
        config.min_workers, config.max_workers, dict(resources), config.placement_strategy, selector, starts
    )


# -- the self-test


def _as_it_was(function: str) -> Callable[[], None]:
    def find() -> None:
        if parameters(MODULE, POLICY, function)() != PARAMETERS[function]:
            raise AttributeError(function)

    return find


PRIVATE_OF_TRAIN: tuple[tuple[str, Callable[[], Any]], ...] = (
    *((f"{MODULE}.{POLICY}.{function}", _as_it_was(function)) for function in PARAMETERS),
    (f"{CONFIG}.ScalingConfig.{RESOURCES}", parameters(CONFIG, "ScalingConfig", RESOURCES)),
)
"""Each part by its name, and how it is found; AttributeError or OSError where it is not there."""
