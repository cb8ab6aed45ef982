"""Which GPUs a container has that NVML cannot show: its render nodes, and what the kernel shows of them.

NVML's counterpart for a gang's worker, as far as its proof needs it: `processes.join_gang`. Needs no library.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_BUS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_WHOLE = "spx"  # the mode of a GPU that is no partitions


class Rendered(NamedTuple):
    """A GPU, or a partition of one.

    Attributes:
        bus: the GPU's.
        profile: of a partition, compute and memory mode; "" for a whole GPU.
    """

    bus: str
    profile: str = ""


def rendered(pci: str, root: Path = Path("/")) -> tuple[Rendered, ...]:
    """The GPUs and partitions whose render nodes are there: partitions in the order in which the compute driver counts
    them, GPUs that it does not have by their buses.

    Args:
        pci: the vendor's number, as the kernel writes it.
    """
    there = {node.name for node in (root / "dev" / "dri").glob("renderD*")}
    gpus: dict[str, str] = {}  # render node -> bus
    for node in there:
        with suppress(OSError):
            device = (root / "sys" / "class" / "drm" / node / "device").resolve()
            if (device / "vendor").read_text().strip() == pci and _BUS.fullmatch(device.name):
                gpus[node] = device.name
    found = []
    for node, bus in _computing(root):
        if node in there and _vendor_of(root, bus) == pci and (profile := _profile(root, bus)):
            gpus.pop(node, None)
            found.append(Rendered(bus, profile))
    return tuple(found) + tuple(map(Rendered, sorted(gpus.values())))


def _computing(root: Path) -> list[tuple[str, str]]:
    """Render node and bus of each device of AMD's compute driver, in its order. The device of a partition is no PCI
    function, and nothing else says of which GPU it is. Of devices that a container has not, this says nothing."""
    found = []
    for folder in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*"), key=lambda f: (len(f.name), f.name)):
        with suppress(OSError, ValueError, KeyError):
            lines = (line.split() for line in (folder / "properties").read_text().splitlines())
            says = {line[0]: int(line[1]) for line in lines if len(line) == 2}
            at = says["location_id"]  # of several partitions the highest bits say which
            bus = f"{says['domain']:04x}:{at >> 8 & 0xFF:02x}:{at >> 3 & 0x1F:02x}.{at & 7}"
            found.append((f"renderD{says['drm_render_minor']}", bus))
    return found


def _vendor_of(root: Path, bus: str) -> str:
    with suppress(OSError):
        return (root / "sys/bus/pci/devices" / bus / "vendor").read_text().strip()
    return ""


def _profile(root: Path, bus: str) -> str:
    """Of a GPU's partitions; "" where it has none."""
    with suppress(OSError):
        function = root / "sys/bus/pci/devices" / bus
        modes = [(function / f"current_{kind}_partition").read_text().strip().lower() for kind in ("compute", "memory")]
        return "" if modes[0] == _WHOLE else "_".join(modes)
    return ""
