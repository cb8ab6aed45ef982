"""A tunnel from this machine to a port of a pod, as `kubectl port-forward` makes it: a port on the loopback address
whose connections go through the API server. It ends with the program, or by `close`.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import KubernetesError

BLOCK = 1 << 16
PROXY = "Kubernetes port forward proxy"
"""How the client's threads are called that move bytes between a connection and the API server."""


class Tunnel:
    """Listens on 127.0.0.1. `pod` is asked anew for each connection, so that a head that was replaced is found."""

    def __init__(self, api: KubernetesApi, namespace: str, pod: Callable[[], str], port: int) -> None:
        self._api, self._namespace, self._pod, self._port = api, namespace, pod, port
        _keep_quiet()
        self._one_at_a_time = threading.Lock()  # the client changes itself while it opens a stream
        tunnel = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                tunnel._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """The connection is closed; the caller sees that."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, name="tunnel", daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def open(self) -> socket.socket:
        """One connection to the pod.

        Raises:
            KubernetesError: there is no such pod, or this identity may not forward its ports.
        """
        pod = self._pod()
        try:
            with self._one_at_a_time:
                core = client.CoreV1Api(client.ApiClient(self._api.configuration))
                forwarded = portforward(
                    core.connect_get_namespaced_pod_portforward, pod, self._namespace, ports=str(self._port)
                )
            made: socket.socket = forwarded.socket(self._port)
            return made
        except ApiException as error:
            raise KubernetesError(
                "The pod's port cannot be forwarded; it needs the right to create pods/portforward.",
                place=f"{self._namespace}/{pod}:{self._port}",
                available=str(error.reason or error.body or error.status),
            ) from error

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, local: socket.socket) -> None:
        remote = self.open()
        back = threading.Thread(target=_pump, args=(remote, local), daemon=True)
        back.start()
        _pump(local, remote)
        back.join()
        remote.close()


def _keep_quiet() -> None:
    """A connection that breaks, as one to a port where nobody listens yet, ends the client's thread with an OSError, of
    which Python would print all. Whoever has the connection sees that it is closed; what else is wrong is printed."""
    before = threading.excepthook
    if getattr(before, "of_tunnels", False):
        return

    def say(args: threading.ExceptHookArgs) -> None:
        named = args.thread.name if args.thread is not None else ""
        if not (named.startswith(PROXY) and isinstance(args.exc_value, OSError)):
            before(args)

    say.of_tunnels = True  # type: ignore[attr-defined]
    threading.excepthook = say


def _pump(source: Any, sink: Any) -> None:
    """Until the source ends; then the sink is told."""
    with suppress(OSError):
        while data := source.recv(BLOCK):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
