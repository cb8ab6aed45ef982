"""What NVIDIA's driver says of the configurations of claims: yes or no, and what ours says where it differs.

Its answers are those of its webhook at 0.4.1 (2026-06-30) and at 0.5.0-dev (2026-08-07), which
`tests/cluster/test_nvidia_admission.py` asks again by hand. Ours are the simulated driver's (`test_nvidia_answers.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_dra.translate.names import COMPUTE_DOMAIN_API


@dataclass(frozen=True)
class Said:
    """An object and what is said of it.

    Attributes:
        parts: its fields beside apiVersion and kind.
        gates: what is off by itself is on.
        ours: None: as NVIDIA's.
        since: the first version that says so; before it was the opposite.
    """

    name: str
    kind: str
    parts: dict[str, Any]
    theirs: bool
    ours: bool | None = None
    why: str = ""
    gates: bool = True
    since: tuple[int, int] = (0, 0)

    @property
    def thing(self) -> dict[str, Any]:
        return {"apiVersion": COMPUTE_DOMAIN_API, "kind": self.kind, **self.parts}

    @property
    def taken(self) -> bool:
        """By ours."""
        return self.theirs if self.ours is None else self.ours


def _sharing(strategy: str, **config: Any) -> dict[str, Any]:
    return {"sharing": {"strategy": strategy, **config}}


def _mps(**config: Any) -> dict[str, Any]:
    return _sharing("MPS", mpsConfig=config)


def _slices(**config: Any) -> dict[str, Any]:
    return _sharing("TimeSlicing", timeSlicingConfig=config)


GPU, MIG, CHANNEL, DAEMON = "GpuConfig", "MigDeviceConfig", "ComputeDomainChannelConfig", "ComputeDomainDaemonConfig"
_LATER = "theirs refuses it when the claim is readied"
_ENDS = "theirs ends"

CONFIGS = (
    Said("nothing", GPU, {}, True),
    Said("time slices", GPU, _slices(interval="Short"), True),
    Said("time slices without their gate", GPU, _slices(interval="Short"), False, gates=False),
    Said("the usual time slice", GPU, _sharing("TimeSlicing"), True),
    Said("another interval", GPU, _slices(interval="Eternal"), False),
    Said("an interval in small letters", GPU, _slices(interval="short"), False),
    Said("time slices that say nothing", GPU, _slices(), False, why=_ENDS),
    Said("both settings", GPU, _sharing("TimeSlicing", mpsConfig={}), True, False, _LATER),
    Said("both settings, MPS", GPU, _sharing("MPS", timeSlicingConfig={"interval": "Long"}), True, False, _LATER),
    Said("another strategy", GPU, _sharing("Exclusive"), False),
    Said("no strategy", GPU, {"sharing": {}}, False),
    Said("MPS", GPU, _sharing("MPS"), True),
    Said("MPS without its gate", GPU, _sharing("MPS"), False, gates=False),
    Said("MPS, no limits", GPU, _mps(), True),
    Said("a quarter", GPU, _mps(defaultActiveThreadPercentage=25, defaultPinnedDeviceMemoryLimit="20Gi"), True),
    Said("all threads", GPU, _mps(defaultActiveThreadPercentage=100), True),
    Said("no threads", GPU, _mps(defaultActiveThreadPercentage=0), True),
    Said("more than all threads", GPU, _mps(defaultActiveThreadPercentage=101), False),
    Said("fewer threads than none", GPU, _mps(defaultActiveThreadPercentage=-1), False),
    Said("half a percent", GPU, _mps(defaultActiveThreadPercentage=0.5), False),
    Said("threads as a word", GPU, _mps(defaultActiveThreadPercentage="25"), False),
    Said("memory as a number", GPU, _mps(defaultPinnedDeviceMemoryLimit=1 << 30), True),
    Said("memory with an exponent", GPU, _mps(defaultPinnedDeviceMemoryLimit="2e10"), True),
    Said("memory that is none", GPU, _mps(defaultPinnedDeviceMemoryLimit="much"), False),
    Said("memory in bytes by name", GPU, _mps(defaultPinnedDeviceMemoryLimit="20GiB"), False),
    Said("less memory than none", GPU, _mps(defaultPinnedDeviceMemoryLimit="-1Gi"), True, False, _LATER),
    Said("memory of two GPUs", GPU, _mps(defaultPerDevicePinnedMemoryLimit={"0": "1Gi", "GPU-a": "2Gi"}), True),
    Said("memory of a GPU that is none", GPU, _mps(defaultPerDevicePinnedMemoryLimit={"0": "x"}), False),
    Said("memory of GPUs as a list", GPU, _mps(defaultPerDevicePinnedMemoryLimit=["1Gi"]), False),
    Said("many users", GPU, _mps(multiUser=True), True, since=(0, 5)),
    Said("a field that nobody knows", GPU, {"shareing": {}}, False),
    Said("a field within", GPU, _mps(threads=25), False),
    Said("a field in small letters", GPU, _sharing("MPS", mpsconfig={}), False),
    Said("metadata", GPU, {"metadata": {"name": "x"}}, False),
    Said("sharing as a word", GPU, {"sharing": "MPS"}, False),
    Said("nothing of a part", MIG, {}, True),
    Said("MPS of a part", MIG, _mps(defaultActiveThreadPercentage=50), True),
    Said("time slices of a part", MIG, _sharing("TimeSlicing"), True),
    Said("how long, of a part", MIG, _slices(interval="Short"), False),
    Said("another strategy of a part", MIG, _sharing("Exclusive"), False),
    Said("a channel", CHANNEL, {"domainID": "u-1", "allocationMode": "Single"}, True),
    Said("all channels", CHANNEL, {"domainID": "u-1", "allocationMode": "All"}, True),
    Said("a channel, no mode", CHANNEL, {"domainID": "u-1"}, True),
    Said("a channel, another mode", CHANNEL, {"domainID": "u-1", "allocationMode": "Some"}, True),
    Said("a channel of no domain", CHANNEL, {"allocationMode": "Single"}, False),
    Said("a channel of an empty domain", CHANNEL, {"domainID": ""}, False),
    Said("a channel, a field more", CHANNEL, {"domainID": "u-1", "channels": 2}, False),
    Said("a daemon", DAEMON, {"domainID": "u-1"}, True),
    Said("a daemon of no domain", DAEMON, {}, False),
    Said("a daemon with a mode", DAEMON, {"domainID": "u-1", "allocationMode": "All"}, False),
    Said("another kind", "TpuConfig", {}, False),
)
