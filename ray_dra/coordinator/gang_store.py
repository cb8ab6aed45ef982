"""The gangs' records in the store: read at the start, written by the executor, set aside where they cannot be true.

Neighbours: `core/gangs/records.py` has the same in memory; `aside.py` keeps those that cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_dra.coordinator.aside import Aside, Unread
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.model.allocation import Allocation, Grant
from ray_dra.errors import RayDraError
from ray_dra.ports.ray import RayView
from ray_dra.ports.store import Store
from ray_dra.translate.files.records import (
    Failure,
    Traces,
    failure_from_bytes,
    failure_to_bytes,
    gang_from_bytes,
    gang_to_bytes,
    traces_of,
)
from ray_dra.translate.names import FAILED_KEY, GANG_KEY, MAP_KEY

MOST_FAILURES = 1_000  # the last ones; a program that waits asks each second
MOST_EPOCHS = 100  # of a gang whose moves cannot be read: its tries, and a dozen moves for each of many neighbours


class GangStore:
    """See the module. `failures`: why gangs were given up, the last ones."""

    def __init__(self, store: Store, aside: Aside) -> None:
        self.store, self.aside = store, aside
        self.failures: dict[str, str] = {}
        self._failed = 0  # the number of the last one
        self._traces: dict[str, Traces] = {}  # by the key of a record that lies aside
        self._unsure: dict[str, None] = {}  # gangs whose last write raised: nobody knows which record the store has

    def load(self) -> list[Gang]:
        """The gangs in order of arrival; what cannot be read is set aside."""
        held: dict[object, str] = {}
        found = self.aside.read(GANG_KEY, lambda key, data: _readable(key, data, held))
        failed = list(self.aside.read(FAILED_KEY, lambda key, data: (key, failure_from_bytes(data))))
        failed.sort(key=lambda each: each[1].number)
        self.failures = {gang_id: failure.why for gang_id, failure in failed}
        self._failed = failed[-1][1].number if failed else 0
        return sorted(found, key=lambda g: g.sequence)

    def save(self, gang: Gang) -> None:
        """Raises InvalidRequest for a gang that could not be read back; nothing is changed then."""
        data = gang_to_bytes(gang)
        self._unsure[gang.id] = None
        self.store.put(GANG_KEY + gang.id, data)
        del self._unsure[gang.id]

    def drop(self, gang: Gang) -> None:
        """The record goes last, so that a kill before it only repeats the rest. Why the gang was given up stays."""
        if gang.failed:
            self._failed += 1
            self.store.put(FAILED_KEY + gang.id, failure_to_bytes(Failure(gang.failed, self._failed)))
            self.failures.pop(gang.id, None)
            self.failures[gang.id] = gang.failed  # the last one
        while len(self.failures) > MOST_FAILURES:
            oldest = next(iter(self.failures))
            self.store.delete(FAILED_KEY + oldest)
            del self.failures[oldest]
        for group in gang.groups:
            self.store.delete(MAP_KEY + group)
        self._delete(gang.id)

    def settle(self, gangs: Mapping[str, Gang]) -> None:
        """A write that raised may have been done all the same. Its record is made what memory says before any other is
        written: else the devices of a gang that was refused are given to the next one, and after a start the store has
        both. Raises as the store does while it still fails."""
        for gang_id in list(self._unsure):
            gang = gangs.get(gang_id)
            if gang is None:
                self._delete(gang_id)
            else:
                self.save(gang)

    def set_aside(self, gang_id: str, reason: str) -> None:
        """A gang whose record reads well and cannot be true."""
        self.aside.put(GANG_KEY + gang_id, self.store.get(GANG_KEY + gang_id) or b"", reason)

    def _delete(self, gang_id: str) -> None:
        self._unsure[gang_id] = None
        self.store.delete(GANG_KEY + gang_id)
        del self._unsure[gang_id]

    # -- those aside

    def unread(self, gang_id: str) -> Unread | None:
        """The record of a gang, or of a key, that lies aside."""
        return self.aside.records.get(GANG_KEY + gang_id) or self.aside.records.get(gang_id)

    def left_alone(self, view: RayView) -> list[Allocation]:
        """For gangs whose record lies aside, every attempt at workers that they may have: these are left alone, until
        the gang's program or placement group is known to be gone, or somebody lets the record go."""
        found = []
        for key, unread in self.aside.records.items():
            traces = self.traces(unread)
            ended = traces.group is not None and traces.group not in view.groups
            orphaned = traces.owner is not None and traces.owner not in view.jobs
            if key.startswith(GANG_KEY) and not ended and not orphaned:
                epochs = range(MOST_EPOCHS if traces.moves is None else 1 + traces.moves)
                found += [Allocation(key.removeprefix(GANG_KEY), (), epoch) for epoch in epochs]
        return found

    def traces(self, unread: Unread) -> Traces:
        """What can be told of a gang whose record lies aside."""
        if unread.key not in self._traces:
            self._traces[unread.key] = traces_of(unread.data)
        return self._traces[unread.key]


def _readable(key: str, data: bytes, held: dict[object, str]) -> Gang:
    """The gang of a record. `held`: device or placement group -> gang, of the records before; two that claim one cannot
    both be true, and the one read first is kept. Raises RayDraError."""
    gang = gang_from_bytes(data)
    if gang.id != key:
        raise RayDraError("The record is of another gang than its key says.", wanted=ascii(key), available=gang.id)
    devices = [] if gang.holds is None else [_device(g) for g in gang.holds.held_grants if g.alone]
    for what, claimed in (("device", devices), ("placement group", gang.groups)):
        twice = next((held[each] for each in claimed if each in held), None)
        if twice is not None:
            raise RayDraError(f"The record claims a {what} that another gang has.", wanted=gang.id, available=twice)
    held |= dict.fromkeys([*devices, *gang.groups], gang.id)
    return gang


def _device(grant: Grant) -> object:
    return (grant.node, grant.device)
