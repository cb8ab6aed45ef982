"""The map of a RayCluster from elsewhere: its server runs as a Ray job on the head, reached as jobs are.

Both the head's dashboard, which takes the job, and the map's port are reached through the API server
(`adapters/tunnel.py`); so it takes the rights that the submission of jobs does, and no others. A map that runs on the
head already is used as it is. Neighbours: `program/submit_job.py` knows the head; `cli/map_page.py` calls this.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ray_dra.errors import ClusterUnavailable
from ray_dra.translate.names import AUTH_TOKEN_VARIABLE

PORT = 8266
START_SECONDS = 120.0
TITLE = b"<title>ray-dra map</title>"
JOB = f"exec python3 -m ray_dra.cli map --port {PORT} --no-browser"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # these are this machine's own ports


@contextmanager
def map_on_head(dashboard: str, page: str, wait: Callable[[float], None] = time.sleep) -> Iterator[bool]:
    """The map's server runs on the head meanwhile; tells whether it was started for this, and ends with it then.

    Args:
        dashboard, page: HOST:PORT by which the head's dashboard and the map's port are reached.

    Raises:
        ClusterUnavailable: the dashboard does not take the job, or the map does not answer.
    """
    if _answers(page):
        yield False
        return
    job = _ask(dashboard, "POST", "/api/jobs/", {"entrypoint": JOB})["submission_id"]
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(page):
            state = _ask(dashboard, "GET", f"/api/jobs/{job}")
            if state.get("status") in ENDED or time.monotonic() > deadline:
                logs = _ask(dashboard, "GET", f"/api/jobs/{job}/logs").get("logs", "")
                said = f"{state.get('status')}: {state.get('message', '')} {logs[-1_000:]}"
                raise ClusterUnavailable(
                    "The map does not start on the head; does its image have ray-dra's extra `map`?",
                    place=f"job {job}",
                    available=" ".join(said.split()),
                )
            wait(0.5)
        yield True
    finally:
        with suppress(ClusterUnavailable):  # nobody is left to be told
            _ask(dashboard, "POST", f"/api/jobs/{job}/stop")


def _answers(page: str) -> bool:
    """Whether a map of ours is there; a port that is not listened at closes its connections."""
    try:
        with _open(f"http://{page}/", timeout=10) as answer:
            return TITLE in answer.read(4_000)
    except (OSError, http.client.HTTPException):
        return False


def _ask(dashboard: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The dashboard's answer. With the token of RAY_AUTH_TOKEN, if there is one."""
    token = os.environ.get(AUTH_TOKEN_VARIABLE)
    request = urllib.request.Request(
        f"http://{dashboard}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {}),
    )
    try:
        with _open(request, timeout=30) as answer:
            found = json.loads(answer.read() or b"{}")
            return found if isinstance(found, dict) else {}
    except urllib.error.HTTPError as error:
        why = f"it asks for a token: set {AUTH_TOKEN_VARIABLE} (docs/security.md)" if error.code in (401, 403) else ""
        raise ClusterUnavailable(
            "The head's dashboard refuses.", place=path, wanted=why, available=f"HTTP {error.code}"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ClusterUnavailable("The head's dashboard does not answer.", place=path, available=str(error)) from error
