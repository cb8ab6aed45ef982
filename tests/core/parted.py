"""GPUs in parts for the core's tests, and Kubernetes' allocator in its plainest form: what the planner foresees is held
against it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import Part, PartCriteria, PartedGpu
from ray_dra.core.model.request import Bundle, DeviceRequest
from tests.core.machines import node

GIGABYTE = 10**9

# facts: NVIDIA's table of an H100 80GB: (profile, memory slices, starts, multiprocessors)
H100 = (
    ("1g.10gb", 1, (0, 1, 2, 3, 4, 5, 6), 16),
    ("1g.20gb", 2, (0, 2, 4, 6), 26),
    ("2g.20gb", 2, (0, 2, 4), 32),
    ("3g.40gb", 4, (0, 4), 60),
    ("4g.40gb", 4, (0,), 64),
    ("7g.80gb", 8, (0,), 132),
)
# A GPU small enough to be searched as a whole.
SMALL = (("1g.1gb", 1, (0, 1, 2), 1), ("2g.2gb", 2, (0, 2), 2), ("3g.2gb", 2, (0,), 3))

Table = Sequence[tuple[str, int, Sequence[int], int]]


def parted(name: str, at: int, table: Table = H100, *, static: Sequence[str] = ()) -> PartedGpu:
    """GPU number `at` of a node: with all the parts that can be made of it, or with those that are there."""
    uuid = f"GPU-{name}-{at}"
    if static:
        return PartedGpu(
            uuid,
            tuple(
                Part(
                    DeviceId("gpu.nvidia.com", name, f"gpu-{at}-mig-{i}"),
                    profile,
                    f"MIG-{name}-{at}-{i}",
                    size(profile),
                )
                for i, profile in enumerate(static)
            ),
        )
    parts = [
        Part(
            DeviceId("gpu.nvidia.com", name, f"gpu-{at}-mig-{profile.replace('.', '')}-{number}-{start}"),
            profile,
            None,
            size(profile),
            (("multiprocessors", sms), *((f"memory-slice-{i}", 1) for i in range(start, start + span))),
        )
        for number, (profile, span, starts, sms) in enumerate(table)
        for start in starts
    ]
    slices = 1 + max(start + span - 1 for _, span, starts, _ in table for start in starts)
    counters = (
        ("multiprocessors", max(132 if table is H100 else 0, slices)),
        *((f"memory-slice-{i}", 1) for i in range(slices)),
    )
    return PartedGpu(uuid, tuple(sorted(parts, key=lambda part: part.id.device)), counters, position=at)


def size(profile: str) -> int:
    return int(profile.partition(".")[2].removesuffix("gb")) * GIGABYTE


def parted_node(
    name: str, gpus: int, table: Table = H100, *, resources: dict[str, float] | None = None, box: bool = True
) -> Node:
    """A node of which each GPU can be given in parts."""
    made = node(name, gpus, box=box, resources=resources or {})
    return replace(made, parted=tuple(parted(name, at, table) for at in range(gpus)))


def bundle(profile: str = "", *, memory: int = 0, **resources: float) -> Bundle:
    return Bundle((DeviceRequest(1, part=PartCriteria(profile, memory)),), resources)


def together(gpu: PartedGpu, parts: Iterable[Part]) -> bool:
    """Whether these can all be had at once, counter by counter."""
    left = dict(gpu.counters)
    chosen = list(parts)
    for part in chosen:
        for counter, amount in part.consumes:
            left[counter] -= amount
    return min(left.values(), default=0) >= 0 and len({part.id for part in chosen}) == len(chosen)


def allocated(gpu: PartedGpu, taken: Sequence[Part], profiles: Sequence[str]) -> list[Part] | None:
    """What Kubernetes' allocator gives a claim that wants parts of these profiles, in this order: the first devices in
    their order that will do, going back within the claim; None: nothing."""
    if not profiles:
        return []
    for part in gpu.parts:
        if part.profile == profiles[0] and together(gpu, [*taken, part]):
            rest = allocated(gpu, [*taken, part], profiles[1:])
            if rest is not None:
                return [part, *rest]
    return None
