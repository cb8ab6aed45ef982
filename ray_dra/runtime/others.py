"""Work that is not ours: Ray's own GPU tasks and placement groups, and which devices they sit on.

Ray counts GPUs in slots and gives slot 3 to a task as "GPU 3". A gang's devices are chosen, so slots and
devices must be kept apart: workers ask here for the devices of their slots. Slots of a gang's bundle map
to the planned devices; other slots map to devices that no gang has, the slot's own where that is free.
Whoever starts with our worker hook asks before it uses a device; others are found by looking at the
raylets' slots.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from ray_dra.core.devices import bits
from ray_dra.core.inventory import Inventory, Seat
from ray_dra.errors import RayDraError
from ray_dra.ports import Ray, RayView, Store

KEY = "slots/"


class Others:
    """Slot maps of each raylet: "" for work outside placement groups, else "<group>/<bundle>"."""

    def __init__(self, store: Store, inventory: Inventory, ray: Ray) -> None:
        self.store = store
        self.inventory = inventory
        self.ray = ray
        self.slots: dict[str, dict[str, dict[int, int]]] = {}
        for key in store.keys(KEY):
            data = store.get(key)
            if data is not None:
                self.slots[key.removeprefix(KEY)] = {
                    owner: {int(s): d for s, d in slots.items()} for owner, slots in json.loads(data).items()
                }
        self._spare: dict[str, Mapping[str, float]] = {}

    def of_bundle(self, raylet: str, owner: str, slots: Iterable[int], planned: tuple[int, ...]) -> list[int]:
        """Positions for part of a gang's bundle: each slot keeps the device it was given first."""
        known = self.slots.setdefault(raylet, {}).setdefault(owner, {})
        for slot in slots:
            if slot not in known:
                free = [p for p in planned if p not in known.values()]
                if not free:
                    raise RayDraError(
                        "Ray gave a bundle more GPU slots than were planned for it.",
                        place=owner,
                        available=f"{len(planned)} GPUs",
                    )
                known[slot] = free[0]
        self._persist(raylet)
        taken = {known[slot] for slot in slots}
        return [p for p in planned if p in taken]

    def of_stranger(self, raylet: str, seat: Seat, slots: Iterable[int], movable: int) -> list[int]:
        """Positions for slots outside our gangs; none that a gang has, except (at last) out of `movable`."""
        known = self.slots.setdefault(raylet, {}).setdefault("", {})
        changed = False
        found = []
        for slot in slots:
            position = known.get(slot)
            if position is None or seat.held >> position & 1:
                position = self._choose(raylet, seat, slot, known, movable)
                known[slot] = position
                changed = True
            found.append(position)
        if changed:
            self._persist(raylet)
        mask = seat.busy
        for position in found:
            mask |= 1 << position
        self.inventory.set_others(seat.name, mask, seat.used_by_others)
        return found

    def _choose(self, raylet: str, seat: Seat, slot: int, known: dict[int, int], movable: int) -> int:
        size = len(seat.grants)
        taken = {p for s, p in known.items() if s != slot}
        if slot < size and not seat.held >> slot & 1 and slot not in taken:
            return slot
        free = [p for p in range(size) if not seat.held >> p & 1 and p not in taken]
        if not free:  # some of `taken` ended without a word
            live = self._live(raylet)
            for other in [s for s in known if s not in live and s != slot]:
                del known[other]
            taken = set(known.values())
            free = [p for p in range(size) if not seat.held >> p & 1 and p not in taken]
        if not free:
            free = [p for p in bits(movable) if p not in taken]
        if not free:
            raise RayDraError(
                "Ray gave out a GPU slot, but gangs hold every GPU of the node.",
                place=seat.name,
                wanted=f"slot {slot}",
            )
        return free[0]

    def _live(self, raylet: str) -> set[int]:
        return {slot for use in self.ray.slots_in_use(raylet) if not use.group for slot in use.slots}

    def forget(self, group: str) -> None:
        """A gang's group is gone: its slots mean nothing any more."""
        for raylet, owners in self.slots.items():
            gone = [o for o in owners if o.partition("/")[0] == group]
            for owner in gone:
                del owners[owner]
            if gone:
                self._persist(raylet)

    def look(self, view: RayView, names: Mapping[str, str], ours: Mapping[str, float], groups: set[str]) -> None:
        """Bring `busy` and the other resources of each node up to date.

        Args:
            names: raylet -> node.
            ours: node -> GPUs that our placed gangs have there.
            groups: the ids of our placement groups.
        """
        reserved: dict[str, float] = {}
        for group in view.groups.values():
            if group.id not in groups and group.state == "CREATED":
                for raylet_id, bundle in zip(group.nodes, group.bundles, strict=False):
                    if raylet_id is not None:
                        reserved[raylet_id] = reserved.get(raylet_id, 0.0) + bundle.get("GPU", 0.0)
        for raylet in view.nodes:
            seat = self.inventory.seats.get(names.get(raylet.id, ""))
            if seat is None or not raylet.alive or seat.node.ray_node_id != raylet.id:
                continue
            used = raylet.total.get("GPU", 0.0) - raylet.available.get("GPU", 0.0)
            strangers = used - ours.get(seat.name, 0.0) > 1e-6
            known = self.slots.get(raylet.id, {}).get("", {})
            busy = 0
            if strangers or known or reserved.get(raylet.id):
                busy = self._busy(raylet.id, seat, known, reserved.get(raylet.id, 0.0), groups)
            self.inventory.set_others(seat.name, busy, self._used(raylet.id, seat, raylet.total, raylet.available))

    def _busy(self, raylet: str, seat: Seat, known: dict[int, int], reserved: float, groups: set[str]) -> int:
        located = in_groups = 0
        live = set()
        for use in self.ray.slots_in_use(raylet):
            if use.group in groups:
                continue
            for slot in use.slots:
                live.add(slot)
                position = known.get(slot, slot)
                if position < len(seat.grants):
                    located |= 1 << position
                    in_groups += bool(use.group)
        ended = [slot for slot in known if slot not in live]
        for slot in ended:
            del known[slot]
        if ended:
            self._persist(raylet)
        # Reserved by a placement group of others, but no worker runs in it yet: some device will be theirs.
        unlocated = round(reserved) - in_groups
        for position in reversed(range(len(seat.grants))):
            if unlocated <= 0:
                break
            if not (located | seat.held) >> position & 1:
                located |= 1 << position
                unlocated -= 1
        return located

    def _used(
        self, raylet: str, seat: Seat, total: Mapping[str, float], available: Mapping[str, float]
    ) -> dict[str, float]:
        """CPU and the like used by others. Ray's view lags, so what two looks agree on counts."""
        now = {
            name: max(0.0, total[name] - available.get(name, 0.0) - seat.used.get(name, 0.0))
            for name in seat.node.resources
        }
        before = self._spare.get(raylet, now)
        self._spare[raylet] = now
        return {name: min(amount, before.get(name, amount)) for name, amount in now.items() if amount}

    def _persist(self, raylet: str) -> None:
        self.store.put(KEY + raylet, json.dumps(self.slots[raylet]).encode())
