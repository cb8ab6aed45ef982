"""Ray Train's watcher of preemptions, which every run has: it hears of notices of ours as of Ray's drains.

Train asks Ray every five seconds which raylets drain. Those that others share are never drained for a gang
(`core/gangs/faults.py`), so a run there would hear of nothing; and of others it would hear late. Its watcher is an
actor of the run's controller: in its process somebody of ours tells it. Neighbours: `processes/train_notice.py` does
that; `PRIVATE_OF_WATCHER` lists every private part, and `adapters.ray.check_ray` tests them.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group

from ray_dra.adapters.late_import import when_imported
from ray_dra.adapters.ray_parts import parameters

MODULE = "ray.train.v2._internal.execution.preemption"
WATCHER, MADE, CHANGED = "PreemptionWatcher", "__init__", "_on_drain_change"
PARAMETERS = {
    MADE: ["self", "node_to_ranks", "poll_interval_s", "worker_actors_by_rank"],
    CHANGED: ["self", "drained"],
}
CAUGHT = "_ray_dra_caught"  # ours, on their method
THREAD = "ray-dra tells Ray Train"
logger = logging.getLogger("ray_dra")

Tell = Callable[[Mapping[str, float]], None]
"""Tells the watcher until when nothing ends on which raylet, in Unix time."""
Watch = Callable[[Callable[[], str], Tell], None]
"""Runs beside a watcher, in a thread of its own. The first argument says the placement group of the run's workers."""


def catch_watcher(watch: Watch) -> None:
    """From now on a watcher that starts in this process has `watch` run beside it. Harmless when repeated."""
    when_imported(MODULE, partial(_catch_in, watch=watch))


def _catch_in(module: ModuleType, watch: Watch) -> None:
    watcher = getattr(module, WATCHER, None)
    own: dict[str, Any] = {name: getattr(watcher, name, None) for name in PARAMETERS}
    if hasattr(own[MADE], CAUGHT):
        return
    moved = [n for n, each in own.items() if each is None or list(inspect.signature(each).parameters) != PARAMETERS[n]]
    if moved:
        logger.warning("%s.%s.%s is not where it was: Ray Train hears of Ray's drains alone", MODULE, WATCHER, moved[0])
        return

    def made(
        self: Any,
        node_to_ranks: dict[str, list[int]],
        poll_interval_s: float = 5.0,
        worker_actors_by_rank: dict[int, Any] | None = None,
    ) -> None:
        own[MADE](self, node_to_ranks, poll_interval_s, worker_actors_by_rank)
        if worker_actors_by_rank:
            worker = worker_actors_by_rank[min(worker_actors_by_rank)]
            told = partial(_tell, self, node_to_ranks)
            threading.Thread(target=watch, args=(partial(_group_of, worker), told), name=THREAD, daemon=True).start()

    setattr(made, CAUGHT, True)
    setattr(watcher, MADE, made)


def _tell(watcher: Any, node_to_ranks: Mapping[str, list[int]], ends: Mapping[str, float]) -> None:
    """As the watcher's own look does where it finds something new."""
    drained = {raylet: int(deadline * 1000) for raylet, deadline in ends.items() if raylet in node_to_ranks}
    if drained:
        getattr(watcher, CHANGED)(drained)


def _group_of(worker: Any) -> str:
    """The placement group of a run's worker; "" where it has none. A worker that has just started answers once it has
    loaded what it is to run, however long that takes; this process ends with the run."""
    found: str = ray.get(worker.__ray_call__.remote(_own_group))
    return found


def _own_group(worker: object) -> str:
    group = get_current_placement_group()
    return group.id.hex() if group is not None else ""


def _as_it_was(function: str) -> Callable[[], None]:
    def find() -> None:
        if parameters(MODULE, WATCHER, function)() != PARAMETERS[function]:
            raise AttributeError(function)

    return find


PRIVATE_OF_WATCHER: tuple[tuple[str, Callable[[], Any]], ...] = tuple(
    (f"{MODULE}.{WATCHER}.{function}", _as_it_was(function)) for function in PARAMETERS
)
"""Each part by its name, and how it is found; AttributeError or OSError where it is not there."""
