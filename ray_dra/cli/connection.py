"""Reaches the coordinator of a running cluster, in ten seconds or with an error, and without Ray's own noise."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_dra.cli.terminal import STANDARD, refuse_idle, said_options
from ray_dra.errors import ClusterUnavailable, InvalidAddress
from ray_dra.translate.names import BACKEND_LOG_VARIABLE, CLUSTER_NAME_VARIABLE, CLUSTER_NAMESPACE_VARIABLE

if TYPE_CHECKING:
    from ray_dra.translate.files.snapshot import Snapshot

Address = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="The running Ray cluster; without it, the one on this machine.")
]


SNAPSHOT = "A snapshot, or - for standard input; without it, the running cluster."


def connect(address: str) -> None:
    """Connect to the Ray cluster at HOST:PORT; "": the one on this machine, in a pod of KubeRay's as its programs do: a
    coordinator that is started for this command is to know Kubernetes, too.

    Raises:
        InvalidAddress: it is no address.
        ClusterUnavailable: nobody answers there, or not to whoever has no token.
    """
    silence()
    import ray

    try:
        ray.init(f"ray_dra://{address or _here()}", logging_level="ERROR", log_to_driver=False)
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


def _here() -> str:
    in_pod = all(os.environ.get(name) for name in (CLUSTER_NAME_VARIABLE, CLUSTER_NAMESPACE_VARIABLE))
    return "kubernetes" if in_pod else ""


def silence() -> None:
    """Keep the noise of others out of stderr: warnings of libraries that log to nobody, and whatever Ray's C++ and gRPC
    print past Python. With RAY_BACKEND_LOG_LEVEL in the environment, the latter comes as it is."""
    logging.getLogger().addHandler(logging.NullHandler())  # else Python's last resort prints them
    stderr = sys.stderr
    if BACKEND_LOG_VARIABLE in os.environ or not isinstance(stderr, io.TextIOWrapper):
        return
    if stderr is not sys.__stderr__ or stderr.fileno() != 2:
        return  # somebody else's already: a test's, a program's
    stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=stderr.encoding, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def ask_coordinator(call: str, *arguments: Any, timeout: float = 30.0) -> Any:
    """The coordinator's answer to a call by its name."""
    from ray_dra.processes.calls import ask, coordinator

    return ask(getattr(coordinator(), call).remote(*arguments), timeout=timeout)


def snapshot_of(context: typer.Context, file: Path | None, address: str) -> Snapshot:
    """What a file says of a cluster; without one, what the coordinator of the cluster at `address` does."""
    if file is not None:
        refuse_idle(said_options(context), ["--address"], "the cluster is read from a file")
        return read_cluster(file)
    connect(address)
    found: Snapshot = ask_coordinator("snapshot")
    return found


def read_cluster(file: Path) -> Snapshot:
    """What a snapshot file says, or standard input.

    Raises:
        InvalidSnapshot: it cannot be read, or is none.
    """
    from ray_dra.translate.files.plain import MAX_BYTES
    from ray_dra.translate.files.snapshot import load_snapshot, read_snapshot

    return load_snapshot(sys.stdin.buffer.read(MAX_BYTES + 1)) if file == STANDARD else read_snapshot(file)
