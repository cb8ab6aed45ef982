"""How programs, workers and the command line call the coordinator."""

from __future__ import annotations

from typing import Any

import ray

from ray_dra.errors import CoordinatorUnavailable, RayDraError
from ray_dra.processes.node_agent import NAME, NAMESPACE

HOLLOW = "TemporaryActor"  # what Ray calls a class that stands for one that it could not unpickle

_handle: tuple[Any, Any] | None = None


def coordinator() -> Any:
    """The running coordinator.

    Raises:
        CoordinatorUnavailable: Ray is not connected, or not by a ray_dra:// address.
    """
    global _handle
    if not ray.is_initialized():
        raise CoordinatorUnavailable(
            "Ray is not connected; call ray.init with a ray_dra:// address first.", wanted='ray.init("ray_dra://...")'
        )
    # One look-up a connection, until a call fails: the handle stays good when the coordinator is restarted.
    worker = ray._private.worker.global_worker.core_worker
    if _handle is not None and _handle[0] is worker:
        return _handle[1]
    try:
        found = ray.get_actor(NAME, namespace=NAMESPACE)
        if _is_hollow(found):
            _forget_hollow()
            found = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError as error:
        raise CoordinatorUnavailable(
            "This Ray cluster has no ray-dra coordinator; connect with a ray_dra:// address to start one.",
            wanted='ray.init("ray_dra://HOST:PORT")',
        ) from error
    if _is_hollow(found):
        raise CoordinatorUnavailable(
            "This process could not load the coordinator's class, so that it cannot call it.",
            wanted="the same ray_dra in every process of the cluster",
        )
    _handle = (worker, found)
    return found


def _is_hollow(handle: Any) -> bool:
    """Whether Ray has put a class of its own in the place of the coordinator's, which it could not unpickle here. Each
    call of its methods is refused for too many arguments."""
    signatures = getattr(handle, "_ray_method_signatures", {})
    parameters = signatures.get("status")
    return parameters is not None and all(each.name != "gang" for each in parameters)


def _forget_hollow() -> None:
    """Ray keeps such a class, and what it knows of its methods, for as long as the process lives. What kept it from
    being unpickled may be over: a module that another thread was just importing, say."""
    loaded = ray._private.worker.global_worker.function_actor_manager._loaded_actor_classes
    for key, each in list(loaded.items()):
        if each.__name__ == HOLLOW:
            del loaded[key]
    ray.actor._ActorClassMethodMetadata.reset_cache()


def look_up_again() -> None:
    """The actor may have died for good and another one have its name: look the name up again."""
    global _handle
    _handle = None


ANSWER_SECONDS = 30.0


def ask(reference: Any, *, timeout: float = ANSWER_SECONDS, abandon: bool = True) -> Any:
    """The coordinator's answer; its own errors come as themselves.

    Args:
        abandon: a call that has no answer in time is not to be run later.

    Raises:
        CoordinatorUnavailable: no answer in `timeout` seconds, or the actor is gone, or cannot be where it should.
    """
    answered = False
    try:
        answer = ray.get(reference, timeout=timeout)
        answered = True
        return answer
    except ray.exceptions.RayTaskError as error:
        answered = True
        if isinstance(error.cause, RayDraError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        look_up_again()
        raise CoordinatorUnavailable(
            "The coordinator did not answer.", wanted=f"an answer within {timeout:g} s", available=str(error)
        ) from error
    finally:
        if abandon and not answered:
            give_up(reference)


def give_up(reference: Any) -> None:
    """A call that has no answer in time is not to be run later. Where Ray has been left meanwhile nothing is done: Ray
    would start a cluster of its own for it."""
    if not ray.is_initialized():
        return
    try:
        ray.cancel(reference, recursive=False)
    except Exception:  # Ray itself is gone
        pass
