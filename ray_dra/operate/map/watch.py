"""The page's state, kept up to date while somebody looks, and what changes of it for each browser that does.

One loop asks the source once a second; nothing is asked while no browser is there. A browser that is slow gets what has
changed meanwhile as one change. A source that does not answer is said on the page, and asked again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping

from ray_dra.errors import RayDraError
from ray_dra.operate.map.sources import Source
from ray_dra.translate.map.page import PageState, State, merged
from ray_dra.translate.map.view import NOTHING_SEEN, Cursor, View, all_since

LOOK_SECONDS = 1.0
PING_SECONDS = 10.0  # a browser hears at least so often, so that it knows that the server lives
logger = logging.getLogger("ray_dra")


class _Browser:
    """What one has not been told yet."""

    def __init__(self) -> None:
        self.waiting: State = {}
        self.woken = asyncio.Event()

    def tell(self, change: State) -> None:
        self.waiting = merged(self.waiting, change)
        self.woken.set()


class Watch:
    """See the module. `seconds` are between two looks."""

    def __init__(self, source: Source, seconds: float = LOOK_SECONDS) -> None:
        self._source, self._seconds = source, seconds
        self._page = PageState()
        self._page.say("about", source.about)
        self._page.say("live", source.live)
        self._cursor: Cursor = NOTHING_SEEN
        self._browsers: set[_Browser] = set()
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self._text: tuple[State, str] | None = None

    @property
    def names(self) -> Mapping[str, str]:
        """What cliques are called."""
        return self._page.names

    @property
    def browsers(self) -> int:
        return len(self._browsers)

    async def events(self) -> AsyncGenerator[str, None]:
        """Server-sent events for one browser: `state` with all there is, then `change` with what changes."""
        browser = _Browser()
        if self._cursor == NOTHING_SEEN:
            await self._looked()
        self._browsers.add(browser)
        if self._source.live and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield _event("state", self._whole())
            while not self._closed:
                try:
                    await asyncio.wait_for(browser.woken.wait(), PING_SECONDS)
                except asyncio.TimeoutError:
                    yield _event("ping", "{}")
                    continue
                browser.woken.clear()
                if not browser.waiting:
                    continue
                change, browser.waiting = browser.waiting, {}
                yield _event("change", json.dumps(change, separators=(",", ":")))
        finally:
            self._browsers.discard(browser)

    def close(self) -> None:
        """The server ends: so do the events of all browsers."""
        self._closed = True
        for browser in self._browsers:
            browser.woken.set()

    async def _run(self) -> None:
        while self._browsers and not self._closed:
            await asyncio.sleep(self._seconds)
            await self._looked()

    async def _looked(self) -> None:
        """One look, which all who want one meanwhile share: two at a time would count nodes twice. A browser that
        leaves does not end it, and what it finds is told to all that are there."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        change = await self._change()
        if change:
            for browser in self._browsers:
                browser.tell(change)

    async def _change(self) -> State:
        try:
            return await asyncio.to_thread(self._take)
        except Exception as error:  # of Ray, say: whatever it is, the next look may find the cluster well
            if not isinstance(error, RayDraError):
                logger.warning("the map cannot look: %s: %s", type(error).__name__, error)
            why = error.reason if isinstance(error, RayDraError) else type(error).__name__
            silent = self._page.state.get("silent")
            since = silent["since"] if silent else time.time()
            return self._page.say("silent", {"why": why, "since": since})

    def _take(self) -> State:
        view: View = all_since(self._source.look, self._cursor)
        change = self._page.take(view)
        self._cursor = view.to
        return merged(change, self._page.say("silent", None))

    def _whole(self) -> str:
        """The state as JSON, made once for all who come while it is the same."""
        state = self._page.state
        if self._text is None or self._text[0] is not state:
            self._text = state, json.dumps(state, separators=(",", ":"))
        return self._text[1]


def _event(name: str, data: str) -> str:
    """With this machine's time as its id: the browser's clock may be another."""
    return f"event: {name}\nid: {time.time():.3f}\ndata: {data}\n\n"
