"""Starts the coordinator: one detached actor on the head node, which Ray starts again wherever it dies."""

from __future__ import annotations

import os
import time
from typing import Any

import ray

from ray_dra.adapters.ray import check_ray
from ray_dra.errors import CoordinatorUnavailable
from ray_dra.processes.address import Kubernetes, parse_address
from ray_dra.processes.calls import ask, coordinator
from ray_dra.processes.coordinator_actor import CoordinatorActor
from ray_dra.processes.node_agent import NAME, NAMESPACE, our_environment
from ray_dra.translate.names import CLUSTER_NAME_VARIABLE, CLUSTER_NAMESPACE_VARIABLE, HEAD_RESOURCE

TASK_RETRIES = 3  # a call that was under way when the coordinator died is sent again; one that kills it, not for ever
READY_SECONDS = 120.0  # since the last sign of progress: on a loaded machine a worker takes a minute to start
CALLS = 1_000_000  # at a time; what waits is bounded in `waits.py`, so that it never keeps out what works


def start_coordinator(kubernetes: Kubernetes | None = None) -> Any:
    """The cluster's coordinator; started on the head node by whoever comes first.

    Args:
        kubernetes: the RayCluster to which it adds workers; None: gangs lie on the raylets that are there.
    """
    return (
        ray.remote(CoordinatorActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            resources={
                HEAD_RESOURCE: 0.001
            },  # the head, whichever raylet it has: one that died comes back by another id
            max_restarts=-1,
            max_task_retries=TASK_RETRIES,
            max_concurrency=CALLS,
            **our_environment(),
        )
        .remote(kubernetes)
    )


def greet(
    kubernetes: Kubernetes | None, locality: str = "", default: str = "", on_fault: str = "", queue: str = ""
) -> None:
    """Start or find the coordinator, and wait until it has read every node's GPUs. `locality`, `default`,
    `on_fault`, `queue`: as in `hello`."""
    global _greeted
    deadline = time.monotonic() + READY_SECONDS
    while not _welcome(actor := start_coordinator(kubernetes), locality, default, on_fault, queue):
        if time.monotonic() > deadline:
            raise CoordinatorUnavailable(
                "No coordinator stays; why is in Ray's log folder on the head node.",
                wanted=f"one that answers within {READY_SECONDS:g} s",
            )
        time.sleep(0.05)
    left = None
    while waiting := ask(actor.ready.remote()):
        if waiting != left:
            left, deadline = waiting, time.monotonic() + READY_SECONDS
        if time.monotonic() > deadline:
            raise CoordinatorUnavailable(
                "Some nodes have not said what GPUs they have; is ray-dra installed on them?",
                place=", ".join(w[:16] for w in waiting),
                wanted=f"a reading within {READY_SECONDS:g} s",
            )
        time.sleep(0.05)
    _greeted = ray._private.worker.global_worker.core_worker


def _welcome(actor: Any, locality: str, default: str, on_fault: str, queue: str) -> bool:
    """Whether this coordinator serves this program; False: it is retiring after an earlier program."""
    hello = actor.hello.options(max_task_retries=0)  # by Ray's own retries a coordinator that ends makes noise here
    try:
        job = ray.get_runtime_context().get_job_id()
        return bool(ask(hello.remote(job, locality, default, on_fault, queue), timeout=READY_SECONDS))
    except CoordinatorUnavailable as error:
        died = error.__cause__
        if isinstance(died, ray.exceptions.ActorUnschedulableError):
            ray.kill(actor)  # it may only be on a node that is gone, as those of ray-dra 0.1.0
            return False
        if isinstance(died, ray.exceptions.RayActorError) and not died.actor_init_failed:
            return False
        raise


_greeted: Any = None  # the connection by which this process has greeted the coordinator


def coordinator_here() -> Any:
    """The coordinator, for a process that asks for gangs.

    In a pod of KubeRay's it is started where there is none: an application of a RayService, or a job that connected to
    Ray by an address of Ray's own, needs none of ours.

    Raises:
        CoordinatorUnavailable: Ray is not connected, or nobody has started one.
    """
    if _in_its_pod() and ray.is_initialized() and _greeted is not ray._private.worker.global_worker.core_worker:
        enter("none")
    return coordinator()


def enter(default: str) -> None:
    """From here on the job of this process uses ray-dra, though no address of ours started it. `default`: the policy of
    its ordinary placement groups where nobody says one.

    Raises:
        CoordinatorUnavailable: there is no coordinator, nor does one start.
    """
    check_ray()
    target = parse_address("kubernetes") if _in_its_pod() else None
    greet(target if isinstance(target, Kubernetes) else None, default=default)


def _in_its_pod() -> bool:
    """Whether this is a pod of KubeRay's."""
    return bool(os.environ.get(CLUSTER_NAME_VARIABLE) and os.environ.get(CLUSTER_NAMESPACE_VARIABLE))
