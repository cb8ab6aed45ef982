"""What a task or actor asks of the gang that it runs in.

Outside of a gang nothing here is an error. Neighbour: `gang_handle.py`, which has the same for a gang's program.
"""

from __future__ import annotations

import ray

from ray_dra.core.gangs.notice import Notice
from ray_dra.errors import GangGone, UnsatisfiableError
from ray_dra.processes.calls import ask, coordinator
from ray_dra.processes.worker_hook import SeenDevice, seen_devices
from ray_dra.program.notice import notice_of


def get_devices() -> tuple[SeenDevice, ...]:
    """The GPUs of the current task or actor, in the order of CUDA_VISIBLE_DEVICES; empty in a driver."""
    worker = ray._private.worker.global_worker
    worker.check_connected()
    return tuple(seen_devices(worker) or ())


def checkpointed() -> None:
    """What `GangPlacementGroup.checkpointed` says, for the gang of the current task or actor; outside of one it does
    nothing."""
    ray._private.worker.global_worker.check_connected()
    group = ray.get_runtime_context().get_placement_group_id()
    if group is None:
        return
    try:
        ask(coordinator().checkpointed.remote(group))
    except (GangGone, UnsatisfiableError):
        pass


def get_notice(timeout: float = 0.0) -> Notice | None:
    """What `GangPlacementGroup.notice` says, for the gang of the current task or actor; None outside of a gang, and
    after its end.

    Raises:
        InvalidRequest: `timeout` is no number of seconds.
    """
    ray._private.worker.global_worker.check_connected()
    group = ray.get_runtime_context().get_placement_group_id()
    if group is None:
        return None
    try:
        return notice_of(group, timeout)
    except (GangGone, UnsatisfiableError):
        return None
