"""Whether a Ray cluster answers at an address, before Ray is asked to connect: Ray itself waits for minutes."""

from __future__ import annotations

import os
import socket
import time

import grpc

from ray_dra.errors import ClusterUnavailable
from ray_dra.translate.names import USE_TLS_VARIABLE

ANSWER_SECONDS = 10.0
AGAIN_SECONDS = 0.2  # after a refused connection: a cluster that starts just now


def await_cluster(address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Return as soon as a control store greets at host:port.

    A server of gRPC greets each connection with its settings; a host that takes connections and says nothing, or
    speaks otherwise, does not. With TLS (RAY_USE_TLS) the connection alone is waited for.

    Raises:
        ClusterUnavailable: none does within `seconds`.
    """
    deadline = time.monotonic() + seconds
    tried = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            left = deadline - time.monotonic()
            if os.environ.get(USE_TLS_VARIABLE, "0").lower() in ("1", "true") or (left > 0 and _greets(address, left)):
                return
            tried = "the host takes connections, but says nothing that a Ray cluster would say"
            break
        except OSError as error:  # refused, unreachable, no such host, no time left
            tried = str(error)
        time.sleep(max(0.0, min(AGAIN_SECONDS, deadline - time.monotonic())))
    raise ClusterUnavailable(
        "No Ray cluster answers at this address; is it the head's host and port (6379 by default)?",
        place=address,
        wanted=f"an answer within {seconds:g} s",
        available=tried,
    )


def _greets(address: str, seconds: float) -> bool:
    """Whether a server of gRPC is there."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
    return True
