"""What clusters take from the machine they run on, and give back: ports, a link, inotify instances, cgroups."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.cluster import binaries

PREFIX = "ray-dra-testbed-"  # of clusters' folders and cgroups

# A kubelet and its containerd watch files by about ten inotify instances; many machines allow 128 to all of root.
INOTIFY, INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances"), 4096


def raise_inotify() -> None:
    """Allow what many nodes need, and note what it was."""
    with binaries.locked(binaries.cache() / "inotify.lock"):
        before = int(INOTIFY.read_text())
        if before < INSTANCES:
            (binaries.cache() / "inotify-before").write_text(str(before))
            INOTIFY.write_text(str(INSTANCES))


def restore_inotify() -> None:
    """As it was, when no cluster is left."""
    noted = binaries.cache() / "inotify-before"
    if not noted.exists() or any(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        return
    with binaries.locked(binaries.cache() / "inotify.lock"):
        if noted.exists():
            INOTIFY.write_text(noted.read_text())
            noted.unlink()


def start_time(pid: int) -> str | None:
    """A process's start, which tells it from a later one with the same number; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def wait_gone(pid: int, started: str) -> None:
    deadline = time.monotonic() + 30
    while start_time(pid) == started and time.monotonic() < deadline:
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports that were free just now."""
    found = []
    sockets = []
    for _ in range(count):
        each = socket.socket()
        each.bind(("127.0.0.1", 0))
        sockets.append(each)
        found.append(each.getsockname()[1])
    for each in sockets:
        each.close()
    return found


def free_link() -> tuple[str, str]:
    """Two neighbouring addresses that nobody on this machine uses: ours outside, the cluster's inside."""
    used = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    while True:
        third, fourth = random.randrange(256), random.randrange(0, 256, 4)
        base = f"10.213.{third}."
        if f"{base}{fourth + 1}/" not in used:
            return f"{base}{fourth + 1}", f"{base}{fourth + 2}"


def link(pid: int, name: str, outside: str, inside: str) -> None:
    """A cable between this machine and the cluster's network; it goes when the cluster does."""
    for command in (
        f"ip link add {name} type veth peer name host0 netns {pid}",
        f"ip addr add {outside}/30 dev {name}",
        f"ip link set {name} up",
        f"nsenter --net --target {pid} ip addr add {inside}/30 dev host0",
        f"nsenter --net --target {pid} ip link set host0 up",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)


def remove_cgroup(name: str) -> None:
    """The cluster's cgroups in every hierarchy; they are empty once its processes are gone."""
    for root in Path("/sys/fs/cgroup").glob(f"*{name}") if Path("/sys/fs/cgroup/cgroup.procs").exists() else ():
        _remove_tree(root)
    for hierarchy in Path("/sys/fs/cgroup").iterdir() if Path("/sys/fs/cgroup").exists() else ():
        _remove_tree(hierarchy / name.strip("/"))


def _remove_tree(path: Path) -> None:
    if not path.is_dir():
        return
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass
