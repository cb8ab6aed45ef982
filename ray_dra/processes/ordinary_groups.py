"""Ordinary placement groups: what runs where a program calls Ray's own functions for them.

`ray.util.placement_group` returns at once, as Ray's does, with a handle whose id is minted here; the coordinator plans
the group, and tells Ray of it when its place is certain. Until then Ray keeps whoever waits for it waiting, as it does
with requests that overtake each other. Of jobs that were not started with a ray_dra address only those groups are
planned for which a policy is said: by the call, or in the environment of the process or of its raylet.

Neighbours: `adapters/ray_groups.py` catches the calls; `translate/ray/ordinary.py` says what is planned, and by which
policy; `coordinator_actor.py` answers. Installed by `program/connect.py` in drivers and by `worker_hook.py` in workers.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import ray

from ray_dra.adapters import ray_groups
from ray_dra.adapters.ray import KvStore
from ray_dra.adapters.ray_groups import Groups, plain
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import OnFault
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import (
    CoordinatorUnavailable,
    IncompatibleRay,
    InvalidRequest,
    KubernetesError,
    NameTaken,
    RayDraError,
    UnsatisfiableError,
)
from ray_dra.processes.calls import coordinator, give_up, look_up_again
from ray_dra.translate.fault_policy import said_of_faults
from ray_dra.translate.files.shared_records import JobPolicy, policy_from_bytes
from ray_dra.translate.names import (
    DEFAULT_LOCALITY_VARIABLE,
    EVERY_JOB,
    GANG_KEY,
    LOCALITY_KEY,
    LOCALITY_VARIABLE,
    ON_FAULT_VARIABLE,
    RAYCLUSTER_LOCALITY_VARIABLE,
)
from ray_dra.translate.ray.bundles import ray_bundles
from ray_dra.translate.ray.ordinary import (
    Call,
    asks_for_devices,
    group_set,
    new_group,
    policy_of,
    request_of,
    without_on_fault,
    without_policy,
)
from ray_dra.translate.ray.policy import Policy, parse_rules

ANSWER_SECONDS = 30.0
REMOVE_SECONDS = 5.0
START_SECONDS = 60.0  # for the coordinator to start beside a head
FOLLOW_SECONDS = 30.0  # how long one call waits for news of a group
AGAIN_SECONDS = 0.5  # between two tries to hand a group to a coordinator that ends
AGAIN = "ray-dra submits again"  # the thread's name
MOST_FOLLOWED = 100  # groups of a process of which its log says what they wait for; each costs the coordinator a wait
IN_QUEUE = (Phase.QUOTA, Phase.QUEUED)
NO_COORDINATOR = "no coordinator runs any more; the next one goes on with it"
PAST_QUEUE = tuple(phase.value for phase in Phase if phase not in IN_QUEUE)
logger = logging.getLogger("ray_dra")


class Pending(NamedTuple):
    """An ordinary placement group of which Ray has not been told."""

    group: str
    name: str
    bundles: list[dict[str, float]]
    strategy: str


# -- what programs call


def placement_group(
    bundles: Any,
    strategy: Any,
    name: Any,
    lifetime: Any,
    soft_node: Any,
    selectors: Any,
    topology_strategy: Any,
) -> Any:
    """See `ray.util.placement_group`."""
    policy, selectors = without_policy(selectors)
    on_fault, selectors = without_on_fault(selectors)
    job = policy_of_job(bundles, policy)
    if job is None or not isinstance(name, str):  # which Ray refuses in its own words
        return plain("placement_group")(bundles, strategy, name, lifetime, soft_node, selectors, topology_strategy)
    ray_groups.validate(bundles, strategy, lifetime, soft_node, selectors, topology_strategy)
    who = ray_groups.creator()
    group = ray_groups.mint(who.job)
    call = Call(bundles, strategy, selectors, topology_strategy, soft_node, policy)
    said = policy_of(call, name, policies(job))
    request = request_of(call, group, said)
    if said is None or request is None:
        return plain("placement_group")(bundles, strategy, name, lifetime, soft_node, selectors, topology_strategy)
    part_of = group_set(said, who.job, who.namespace, name)
    minted = OrdinaryGroup(group, who.actor, who.outlives_job, part_of)
    if on_fault is None:
        texts = {"the address, option on_fault": job.on_fault, ON_FAULT_VARIABLE: os.environ.get(ON_FAULT_VARIABLE, "")}
        on_fault = said_of_faults(name, texts)
    order = _order(request, name, who, minted, said, on_fault, detached=lifetime == "detached")
    if order is None or not _submit(order):
        return plain("placement_group")(bundles, strategy, name, lifetime, soft_node, selectors, topology_strategy)
    return ray_groups.handle(group, [{k: float(v) for k, v in bundle.items()} for bundle in bundles])


def _order(
    request: GangRequest,
    name: str,
    who: ray_groups.Creator,
    minted: OrdinaryGroup,
    said: Policy,
    on_fault: OnFault | None,
    *,
    detached: bool,
) -> Order | None:
    """None for a name that Ray takes and no gang can have, as one of 300 characters."""
    try:
        return Order(
            request,
            name,
            who.namespace,
            who.job,
            detached,
            ordinary=minted,
            runs_for=said.runs_for,
            on_fault=on_fault,
            team=said.queue,
        )
    except InvalidRequest as error:
        logger.warning("a placement group is left to Ray: %s", error)
        return None


def remove_placement_group(placement_group: Any) -> None:
    """See `ray.util.remove_placement_group`. Ray's own removal is harmless where Ray has not been told of the group."""
    group = "" if placement_group is None else placement_group.id.hex()
    until = time.monotonic() + REMOVE_SECONDS
    while group in _unanswered and time.monotonic() < until:  # the removal is not to overtake it
        time.sleep(0.001)
    _unanswered.pop(group, None)  # it is not to be submitted again
    if group:
        ray_groups.remove(placement_group)
    else:
        plain("remove_placement_group")(placement_group)
    if _job() is None:
        return
    try:
        release = coordinator().release.remote(group, 0.0)
        if not ray_groups.known(group):  # the coordinator is to tell Ray that it is removed
            answer_to(release, REMOVE_SECONDS, abandon=False)
    except RayDraError as error:
        logger.info("placement group %s: %s", group, error)


def get_placement_group(placement_group_name: Any) -> Any:
    """See `ray.util.get_placement_group`."""
    try:
        return plain("get_placement_group")(placement_group_name)
    except ValueError:
        found = _pending(name=placement_group_name) if placement_group_name else []
        if found:
            return ray_groups.handle(found[0].group, found[0].bundles)
        return plain("get_placement_group")(placement_group_name)  # Ray may have been told of it meanwhile


def placement_group_table(placement_group: Any) -> dict[str, Any]:
    """See `ray.util.placement_group_table`."""
    own = plain("placement_group_table")
    table: dict[str, Any] = own(placement_group) if placement_group is not None else {}
    if table:
        return table
    # Ray's table is read last: whatever is not pending any more is in it.
    found = _pending(group=placement_group.id.hex() if placement_group is not None else "")
    rows = {pending.group: ray_groups.row(*pending) for pending in found}
    if placement_group is None:
        return {**rows, **own(None)}
    return rows.get(placement_group.id.hex()) or own(placement_group)


def install() -> None:
    """Catch this process's calls. Harmless when repeated."""
    ray_groups.catch({name: globals()[name] for name in ray_groups.PARAMETERS})


# -- which jobs


def policy_of_job(bundles: Any, said: str) -> JobPolicy | None:
    """The policy of this process's job, or else the cluster's; None where its groups are left to Ray. `said`: by the
    call."""
    return _job() or _await_clusters(bundles) or _enter(bundles, said)


def policies(job: JobPolicy) -> tuple[str, ...]:
    """What holds where a call says nothing, the strongest first."""
    return job.address, os.environ.get(LOCALITY_VARIABLE, ""), job.default


_awaited = False  # the RayCluster's policy was waited for
_known: tuple[Any, JobPolicy | None] | None = None  # the connection, and its job's policy; None: left to Ray for good


def _job() -> JobPolicy | None:
    """The policy of this process's job, or else the cluster's; None where its groups are left to Ray."""
    global _known
    if not ray.is_initialized():
        return None
    connection = ray_groups.connection()
    if _known is not None and _known[0] is connection:
        return _known[1]
    store = KvStore()
    own = store.get(LOCALITY_KEY + ray_groups.creator().job)
    data = store.get(LOCALITY_KEY + EVERY_JOB) if own is None else own
    try:
        policy = None if data is None else policy_from_bytes(data)
    except RayDraError as error:
        logger.warning("ordinary placement groups are left to Ray: %s", error)
        policy = None
    if own is not None:  # else another process of the job may yet say one, and the cluster's may change
        _known = (connection, policy)
    return policy


