"""Dynamic parts on the machine, made for a claim and destroyed after it; MIG mode is on while there are any.

`prepare` calls it under its lock, and decides which parts are still wanted. What the hardware refuses is a
SimulationError.
"""

from __future__ import annotations

from ray_dra.simulated.dra.partitions import Place
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.mig import Part
from ray_dra.simulated.profile import MigProfile


class Parts:
    """The parts of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def there(self) -> set[Place]:
        return {(part.gpu, part.profile, part.start) for part in self._machine.mig_state().parts}

    def make(self, gpu: int, mig: MigProfile, start: int, *, reuse: bool) -> Part:
        """A new part, with MIG mode where it is off.

        Args:
            reuse: take the one that is there already, which another claim has.
        """
        state = self._machine.mig_state()
        if reuse and (found := state.find(gpu, mig.id, start)) is not None:
            return found
        if gpu not in state.on:
            self._machine.mig_mode(gpu, True)
        return self._machine.create_part(gpu, mig, start)

    def destroy(self, place: Place) -> None:
        """Nothing to do is no error."""
        part = self._machine.mig_state().find(*place)
        if part is not None:
            self._machine.destroy_part(part)
        self._end_mode(place[0])

    def end_idle_modes(self) -> None:
        """MIG mode goes off wherever there is no part."""
        for gpu in self._machine.mig_state().on:
            self._end_mode(gpu)

    def _end_mode(self, gpu: int) -> None:
        """Where that needs no reset."""
        state = self._machine.mig_state()
        empty = gpu in state.on and not any(part.gpu == gpu for part in state.parts)
        if empty and not self._machine.node.profile.resets_for_mig:
            self._machine.mig_mode(gpu, False)
