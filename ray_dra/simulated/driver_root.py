"""A folder that looks as NVIDIA's driver installed: what NVIDIA's own DRA driver needs to run on a simulated machine.

`python -m ray_dra.simulated.driver_root FOLDER --profile hgx-h100` makes it (docs/real-driver.md). The library in it
finds its machine by where it lies, so nothing has to be said by the environment. Device nodes open nothing; without the
right to make some, plain files stand for them. Neighbours: `machine`, whose folder lies within; `library`, which
compiles.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ray_dra.simulated.library import NAME, library_folder
from ray_dra.simulated.machine import DRIVER_VERSION, Machine
from ray_dra.simulated.profile import SimulatedNode, load_profile

MACHINE = "machine"  # where the library looks for it, in the root
MAJORS = {"nvidia": 195, "nvidia-uvm": 510, "nvidia-caps": 511, "nvidia-caps-imex-channels": 509}
INSTANCES, PER_GPU = (
    8,
    135,
)  # GPU instances with device nodes here, and capabilities of one GPU as the kernel driver counts
SMI = """\
#!/bin/sh
# Of nvidia-smi what NVIDIA's DRA driver calls: it writes down what it was asked, and succeeds.
root=$(dirname "$0")/../..
echo "$*" >> "$root/nvidia-smi.log"
case "$1" in
-L) sed -n 's/^gpu \\([0-9]*\\) \\([^ ]*\\) .*/GPU \\1: (UUID: \\2)/p' "$root/machine/machine.txt" ;;
esac
"""


def make_driver_root(folder: Path, node: SimulatedNode) -> Machine:
    """The driver's root, with the machine in it: a new one, or the one that is there where it is the same."""
    machine = Machine.kept(folder / MACHINE, node)
    library, programs = folder / "usr" / "lib64", folder / "usr" / "bin"
    for each in (library, programs):
        each.mkdir(parents=True, exist_ok=True)
    versioned = library / f"{NAME.removesuffix('.1')}.{DRIVER_VERSION}"
    shutil.copy(library_folder() / NAME, versioned)
    _link(library / NAME, versioned.name)
    (programs / "nvidia-smi").write_text(SMI)
    (programs / "nvidia-smi").chmod(0o755)
    for path, major, minor in _devices(node.profile.gpus):
        _device(folder / "dev" / path, major, minor)
    _files(folder / "proc", node)
    _pci(folder / "sys", node)
    return machine


def _devices(gpus: int) -> Iterator[tuple[str, int, int]]:
    for gpu in range(gpus):
        yield f"nvidia{gpu}", MAJORS["nvidia"], gpu
    yield from (("nvidiactl", MAJORS["nvidia"], 255), ("nvidia-modeset", MAJORS["nvidia"], 254))
    yield from (("nvidia-uvm", MAJORS["nvidia-uvm"], 0), ("nvidia-uvm-tools", MAJORS["nvidia-uvm"], 1))
    for minor in sorted(_capabilities(gpus).values()):
        yield f"nvidia-caps/nvidia-cap{minor}", MAJORS["nvidia-caps"], minor
    yield "nvidia-caps-imex-channels/channel0", MAJORS["nvidia-caps-imex-channels"], 0


def _capabilities(gpus: int) -> dict[str, int]:
    """Minor numbers of MIG's capabilities, as the kernel driver counts them."""
    found = {"config": 1, "monitor": 2}
    for gpu in range(gpus):
        for instance in range(INSTANCES):
            first = 3 + gpu * PER_GPU + instance * 9
            found[f"gpu{gpu}/gi{instance}/access"] = first
            found[f"gpu{gpu}/gi{instance}/ci0/access"] = first + 1
    return found


def _device(path: Path, major: int, minor: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(major, minor))
        path.chmod(0o666)  # whatever the umask
    except PermissionError:
        path.touch()


def _files(proc: Path, node: SimulatedNode) -> None:
    """What is read of /proc: majors, and which minor is which capability."""
    for name, minor in _capabilities(node.profile.gpus).items():
        inside = f"mig/{name}" if "/" not in name else name.replace("/", "/mig/", 1)
        file = proc / "driver" / "nvidia" / "capabilities" / inside
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    minors = proc / "driver" / "nvidia-caps" / "mig-minors"
    minors.parent.mkdir(parents=True, exist_ok=True)
    minors.write_text("".join(f"{name} {at}\n" for name, at in _capabilities(node.profile.gpus).items()))
    lines = "".join(f"{major} {name}\n" for name, major in sorted(MAJORS.items(), key=lambda each: each[1]))
    (proc / "devices").write_text(f"Character devices:\n{lines}\nBlock devices:\n")


def _pci(sys: Path, node: SimulatedNode) -> None:
    """The GPUs on the PCI bus, with their NUMA nodes and roots."""
    profile = node.profile
    listed = sys / "bus" / "pci" / "devices"
    listed.mkdir(parents=True, exist_ok=True)
    for gpu in range(profile.gpus):
        address = f"0000:{0x10 + gpu:02x}:00.0"
        device = sys / "devices" / f"pci0000:{profile.pcie_root(gpu):02x}" / address
        device.mkdir(parents=True, exist_ok=True)
        numa = profile.numa[gpu] if profile.numa else -1
        for name, value in (
            ("vendor", f"0x{profile.pci_device_id & 0xFFFF:04x}"),
            ("device", f"0x{profile.pci_device_id >> 16:04x}"),
            ("class", "0x030200"),
            ("subsystem_vendor", "0x10de"),
            ("subsystem_device", "0x0000"),
            ("numa_node", str(numa)),
            ("resource", "0x0000000000000000 0x0000000000000000 0x0000000000000000"),
        ):
            (device / name).write_text(f"{value}\n")
        (device / "config").write_bytes(bytes(64))
        _link(listed / address, os.path.relpath(device, listed))


def _link(path: Path, to: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def main(
    folder: Annotated[Path, typer.Argument(help="The driver's root, made or brought up to date.")],
    profile: Annotated[str, typer.Option(help="Which machine (ray-dra profiles).")] = "hgx-h100",
    name: Annotated[str, typer.Option(help="The node's name, from which the GPUs' UUIDs are made.")] = "node",
    rack: Annotated[str, typer.Option(help="Of a machine in a rack.")] = "0",
    tray: Annotated[int, typer.Option(help="Of a machine in a rack.")] = 0,
) -> None:
    """A folder for NVIDIA's DRA driver to run on, as if its driver were installed there."""
    chosen = load_profile(profile)
    node = SimulatedNode(name=name, profile=chosen)
    if chosen.fabric == "rack":
        node = SimulatedNode(name=name, profile=chosen, rack=f"{chosen.name}/{rack}", tray=tray)
    make_driver_root(folder, node)
    print(folder)


if __name__ == "__main__":
    typer.run(main)
