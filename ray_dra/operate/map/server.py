"""The map's server: the page, its events, a gang's details, and what-if. Reads alone.

Neighbours: `guard.py` is in front of it; `cli/map_page.py` starts it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import MAX_BUNDLES, GangRequest
from ray_dra.errors import GangGone, InvalidRequest, RayDraError, UnsatisfiableError, shown
from ray_dra.operate.map.guard import Guard
from ray_dra.operate.map.sources import Source
from ray_dra.operate.map.watch import LOOK_SECONDS, Watch
from ray_dra.translate.map.gangs import what_if
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.text import explain_answer

FILES = {
    "": ("map.html", "text/html"),
    "map.css": ("map.css", "text/css"),
    "map.js": ("map.js", "text/javascript"),
    "racks.js": ("racks.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
STREAM = {"x-accel-buffering": "no"}
ASKED = ("gpus", "bundles", "segment", "priority")  # numbers of a what-if


def app_of(source: Source, names: Iterable[str] = (), seconds: float = LOOK_SECONDS) -> Starlette:
    """The application. `names`: as for Guard; `seconds`: between two looks."""
    watch = Watch(source, seconds)
    one_plan = asyncio.Lock()  # a plan costs the coordinator more than a look

    async def events(request: Request) -> Response:
        if request.method == "HEAD":  # whoever wants no body looks at nothing
            return Response(media_type="text/event-stream", headers=STREAM)
        return StreamingResponse(watch.events(), media_type="text/event-stream", headers=STREAM)

    async def gang(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(source.gang, request.path_params["gang"]))

    async def plan(request: Request) -> Response:
        asked = request_of(request.query_params)
        async with one_plan:
            answer = await asyncio.to_thread(source.plan, asked)
        return JSONResponse(what_if(answer, explain_answer(answer, asked, watch.names, fold=True), asked))

    def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, RayDraError)
        gone = isinstance(error, GangGone | UnsatisfiableError)
        status = 404 if gone else 400 if isinstance(error, InvalidRequest) else 503
        return JSONResponse({"error": str(error)}, status)

    app = Starlette(
        routes=[
            *(Route(f"/{path}", _file(*file), methods=["GET"]) for path, file in FILES.items()),
            Route("/events", events, methods=["GET"]),
            Route("/gangs/{gang:path}", gang, methods=["GET"]),
            Route("/what-if", plan, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, names=tuple(names))],
        exception_handlers={RayDraError: failed},
    )
    app.state.watch = watch
    return app


def request_of(query: Mapping[str, str]) -> GangRequest:
    """The gang that a what-if asks about. Raises InvalidRequest where it can never be one."""
    numbers = {name: _number(name, query[name]) for name in ASKED if query.get(name)}
    where, segment = query.get("where", "near"), numbers.get("segment") or None
    if where not in ("one", "near", "linked"):
        raise InvalidRequest(
            "This is no place.", place="where", wanted=shown(where), available="one (clique), near, linked"
        )
    bundles = numbers.get("bundles", 1)
    if not 1 <= bundles <= MAX_BUNDLES:
        raise InvalidRequest(
            "A gang has so many bundles.", place="bundles", wanted=str(bundles), available=f"1 to {MAX_BUNDLES}"
        )
    near = where == "near" and segment is None
    return request_from_bundles(
        [{"GPU": numbers.get("gpus", 1)}] * bundles,
        locality=Locality(
            cliques=1 if near or (where == "one" and segment is None) else None,
            required=not near,
            segment=segment,
            connect=Connect.REQUIRED if where == "linked" else Connect.PREFERRED,
        ),
        priority=numbers.get("priority", 0),
    )


def _number(name: str, said: str) -> int:
    if not said.removeprefix("-").isdecimal() or len(said) > 9 or not said.isascii():
        raise InvalidRequest("This is no number.", place=name, wanted=shown(said))
    return int(said)


def _file(name: str, kind: str) -> Any:
    content = resources.files("ray_dra.operate.map").joinpath("page").joinpath(name).read_bytes()

    async def serve(_: Request) -> Response:
        return Response(content, media_type=kind)

    return serve


def listen(host: str, port: int) -> socket.socket:
    """The socket to serve at. Raises OSError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(64)
    except OSError:
        made.close()
        raise
    return made


class Server(uvicorn.Server):
    """One that does not wait for browsers to leave."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.watch.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def server_of(app: Starlette) -> Server:
    """What serves it; `run(sockets=...)` does, until ctrl-C."""
    return Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            lifespan="off",
        )
    )
