"""Ray Train's elastic runs: as many workers as the coordinator says fit the run's cliques, in whole segments.

Train counts GPUs a node, free or not, as they were up to 20 seconds ago. With a policy of ours that may be more than a
clique holds, and Train would wait a minute for a placement group that cannot be. Here its controller asks the
coordinator instead, by the policy that its placement group will have. Neighbours: `adapters/ray_train.py` catches the
count; `ordinary_groups.py` makes the group; `core/gangs/elastic.py` decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ray_dra.adapters import ray_groups
from ray_dra.adapters.ray_train import TrainSizes
from ray_dra.core.gangs.elastic import ElasticRun
from ray_dra.core.model.request import MAX_BUNDLES
from ray_dra.errors import CoordinatorUnavailable, InvalidRequest
from ray_dra.processes.calls import coordinator
from ray_dra.processes.ordinary_groups import START_SECONDS, answer_to, policies, policy_of_job
from ray_dra.translate.ray.ordinary import Call, elastic_request, policy_of, without_on_fault, without_policy

ASK_SECONDS = 5.0  # for the coordinator's answer; as Train gives its own
EACH_SECONDS = 1.0  # between two questions, as Train has it
logger = logging.getLogger("ray_dra")

_last: tuple[float, int, bool] | None = None  # the last answer: when, what, and to a start; a controller has one run
_silent_since: float | None = None  # the coordinator does not answer a run that starts again
_said = ""  # why a run is left to Train's own count, in the log already


def workers(sizes: TrainSizes, own: Callable[[], int]) -> int:
    """How many workers there is room for. `own`: Train's count, where a run's placement groups are left to Ray, and as
    long as no coordinator has ever answered."""
    global _last, _silent_since
    now = time.monotonic()
    if _last is not None and now - _last[0] < EACH_SECONDS and (_last[2] or not sizes.starts):
        if _last[1] >= sizes.least:
            return _last[1]
        time.sleep(EACH_SECONDS - (now - _last[0]))  # a controller without workers asks without a pause
    try:
        run = _run(sizes)
        if run is None:
            return own()
        found = int(answer_to(coordinator().workers_that_fit.remote(run), ASK_SECONDS))
    except Exception as error:  # whatever it is: Train would start its workers anew for it
        if _last is None or isinstance(error, InvalidRequest) or (sizes.starts and not _awaits(sizes, error, now)):
            _warn(error, "Train counts its workers itself")
            return own()
        if not sizes.starts:
            _warn(error, "it keeps the size that it was told last")
            return _last[1]
        _warn(error, "it starts its workers again once there is an answer")
        time.sleep(max(0.0, now + EACH_SECONDS - time.monotonic()))
        return 0
    _silent_since = None
    _last = time.monotonic(), found, sizes.starts
    return found


def _awaits(sizes: TrainSizes, error: Exception, now: float) -> bool:
    """Whether a run that starts again waits for the coordinator: it has lost something, so that for as many workers as
    before Train might wait a minute. It asks again where it is told of fewer than its least."""
    global _silent_since
    if _silent_since is None:
        _silent_since = now
    return isinstance(error, CoordinatorUnavailable) and sizes.least > 0 and now - _silent_since < START_SECONDS


def _run(sizes: TrainSizes) -> ElasticRun | None:
    """What is asked of the coordinator; None where the run's placement groups are left to Ray."""
    if sizes.least > MAX_BUNDLES:
        return None
    most = min(sizes.most, MAX_BUNDLES)  # no group has more
    bundles = [sizes.resources] * most
    selectors = sizes.label_selector
    policy, labels = without_policy(selectors[:most] if isinstance(selectors, list) else [selectors or {}] * most)
    _, labels = without_on_fault(labels)
    job = policy_of_job(bundles, policy)
    if job is None:
        return None
    who = ray_groups.creator()
    call = Call(bundles, sizes.strategy, labels, policy=policy)
    said = policy_of(call, "", policies(job))
    request = elastic_request(call, ray_groups.mint(who.job), said, sizes.least)
    if said is None or request is None:
        return None
    return ElasticRun(request, sizes.least, who.job, who.actor, said.runs_for, sizes.starts, said.queue)


def _warn(error: Exception, what: str) -> None:
    """Once for each reason."""
    global _said
    if str(error) != _said:
        _said = str(error)
        logger.warning("an elastic run: %s: %s", what, error)
