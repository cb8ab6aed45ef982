"""Who may look: a request by the server's own name, from the server's own page.

A web page of somebody else's, open in the same browser, is not to read the map. By DNS rebinding it could be let to
believe that this server is its own, so the Host has to be a name that is ours; and browsers say with each request
whether it comes from another site. Nothing but reading is served, and the browser is told to run no script and load
nothing from elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")


class Guard:
    """See the module. `names`: host names besides localhost by which the server may be called; addresses always may,
    as no name server can give them away."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app, self._names = app, {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope["method"], headers)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self._app if refused is None else refused
        await app(scope, receive, guarded)

    def _refused(self, method: str, headers: Headers) -> PlainTextResponse | None:
        if method not in ("GET", "HEAD"):
            return PlainTextResponse("The map can be looked at, and nothing else.\n", 405, {"allow": "GET, HEAD"})
        if not self._ours(headers.get("host", "")):
            return PlainTextResponse("This server does not go by that name.\n", 421)
        site, navigates = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not (navigates and headers.get("sec-fetch-dest") == "document"):
            return PlainTextResponse("Only the map's own page may ask for this.\n", 403)
        return None

    def _ours(self, host: str) -> bool:
        said = _HOST.fullmatch(host)
        if said is None:
            return False
        name = said[1]
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True
