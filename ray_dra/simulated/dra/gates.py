"""The feature gates of NVIDIA's driver that this one knows, and what of them cannot be on together."""

from __future__ import annotations

from ray_dra.errors import SimulationError

GATES = frozenset(
    {
        "TimeSlicingSettings",
        "MPSSupport",
        "DynamicMIG",
        "PassthroughSupport",
        "NVMLDeviceHealthCheck",
        "ConsumableShares",
        "FabricManagerPartitioning",
        "DRAListTypeAttributes",
    }
)
EXCLUDES = (
    ("DynamicMIG", "MPSSupport"),
    ("DynamicMIG", "PassthroughSupport"),
    ("DynamicMIG", "NVMLDeviceHealthCheck"),
    ("PassthroughSupport", "NVMLDeviceHealthCheck"),
)
SHARES = ("memory", "unlimited")  # or a number; "": the gate is on, and no device is shared


def check_gates(gates: frozenset[str], consumable_shares: str = "") -> None:
    """Raises SimulationError where NVIDIA's driver would not start."""
    if unknown := gates - GATES:
        raise SimulationError(
            f"There is no feature gate {', '.join(sorted(unknown))}.",
            place="--gates",
            available=", ".join(sorted(GATES)),
        )
    for one, other in EXCLUDES:
        if {one, other} <= gates:
            raise SimulationError(f"{one} cannot be on together with {other}.", place="--gates")
    if consumable_shares not in ("", "disabled", *SHARES) and not (
        consumable_shares.isdigit() and int(consumable_shares) > 0
    ):
        raise SimulationError(
            "There is no such way to share.",
            place="--consumable-shares",
            wanted=consumable_shares,
            available=f"{', '.join(SHARES)}, or how many may share a device",
        )
