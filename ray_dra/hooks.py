"""The names by which Ray calls ray-dra: RAY_START_HOOK=ray_dra.hooks.start, and the hooks of workers and drivers, which
that sets."""

from __future__ import annotations

from typing import Any


def start(ray_params: Any, head: bool) -> None:
    """See `processes.start_hook.start`."""
    from ray_dra.processes.start_hook import start

    start(ray_params, head)


def install_worker() -> None:
    """See `processes.worker_hook.install_worker`."""
    from ray_dra.processes.worker_hook import install_worker

    install_worker()


def install_driver(runtime_env: Any) -> Any:
    """See `processes.worker_hook.install_driver`."""
    from ray_dra.processes.worker_hook import install_driver

    return install_driver(runtime_env)
