"""AMD's and Intel's GPUs of a container, by a copy of what the kernel shows; no hardware has shown it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ray_dra.adapters import drm
from ray_dra.core.model.node import Node
from ray_dra.processes.join_gang import difference, parts_of
from ray_dra.processes.start_hook import other_node_here, visible_on
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
    assert drm.rendered(AMD.pci, root) == (("0000:05:00.0", ""), ("0000:26:00.0", ""))
    assert drm.rendered(INTEL.pci, root) == ()
    assert drm.rendered(AMD.pci, tmp_path / "nothing") == ()


@pytest.mark.parametrize("vendor", [AMD, INTEL], ids=lambda vendor: vendor.name)
def test_a_worker_proves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: Vendor) -> None:
    root, found_in = kernel(tmp_path, here=(128, 130), firm=vendor.pci), drm.rendered
    monkeypatch.setattr(drm, "rendered", lambda pci: found_in(pci, root))
    made = other_node_here("n1")
    assert isinstance(made, Node)
    planned = ("n1/0000:05:00.0", "n1/0000:46:00.0")
    assert difference(PlannedSlot(planned, "box.n1"), made) == ""
    assert "the container has" in difference(PlannedSlot(planned[:1], None), made)
    assert "planned were n2/" in difference(PlannedSlot(("n2/0000:05:00.0", "n2/0000:46:00.0"), None), made)
    assert {device.device_class for device in made.devices} == {vendor.device_class}
    monkeypatch.setattr(drm, "rendered", lambda pci: ())
    assert other_node_here("n1") is None


def partitions(root: Path, modes: dict[str, str], *, here: tuple[int, ...]) -> Path:
    """As AMD's compute driver shows GPUs of these compute modes, memory mode NPS4: the first partition is the PCI
    function, the others are platform devices. `here`: render nodes that the container has; of others it reads nothing.
    """
    nodes, functions = root / "sys/class/kfd/kfd/topology/nodes", root / "sys/bus/pci/devices"
    (nodes / "0").mkdir(parents=True)
    (nodes / "0" / "properties").write_text("cpu_cores_count 64\ndrm_render_minor 0\n")
    minor = 128
    for gpu, (bus, mode) in enumerate(modes.items()):
        function = functions / bus
        function.mkdir(parents=True)
        for name, said in (
            ("vendor", AMD.pci),
            ("current_compute_partition", mode),
            ("current_memory_partition", "NPS4"),
        ):
            (function / name).write_text(f"{said}\n")
        for number in range(8 if mode == "CPX" else 1):
            drawn = root / f"sys/class/drm/renderD{minor}"
            drawn.mkdir(parents=True)
            platform = root / f"sys/devices/platform/amdgpu_xcp_{minor}"
            platform.mkdir(parents=True)
            (drawn / "device").symlink_to(platform if number else function)
            folder = nodes / str(1 + 8 * gpu + number)
            folder.mkdir()
            at = int(bus[5:7], 16) << 8 | (number << 28 if mode == "CPX" else 0)
            if minor in here:
                (folder / "properties").write_text(
                    f"drm_render_minor {minor}\nlocation_id {at}\ndomain 0\nsimd_count 4\n"
                )
            minor += 1
    dri = root / "dev" / "dri"
    dri.mkdir(parents=True)
    for number in here:
        (dri / f"renderD{number}").touch()
    return root


def test_a_worker_proves_its_partitions_and_sees_them_in_the_planned_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = {"0000:05:00.0": "CPX", "0000:26:00.0": "SPX", "0000:46:00.0": "CPX"}
    root, found_in = partitions(tmp_path, modes, here=(128, 130, 137, 138, 144)), drm.rendered
    found = found_in(AMD.pci, root)
    assert Counter(found) == {("0000:05:00.0", "cpx_nps4"): 2, ("0000:46:00.0", "cpx_nps4"): 3}
    monkeypatch.setattr(drm, "rendered", lambda pci: found_in(pci, root))
    made = other_node_here("n1")
    assert visible_on(made) == AMD.visible
    gpus = ("n1/0000:05:00.0", "n1/0000:46:00.0")
    parts = tuple((gpus[at], "cpx_nps4", None) for at in (1, 0, 1, 0, 1))
    planned = PlannedSlot((), None, parts)
    assert difference(planned, made) == ""
    assert parts_of(planned, made) == ("2", "0", "3", "1", "4")
    for wrong in (parts[1:], (*parts, parts[0]), (*parts[1:], (gpus[0], "cpx_nps4", None))):
        assert "the container has cpx_nps4 of n1/" in difference(PlannedSlot((), None, wrong), made)
    other = tuple((gpu, "dpx_nps4", None) for gpu, _, _ in parts)
    assert difference(PlannedSlot((), None, other), made)
    with_whole = partitions(tmp_path / "more", modes, here=(128, 136))
    monkeypatch.setattr(drm, "rendered", lambda pci: found_in(pci, with_whole))
    assert difference(PlannedSlot((), None, parts[1:2]), other_node_here("n1")), "a GPU that nobody planned"
