"""AMD's and Intel's GPUs of a container, by a copy of what the kernel shows; no hardware has shown it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_dra.adapters import drm
from ray_dra.core.model.node import Node
from ray_dra.processes.join_gang import difference
from ray_dra.processes.start_hook import other_node_here
from ray_dra.translate.files.shared_records import PlannedSlot
from ray_dra.translate.vendors import AMD, INTEL, Vendor


def kernel(root: Path, *, here: tuple[int, ...], firm: str = AMD.pci) -> Path:
    """Three of a vendor's GPUs, a partition, and another firm's; `here`: the render nodes that the container has."""
    pci = root / "sys" / "devices" / "pci0000:00"
    functions = {128: ("0000:05:00.0", firm), 129: ("0000:26:00.0", firm), 130: ("0000:46:00.0", firm)}
    for number, (bus, vendor) in {
        **functions,
        131: ("amdgpu_xcp_0", firm),
        132: ("0000:65:00.0", "0x10de"),
    }.items():
        (pci / bus).mkdir(parents=True)
        (pci / bus / "vendor").write_text(f"{vendor}\n")
        drawn = root / "sys" / "class" / "drm" / f"renderD{number}"
        drawn.mkdir(parents=True)
        (drawn / "device").symlink_to(pci / bus)
    dri = root / "dev" / "dri"
    dri.mkdir(parents=True)
    for number in here:
        (dri / f"renderD{number}").touch()
    return root


def test_a_container_has_the_gpus_of_its_render_nodes(tmp_path: Path) -> None:
    root = kernel(tmp_path, here=(129, 128, 131, 132, 140))
    assert drm.bus_ids(AMD.pci, root) == ("0000:05:00.0", "0000:26:00.0")
    assert drm.bus_ids(INTEL.pci, root) == ()
    assert drm.bus_ids(AMD.pci, tmp_path / "nothing") == ()


@pytest.mark.parametrize("vendor", [AMD, INTEL], ids=lambda vendor: vendor.name)
def test_a_worker_proves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: Vendor) -> None:
    root, found_in = kernel(tmp_path, here=(128, 130), firm=vendor.pci), drm.bus_ids
    monkeypatch.setattr(drm, "bus_ids", lambda pci: found_in(pci, root))
    made = other_node_here("n1")
    assert isinstance(made, Node)
    planned = ("n1/0000:05:00.0", "n1/0000:46:00.0")
    assert difference(PlannedSlot(planned, "box.n1"), made) == ""
    assert "the container has" in difference(PlannedSlot(planned[:1], None), made)
    assert "planned were n2/" in difference(PlannedSlot(("n2/0000:05:00.0", "n2/0000:46:00.0"), None), made)
    assert {device.device_class for device in made.devices} == {vendor.device_class}
    monkeypatch.setattr(drm, "bus_ids", lambda pci: ())
    assert other_node_here("n1") is None
