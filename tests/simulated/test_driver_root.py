"""A driver's root: all that NVIDIA's DRA driver looks for, and a library that knows its machine without being told."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ray_dra.simulated.driver_root import make_driver_root
from ray_dra.simulated.profile import simulated_nodes

COUNT = "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(1)))"


def python(code: str, root: Path) -> str:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(root / "usr" / "lib64")}
    environment.pop("RAY_DRA_SIMULATED_NVML", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_library_in_it_knows_its_machine(tmp_path: Path) -> None:
    node = simulated_nodes("hgx-h100")[0]
    machine = make_driver_root(tmp_path / "root", node)
    assert python(COUNT, tmp_path / "root") == node.uuid(1)
    # Moved as a whole, as by a mount, it still does; and what it changes is that machine.
    moved = tmp_path / "elsewhere"
    (tmp_path / "root").rename(moved)
    code = "import pynvml as n; n.nvmlInit(); n.nvmlDeviceSetMigMode(n.nvmlDeviceGetHandleByIndex(2), 1)"
    python(code, moved)
    assert type(machine)(moved / "machine").mig_state().on == {2}


def test_device_nodes_limit_what_a_container_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVIDIA's driver fills it: a node a GPU, and for a part its GPU's and those of its capabilities."""
    node = simulated_nodes("hgx-h100")[0]
    machine = make_driver_root(tmp_path / "root", node)
    first, second = machine.mig(1, "1g.10gb", "3g.40gb")
    dev = tmp_path / "dev"
    minor = 3 + 1 * 135 + second.gpu_instance * 9
    for name in (
        "nvidia1",
        "nvidia6",
        "nvidiactl",
        f"nvidia-caps/nvidia-cap{minor}",
        f"nvidia-caps/nvidia-cap{minor + 1}",
    ):
        (dev / name).parent.mkdir(parents=True, exist_ok=True)
        (dev / name).touch()
    monkeypatch.setenv("RAY_DRA_SIMULATED_DEV", str(dev))
    code = """
import json, pynvml as n
n.nvmlInit()
gpus = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
def parts(gpu):
    for at in range(n.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            yield n.nvmlDeviceGetUUID(n.nvmlDeviceGetMigDeviceHandleByIndex(gpu, at))
        except n.NVMLError_NotFound:
            pass
print(json.dumps([[n.nvmlDeviceGetUUID(gpu), n.nvmlDeviceGetMinorNumber(gpu), *parts(gpu)] for gpu in gpus]))
"""
    assert json.loads(python(code, tmp_path / "root")) == [[node.uuid(1), 1, second.uuid], [node.uuid(6), 6]]
    assert first in machine.mig_state().parts


def test_it_has_what_the_driver_looks_for(tmp_path: Path) -> None:
    node = simulated_nodes("gb200-nvl72")[0]
    make_driver_root(tmp_path, node)
    library = tmp_path / "usr" / "lib64" / "libnvidia-ml.so.1"
    assert library.is_symlink()
    assert library.resolve().name == "libnvidia-ml.so.580.65.06"
    nodes = {path.name for path in (tmp_path / "dev").iterdir()}
    assert {"nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"} <= nodes
    assert (tmp_path / "dev" / "nvidia-caps-imex-channels" / "channel0").exists()
    majors = dict(
        line.split()[::-1] for line in (tmp_path / "proc" / "devices").read_text().splitlines() if line[:1].isdigit()
    )
    if os.geteuid() == 0 and stat.S_ISCHR((device := (tmp_path / "dev" / "nvidia3").stat()).st_mode):
        assert (os.major(device.st_rdev), os.minor(device.st_rdev)) == (int(majors["nvidia"]), 3)
    minors = dict(line.split() for line in (tmp_path / "proc/driver/nvidia-caps/mig-minors").read_text().splitlines())
    assert minors["gpu0/gi1/access"] == "12"
    assert minors["gpu1/gi0/ci0/access"] == "139"
    assert all((tmp_path / "dev" / "nvidia-caps" / f"nvidia-cap{minor}").exists() for minor in minors.values())
    assert len(set(minors.values())) == len(minors)
    capability = tmp_path / "proc/driver/nvidia/capabilities/gpu1/mig/gi0/ci0/access"
    assert capability.read_text().splitlines()[0] == "DeviceFileMinor: 139"
    gpu = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:12:00.0"
    assert gpu.resolve().parent.name == "pci0000:10"
    assert (gpu / "numa_node").read_text() == "1\n"
    assert ((gpu / "vendor").read_text(), (gpu / "device").read_text()) == ("0x10de\n", "0x2941\n")


@pytest.mark.parametrize("asked", ["-L", "compute-policy -i GPU-a --set-timeslice 3"])
def test_nvidia_smi_writes_down_what_it_was_asked(asked: str, tmp_path: Path) -> None:
    node = simulated_nodes("l40s-pcie")[0]
    make_driver_root(tmp_path, node)
    smi = tmp_path / "usr" / "bin" / "nvidia-smi"
    said = subprocess.run([smi, *asked.split()], capture_output=True, text=True, check=True).stdout
    assert said.count(node.uuid(7)) == (asked == "-L")
    assert (tmp_path / "nvidia-smi.log").read_text() == f"{asked}\n"


def test_it_is_brought_up_to_date_and_keeps_its_machine(tmp_path: Path) -> None:
    node = simulated_nodes("hgx-h100")[0]
    (part,) = make_driver_root(tmp_path, node).mig(0, "3g.40gb")
    assert make_driver_root(tmp_path, node).mig_state().parts == (part,)
    command = [
        sys.executable,
        "-m",
        "ray_dra.simulated.driver_root",
        str(tmp_path),
        "--profile",
        "hgx-b200",
        "--name",
        "b",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((tmp_path / "machine" / "node.json").read_text())["name"] == "b"
    assert not (tmp_path / "machine" / "mig.txt").exists()
