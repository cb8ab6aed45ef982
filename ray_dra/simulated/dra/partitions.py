"""What MIG adds to the devices that are published: capacities of parts, and the counters that they share.

Pure, as `devices`, its only caller. Static parts say their memory slices as capacities; dynamic ones consume counters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ray_dra.simulated.profile import MigProfile, Profile

ENGINES = ("copyEngines", "decoders", "encoders", "jpegEngines", "ofaEngines")
Quantities = dict[str, dict[str, str]]
Place = tuple[int, int, int]  # of a part: its GPU, its profile's id, its first memory slice


_NAME = re.compile(r"gpu-(\d+)-mig-.+-(\d+)-(\d+)")


def part_name(gpu: int, mig: MigProfile, start: int) -> str:
    kind = mig.profile.replace(".", "").replace("+", "-")
    return f"gpu-{gpu}-mig-{kind}-{mig.id}-{start}"


def place_of(name: str) -> Place | None:
    """By the published name; None: no part."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def capacities(mig: MigProfile) -> Quantities:
    return _quantities(mig.engines, mig.multiprocessors, mig.memory_mib)


def most_of_all(profile: Profile) -> Quantities:
    """The largest value of each capacity over all profiles: what a whole GPU is worth where it can be parted."""
    return _quantities(
        [max(mig.engines[at] for mig in profile.mig) for at in range(len(ENGINES))],
        max(mig.multiprocessors for mig in profile.mig),
        max(mig.memory_mib for mig in profile.mig),
    )


def memory_slices(start: int, size: int) -> Quantities:
    """As capacities of a static part."""
    return {f"memorySlice{at}": {"value": "1"} for at in range(start, start + size)}


def counter_set(profile: Profile, gpu: int, shares: str = "") -> dict[str, Any]:
    """One a GPU: what its parts, and the GPU as a whole, consume from.

    Args:
        shares: how many claims may have the whole GPU. NVIDIA's driver counts them here, too; nothing consumes them.
    """
    counted: Quantities = {"shares": {"value": shares}} if shares else {}
    return {"name": f"gpu-{gpu}-counter-set", "counters": whole(profile) | counted}


def whole(profile: Profile) -> Quantities:
    return _counters(most_of_all(profile), range(max(mig.span for mig in profile.mig)))


def part(mig: MigProfile, start: int) -> Quantities:
    return _counters(capacities(mig), range(start, start + mig.span))


def _quantities(engines: Iterable[int], multiprocessors: int, memory_mib: int) -> Quantities:
    memory = f"{memory_mib // 1024}Gi" if memory_mib % 1024 == 0 else f"{memory_mib}Mi"  # Kubernetes' own form
    found = {name: {"value": str(n)} for name, n in zip(ENGINES, engines, strict=True)}
    return found | {"multiprocessors": {"value": str(multiprocessors)}, "memory": {"value": memory}}


def _counters(values: Mapping[str, dict[str, str]], slices: Iterable[int]) -> Quantities:
    """Counters are named as DNS labels, capacities in camel case."""
    named = {"".join(f"-{c.lower()}" if c.isupper() else c for c in name): value for name, value in values.items()}
    return named | {f"memory-slice-{at}": {"value": "1"} for at in slices}
