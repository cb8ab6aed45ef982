"""Reaches the coordinator of a running cluster, in ten seconds or with an error, and without Ray's own noise."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

import typer

from ray_dra.errors import ClusterUnavailable, InvalidAddress
from ray_dra.translate.names import BACKEND_LOG_VARIABLE, GRPC_LOG_VARIABLE

Address = Annotated[
    str, typer.Option(help="The running Ray cluster, as HOST:PORT; without it, the one on this machine.")
]


def connect(address: str) -> None:
    """Connect to the Ray cluster at HOST:PORT; "": the one on this machine.

    Raises:
        InvalidAddress: it is no address.
        ClusterUnavailable: nobody answers there, or not to whoever has no token.
    """
    silence()
    import ray

    try:
        ray.init(f"ray_dra://{address}", logging_level="ERROR", log_to_driver=False)
    except InvalidAddress as error:
        if address:
            raise
        raise ClusterUnavailable(
            "There is no Ray cluster here to look at.",
            place="this machine",
            wanted="--address HOST:PORT of a cluster that runs",
            available=error.reason,
        ) from error
    except ray.exceptions.AuthenticationError as error:
        raise ClusterUnavailable(
            "The Ray cluster asks for a token; see docs/security.md for where it is looked for.",
            place=address,
            available=str(error),
        ) from error


def silence() -> None:
    """Before Ray is imported: warnings of Ray's C++ and of gRPC, and those of libraries that log to nobody."""
    os.environ.setdefault(BACKEND_LOG_VARIABLE, "fatal")
    os.environ.setdefault(GRPC_LOG_VARIABLE, "NONE")
    logging.getLogger().addHandler(logging.NullHandler())  # else Python's last resort prints them


def ask_coordinator(call: str, *arguments: Any, timeout: float = 30.0) -> Any:
    """The coordinator's answer to a call by its name."""
    from ray_dra.processes.calls import ask, coordinator

    return ask(getattr(coordinator(), call).remote(*arguments), timeout=timeout)
