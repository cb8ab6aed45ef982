"""The coordinator's looks, one after the other: at once where something has changed, and else every half second, or
sooner where something is expected of which nobody tells.

A look takes half of the time at most (`coordinator.pace`), and the cyclic collector works between two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable

from ray_dra.coordinator.pace import EXPECTS_SECONDS, LOOK_SECONDS, pause

SETTLE_SECONDS = 60.0
logger = logging.getLogger("ray_dra")


class LookLoop:
    """Calls `look` until `end`, and `settle` once a minute.

    Attributes:
        polled: so many calls wait for the end of workers, of which Ray tells nobody.
        expects: the next look is due after EXPECTS_SECONDS.
    """

    def __init__(self, look: Callable[[], None], settle: Callable[[], None]) -> None:
        self._look, self._settle = look, settle
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._settled = time.monotonic()
        self.polled = 0
        self.expects = False
        gc.disable()  # see _collect
        self.task = self._loop.create_task(self._run())

    def wake(self) -> None:
        """Something has changed: look at once. From this thread."""
        self._woken.set()

    def end(self) -> None:
        self._ended = True

    async def _run(self) -> None:
        while not self._ended:
            self._woken.clear()
            began, worked = time.monotonic(), time.thread_time()
            try:
                self._look()
            except Exception:  # a fault of ours must not end the looking: the next look begins anew from what is there
                logger.exception("a look failed")
            least = pause(time.monotonic() - began, time.thread_time() - worked)
            self._collect()
            await self._rest(least)

    async def _rest(self, least: float) -> None:
        """Until the next look, or, after `least` seconds, until something changes."""
        await asyncio.sleep(least)
        if self.polled:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            most = EXPECTS_SECONDS if self.expects else LOOK_SECONDS
            await asyncio.wait_for(self._woken.wait(), max(0.0, most - least))

    def _collect(self) -> None:
        """The cyclic collector's work, between calls instead of in the middle of one: with 100,000 GPUs a full round
        takes a tenth of a second. What is alive is set aside."""
        if time.monotonic() - self._settled > SETTLE_SECONDS:
            self._settled = time.monotonic()
            self._settle()
            gc.collect()
            gc.freeze()
        else:
            gc.collect(1)