def _await_clusters(bundles: Any) -> JobPolicy | None:
    """The policy of a RayCluster that had one when its head started. Serve's controller and a job may be there before
    the coordinator, which says how it is now: they wait for it, once a process."""
    global _awaited
    if _awaited or not os.environ.get(RAYCLUSTER_LOCALITY_VARIABLE) or not asks_for_devices(bundles):
        return None
    if not ray.is_initialized() or (_known is not None and _known[0] is ray_groups.connection()):
        return None
    _awaited = True
    until = time.monotonic() + START_SECONDS
    while (found := _job()) is None and time.monotonic() < until:
        time.sleep(0.1)
    if found is None:
        logger.warning("ordinary placement groups are left to Ray: no coordinator says the RayCluster's policy")
    return found


def _enter(bundles: Any, said: str) -> JobPolicy | None:
    """The policy of a job that no address of ours started, such as that of Serve's controller where the dashboard
    starts it: it uses ray-dra from here on, if a policy is said of GPUs. `said`: by the call."""
    global _known
    if not ray.is_initialized() or (_known is not None and _known[0] is ray_groups.connection()):
        return None
    if not asks_for_devices(bundles):
        return None
    default = os.environ.get(DEFAULT_LOCALITY_VARIABLE, "")
    carried = (said, os.environ.get(LOCALITY_VARIABLE, ""), default)
    if not any(rule.policy for text in carried if text for rule in parse_rules(text)):
        return None
    from ray_dra.processes.start_coordinator import enter

    try:
        enter(default or "none")
    except (CoordinatorUnavailable, IncompatibleRay) as error:
        logger.warning("ordinary placement groups are left to Ray: %s", error)
        _known = (ray_groups.connection(), None)
    return _job()


# -- the coordinator


def _submit(order: Order) -> bool:
    """Hand the group to the coordinator; False where there is none. One with a name waits for the answer: the name may
    be another's."""
    request, name = order.request, order.name
    if name and ray_groups.named_group(name, order.namespace) is not None:
        raise ray_groups.name_taken(request.gang, name)
    try:
        actor = coordinator()
        if not name:  # one with a name is waited for
            _unanswered[request.gang] = _as_pending(order)
        reference = actor.submit.remote(order)
    except CoordinatorUnavailable as error:
        logger.warning("a placement group is left to Ray: %s", error)
        return False
    if name:
        reference = _named(reference, order)
    _follow(reference, order, None)
    return True


def _named(reference: Any, order: Order) -> Any:
    """The answer to a group with a name. It may still be that of a group which another process has just removed: Ray
    knows of that before the coordinator does."""
    until = time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            answer_to(reference, ANSWER_SECONDS, abandon=False)  # `_heard` follows it
            return reference
        except NameTaken as error:
            held = ray_groups.named_group(order.name, order.namespace) is not None or _pending(name=order.name)
            if held or time.monotonic() > until:
                raise ray_groups.name_taken(order.request.gang, order.name) from error
        except RayDraError:
            return reference  # `_heard` sees to it
        coordinator().look.remote()
        time.sleep(0.05)
        reference = coordinator().submit.remote(order)


def answer_to(reference: Any, seconds: float, *, abandon: bool = True) -> Any:
    """The coordinator's answer; its own errors come as themselves. Not by `ray.get`, of which Ray warns in the event
    loop of an actor, such as Serve's controller.

    `abandon`: a call that has no answer in time is not to be run later: whoever asks again would have the coordinator,
    which is late already, answer each of them."""
    try:
        return reference.future().result(timeout=seconds)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RayDraError):
            raise error.cause from None
        raise
    except (ray.exceptions.RayError, TimeoutError) as error:
        if abandon:
            give_up(reference)
        look_up_again()
        raise CoordinatorUnavailable(
            "The coordinator did not answer.", wanted=f"an answer within {seconds:g} s", available=str(error)
        ) from error


def _pending(group: str = "", name: str = "") -> list[Pending]:
    """The groups of which Ray has not been told: one, by its name, or all. With those of this process that are on their
    way to the coordinator, which the question may overtake."""
    if _job() is None:
        return []
    ours = [one for one in list(_unanswered.values()) if group in ("", one.group) and name in ("", one.name)]
    try:
        namespace = ray_groups.creator().namespace
        found = answer_to(coordinator().ordinary.remote(group, name, namespace), ANSWER_SECONDS)
        return ours + [Pending(*pending) for pending in found]
    except RayDraError as error:
        logger.info("the coordinator was not asked for pending placement groups: %s", error)
        return ours


# -- the log

_unanswered: dict[str, Pending] = {}  # groups of this process of which the coordinator has not spoken yet
_followed: set[str] = set()
_said: dict[str, float] = {}  # what the log says of groups that wait, and since when
_lock = threading.Lock()


def _follow(reference: Any, order: Order, said: str | None) -> None:
    """`said`: what the log says already of what the group waits for; None for the coordinator's first answer."""
    reference.future().add_done_callback(partial(_heard, order, said))


def _heard(order: Order, said: str | None, future: Future[Any]) -> None:
    """The coordinator's answer. Runs in Ray's own thread, which must not wait."""
    group = order.request.gang
    try:
        status = future.result()
    except ray.exceptions.RayActorError:
        _followed.discard(group)
        _coordinator_ended(order, said)
        return
    except Exception as error:
        _unanswered.pop(group, None)
        _followed.discard(group)
        cause = getattr(error, "cause", error)
        if said is None and isinstance(cause, (UnsatisfiableError, InvalidRequest, KubernetesError)):
            threading.Thread(target=_leave_to_ray, args=(order, cause), daemon=True).start()
        return
    _unanswered.pop(group, None)
    if status.phase not in IN_QUEUE:
        _followed.discard(group)
        return
    waits_for = "; ".join(map(str, status.waits_for))
    if waits_for and waits_for != said:
        _say(order, waits_for)
    with _lock:
        if len(_followed) >= MOST_FOLLOWED and group not in _followed:
            return
        _followed.add(group)
    try:
        news = coordinator().await_phase.remote(group, PAST_QUEUE, FOLLOW_SECONDS)
        _follow(news, order, waits_for or said or "")
    except Exception:  # Ray is being left
        _followed.discard(group)


def _coordinator_ended(order: Order, said: str | None) -> None:
    """It ended before it answered, for good or more often than Ray asks again. Runs in Ray's own thread."""
    look_up_again()
    if not ray.is_initialized():  # Ray is being left
        _unanswered.pop(order.request.gang, None)
    elif said is None:
        _unanswered[order.request.gang] = _as_pending(order)
        threading.Thread(target=_submit_again, args=(order,), name=AGAIN, daemon=True).start()
    else:
        _say(order, NO_COORDINATOR)


def _submit_again(order: Order) -> None:
    """Hand a group that the coordinator may not have taken to the one that is there now. Where there is none, Ray
    places the group, unless it is on record: then the next coordinator plans it."""
    group, until = order.request.gang, time.monotonic() + START_SECONDS
    why = CoordinatorUnavailable("The coordinator ended, and each that came after it.")
    try:
        while group in _unanswered and time.monotonic() < until:
            if _taken_now(order):
                return
            time.sleep(AGAIN_SECONDS)
    except CoordinatorUnavailable as error:  # there is none
        why = error
    if _unanswered.pop(group, None) is None:  # removed meanwhile
        return
    if KvStore().get(GANG_KEY + group) is not None:
        _say(order, NO_COORDINATOR)
    else:
        _leave_to_ray(order, why)


def _taken_now(order: Order) -> bool:
    """Whether a coordinator has answered this time. Raises CoordinatorUnavailable where there is none."""
    group, reference = order.request.gang, coordinator().submit.remote(order)
    try:
        answer_to(reference, ANSWER_SECONDS)
    except CoordinatorUnavailable:
        return False
    except RayDraError:
        pass  # `_heard` sees to it
    if group in _unanswered:
        _follow(reference, order, None)
    else:  # removed meanwhile
        coordinator().release.remote(group, 0.0)
    return True


def _as_pending(order: Order) -> Pending:
    request = order.request
    return Pending(request.gang, order.name, ray_bundles(request), request.strategy.value)


def _say(order: Order, waits_for: str) -> None:
    """Of many groups that wait for the same, one is named."""
    now = time.monotonic()
    with _lock:
        for text, at in list(_said.items()):
            if now - at > FOLLOW_SECONDS:
                del _said[text]
        if waits_for in _said:
            return
        _said[waits_for] = now
    logger.warning("placement group %s: pending: %s", _called(order), waits_for)


def _leave_to_ray(order: Order, why: Exception) -> None:
    """A group that the coordinator did not take: Ray places it as it can."""
    logger.warning("placement group %s is left to Ray: %s", _called(order), why)
    labels = tuple(dict(bundle.labels) for bundle in order.request.bundles)
    try:
        answer = Groups().make(new_group(order, labels), again=True)
        if answer.refused:
            logger.error("placement group %s: %s", _called(order), answer.refused)
    except RayDraError as error:
        logger.error("placement group %s: %s", _called(order), error)


def _called(order: Order) -> str:
    count = order.request.device_count
    return f"{order.name or order.request.gang} ({len(order.request.bundles)} bundles, {count} GPUs)"
