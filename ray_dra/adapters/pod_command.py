"""A command in a container of a pod, as `kubectl exec` runs it: what it prints, apart, and with what it ends.

Neighbours: `tunnel.py` reaches a pod's ports; `cli/elsewhere.py` has the head's own `ray-dra` answer by this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from websocket import WebSocketException

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import ApiUnavailable, KubernetesError

STDIN, STDOUT, STDERR, STATUS = range(4)  # the channels of remotecommand
BLOCK = 1 << 15
LOOK_SECONDS = 1.0
Write = Callable[[bytes], object]


def run_in_pod(
    api: KubernetesApi,
    namespace: str,
    pod: str,
    container: str,
    command: Sequence[str],
    *,
    given: bytes,
    out: Write,
    err: Write,
) -> int:
    """The command's exit code. `given` is sent to its standard input, which then stays open until this returns or its
    process ends: the command can tell by its end that nobody is there any more.

    Raises:
        KubernetesError: there is no such pod, or this identity may run no commands in it.
        ApiUnavailable: the connection ended before the command.
    """
    place = f"{namespace}/{pod}"
    core = client.CoreV1Api(client.ApiClient(api.configuration))
    try:
        opened = stream(
            core.connect_get_namespaced_pod_exec,
            pod,
            namespace,
            container=container,
            command=list(command),
            stdin=True,
            stdout=True,
            stderr=True,
            tty=False,
            binary=True,
            _preload_content=False,
        )
    except ApiException as error:
        raise KubernetesError(
            "No command can be run in the pod; it needs the right to create pods/exec.",
            place=place,
            available=str(error.reason or error.body or error.status),
        ) from error
    try:
        for at in range(0, len(given), BLOCK):
            opened.write_channel(STDIN, given[at : at + BLOCK])
        while opened.is_open():
            opened.update(timeout=LOOK_SECONDS)
            _pass_on(opened, out, err)
        _pass_on(opened, out, err)
        return _exit_code(opened.read_channel(STATUS), place)
    except (OSError, WebSocketException) as error:
        raise ApiUnavailable(
            "The connection to the command ended before it did.", place=place, available=str(error)
        ) from error
    finally:
        opened.close()


def _pass_on(opened: Any, out: Write, err: Write) -> None:
    for channel, write in ((STDOUT, out), (STDERR, err)):
        if data := opened.read_channel(channel):
            write(data)


def _exit_code(status: bytes, place: str) -> int:
    """What the API server says of the command's end (metav1.Status)."""
    try:
        said = json.loads(status)
        if said["status"] == "Success":
            return 0
        causes = (said.get("details") or {}).get("causes") or ()
        codes = [int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ApiUnavailable(
            "The connection to the command ended before it did.", place=place, available=status.decode(errors="replace")
        ) from error
    if not codes:
        raise KubernetesError("The command could not be run.", place=place, available=str(said.get("message")))
    return codes[0]
