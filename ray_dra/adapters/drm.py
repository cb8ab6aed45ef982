"""Which GPUs a container has that NVML cannot show: its render nodes, and their PCI functions as the kernel shows them.

NVML's counterpart for a gang's worker, as far as its proof needs it: `processes.join_gang`. Needs no library.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_BUS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def bus_ids(pci: str, root: Path = Path("/")) -> tuple[str, ...]:
    """Of the GPUs whose render node is there, sorted. A partition shows none: its device is no PCI function.

    Args:
        pci: the vendor's number, as the kernel writes it.
    """
    found = set()
    for node in (root / "dev" / "dri").glob("renderD*"):
        with suppress(OSError):
            device = (root / "sys" / "class" / "drm" / node.name / "device").resolve()
            if (device / "vendor").read_text().strip() == pci and _BUS.fullmatch(device.name):
                found.add(device.name)
    return tuple(sorted(found))
