"""The queues of teams that an operator has declared: looked at with each look, so that a file may change.

What cannot be read changes nothing: what held before goes on to, also for the coordinator after this one, and people
are told. Neighbours: `translate/files/team_queues.py` reads them, `translate/settings.py` says where they stand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ray_dra.core.gangs.team_queues import NO_QUEUES, TeamQueues
from ray_dra.errors import RayDraError
from ray_dra.ports.store import Store
from ray_dra.translate.files.records import declared_from_bytes, declared_to_bytes
from ray_dra.translate.files.team_queues import read_team_queues
from ray_dra.translate.names import QUEUES_KEY, QUEUES_VARIABLE

KEY = QUEUES_KEY + "declared"
logger = logging.getLogger("ray_dra")


class DeclaredQueues:
    """See the module.

    Attributes:
        queues: that hold now.
        problem: why what is declared now does not; "" where it does.
    """

    def __init__(self, store: Store, read: Callable[[], str] | None) -> None:
        """`read`: the text that declares them, as it is now; None: nobody declares any.

        Raises:
            RayDraError: it declares what cannot be, or cannot be read, and nothing held before.
        """
        self._store, self._read = store, read
        self.queues, self.problem = NO_QUEUES, ""
        self._text = ""  # by which they were declared last
        before = store.get(KEY)
        if read is None:
            if before is not None:
                store.delete(KEY)
            return
        if before is not None:
            self._text = declared_from_bytes(before)
            self.queues = read_team_queues(self._text, QUEUES_VARIABLE)
            self.look()
            return
        text = read()
        self._hold(text, read_team_queues(text, QUEUES_VARIABLE))

    def look(self) -> bool:
        """Whether other queues hold from here on."""
        if self._read is None:
            return False
        was = self.problem
        try:
            text = self._read()
            queues = self.queues if text == self._text else read_team_queues(text, QUEUES_VARIABLE)
        except RayDraError as error:
            self.problem = f"queues of teams: what is declared now does not hold, what was before does: {error}"
            if self.problem != was:
                logger.warning("%s", self.problem)
            return False
        self.problem = ""
        if text == self._text:
            return False
        changed = queues != self.queues
        self._hold(text, queues)
        return changed

    def _hold(self, text: str, queues: TeamQueues) -> None:
        self._store.put(KEY, declared_to_bytes(text))
        self._text, self.queues = text, queues
        logger.info("queues of teams: %s", queues.names() or "none")
