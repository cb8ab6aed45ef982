"""Somebody else's queue, which pays for gangs: asked before anything is planned, given up once all is given back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ray_dra.core.gangs.quota import Answer, Quota
from ray_dra.core.model.request import GangRequest


class Quotas(Protocol):
    """Requests are named by gang and by how many were made before. Errors of the way there are answers, too."""

    def queue_for(self, request: GangRequest) -> str:
        """The queue that a new gang is paid from; "" for none. Raises InvalidRequest where it cannot be asked."""

    def ask(self, quota: Quota, request: GangRequest) -> None:
        """Make a gang's present request; harmless where it is there."""

    def answer(self, quota: Quota, request: GangRequest) -> Answer | None:
        """What is said to a gang's present request, as of the last look; None where nothing is known yet."""

    def keep(self, wanted: Collection[tuple[str, int]]) -> None:
        """Give up every request of ours but these: (gang, how many were made before)."""

    @property
    def idle(self) -> bool:
        """Whether no request of ours is left."""


class NoQuotas:
    """Nobody has to be asked."""

    def queue_for(self, request: GangRequest) -> str:
        return ""

    def ask(self, quota: Quota, request: GangRequest) -> None:
        """Nobody is."""

    def answer(self, quota: Quota, request: GangRequest) -> Answer | None:
        """A gang of a coordinator that had somebody to ask waits for one that has."""
        return None

    def keep(self, wanted: Collection[tuple[str, int]]) -> None:
        """There is none."""

    @property
    def idle(self) -> bool:
        return True
