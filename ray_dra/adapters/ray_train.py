"""Ray Train's private parts that elastic runs need: how many workers its controller thinks there is room for.

Train is large, and few processes use it: the count is caught when somebody imports its module, and what is tested
before anything starts is its source. `PRIVATE_OF_TRAIN` lists every part; `adapters.ray.check_ray` tests them.
"""

from __future__ import annotations

import ast
import importlib.abc
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ray

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
    if MODULE in sys.modules:
        _catch_in(sys.modules[MODULE], count)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(count))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module as Python does, and has its count caught once it is there."""

    def __init__(self, count: Count) -> None:
        self._count = count

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _catch_in(module, self._count)

        loader.exec_module = exec_module
        return spec


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


def _parameters(module: str, kind: str, function: str) -> Callable[[], Any]:
    """A test that a class of Ray's has a function with these parameters, by its source: to import it takes seconds."""

    def find() -> list[str]:
        source = (Path(ray.__file__).parents[1] / f"{module.replace('.', '/')}.py").read_text()
        for each in ast.parse(source).body:
            for node in each.body if isinstance(each, ast.ClassDef) and each.name == kind else ():
                if isinstance(node, ast.FunctionDef) and node.name == function:
                    return [argument.arg for argument in node.args.args]
        raise AttributeError(function)

    return find


def _as_it_was(function: str) -> Callable[[], None]:
    def find() -> None:
        if _parameters(MODULE, POLICY, function)() != PARAMETERS[function]:
            raise AttributeError(function)

    return find


PRIVATE_OF_TRAIN: tuple[tuple[str, Callable[[], Any]], ...] = (
    *((f"{MODULE}.{POLICY}.{function}", _as_it_was(function)) for function in PARAMETERS),
    (f"{CONFIG}.ScalingConfig.{RESOURCES}", _parameters(CONFIG, "ScalingConfig", RESOURCES)),
)
"""Each part by its name, and how it is found; AttributeError or OSError where it is not there."""
