"""A machine's MIG state: on which GPUs MIG mode is on, and the parts that are there.

Values and their text alone; `machine` keeps the text in a file that the NVML library writes, too, so that whoever
changes MIG through NVML changes the machine. What the hardware refuses is refused here: a part where another lies, or
one more than the GPU has slices or media extensions for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ray_dra.errors import SimulationError
from ray_dra.simulated.profile import MigProfile, Profile

COMPUTE_SLICES = 7
NO_COMPUTE = -1  # a GPU instance in which no compute instance was made yet


@dataclass(frozen=True, slots=True)
class Part:
    """One GPU instance, and the compute instance that fills it.

    Args:
        profile: the id of its MIG profile.
        start: the first of its memory slices, `size` their number.
        uuid: "" while it has no compute instance; another one at each creation.
    """

    gpu: int
    gpu_instance: int
    compute_instance: int
    profile: int
    start: int
    size: int
    uuid: str


@dataclass(frozen=True)
class MigState:
    """`pending`: the GPUs on which MIG mode is on after their next reset."""

    on: frozenset[int] = frozenset()
    pending: frozenset[int] = frozenset()
    parts: tuple[Part, ...] = ()

    def of(self, gpu: int) -> tuple[Part, ...]:
        """A GPU's parts that can be used, in the order of their places, which is NVML's."""
        return tuple(sorted((p for p in self.parts if p.gpu == gpu and p.uuid), key=lambda p: p.start))

    def find(self, gpu: int, profile: int, start: int) -> Part | None:
        return next((p for p in self.parts if (p.gpu, p.profile, p.start) == (gpu, profile, start)), None)

    def with_mode(self, gpu: int, on: bool, *, now: bool) -> MigState:
        """MIG mode changed, at once or with the next reset. Parts keep it on."""
        if not on and any(part.gpu == gpu for part in self.parts):
            raise SimulationError("MIG mode cannot be turned off while there are parts.", place=f"GPU {gpu}")
        pending = self.pending | {gpu} if on else self.pending - {gpu}
        if not now:
            return replace(self, pending=pending)
        return replace(self, on=self.on | {gpu} if on else self.on - {gpu}, pending=pending)

    def with_part(self, profile: Profile, gpu: int, mig: MigProfile, start: int, uuid: str) -> tuple[MigState, Part]:
        """A part made. Raises SimulationError, as the hardware refuses."""
        mine = [part for part in self.parts if part.gpu == gpu]
        if reason := _why_not(profile, mine, mig, start, gpu in self.on):
            raise SimulationError(reason, place=f"GPU {gpu}", wanted=f"{mig.profile} at memory slice {start}")
        used = {part.gpu_instance for part in mine}
        number = next(n for n in range(1, len(used) + 2) if n not in used)
        part = Part(gpu, number, 0, mig.id, start, mig.span, uuid)
        return replace(self, parts=(*self.parts, part)), part

    def without(self, part: Part) -> MigState:
        return replace(self, parts=tuple(p for p in self.parts if p != part))


def _why_not(profile: Profile, mine: Iterable[Part], mig: MigProfile, start: int, on: bool) -> str:
    if not on:
        return "MIG mode is off."
    if start not in mig.starts:
        return "The profile has no such place."
    parts = list(mine)
    wanted = set(range(start, start + mig.span))
    if any(wanted & set(range(part.start, part.start + part.size)) for part in parts):
        return "The place is taken."
    kinds = [profile.mig_profile(part.profile) for part in parts]
    if sum(kind.slices for kind in kinds) + mig.slices > COMPUTE_SLICES:
        return "The GPU has no compute slice left."
    if mig.media and any(kind.media for kind in kinds):
        return "The GPU's media extensions are taken."
    return ""


def to_text(state: MigState) -> str:
    """`mode GPU NOW PENDING`, `gi GPU ID PROFILE START SIZE`, `ci GPU GI ID UUID`: a line a fact."""
    lines = [
        f"mode {gpu} {int(gpu in state.on)} {int(gpu in state.pending)}" for gpu in sorted(state.on | state.pending)
    ]
    for part in state.parts:
        lines.append(f"gi {part.gpu} {part.gpu_instance} {part.profile} {part.start} {part.size}")
        if part.uuid:
            lines.append(f"ci {part.gpu} {part.gpu_instance} {part.compute_instance} {part.uuid}")
    return "".join(f"{line}\n" for line in lines)


def from_text(text: str) -> MigState:
    modes: dict[int, tuple[int, int]] = {}
    instances: dict[tuple[int, int], Part] = {}
    for line in text.splitlines():
        match line.split():
            case ["mode", gpu, now, pending]:
                modes[int(gpu)] = (int(now), int(pending))
            case ["gi", *numbers]:
                gpu_, number, kind, start, size = map(int, numbers)
                instances[gpu_, number] = Part(gpu_, number, NO_COMPUTE, kind, start, size, "")
            case ["ci", gpu, number_, compute, uuid]:
                key = (int(gpu), int(number_))
                instances[key] = replace(instances[key], compute_instance=int(compute), uuid=uuid)
    return MigState(
        frozenset(gpu for gpu, (now, _) in modes.items() if now),
        frozenset(gpu for gpu, (_, pending) in modes.items() if pending),
        tuple(instances.values()),
    )
