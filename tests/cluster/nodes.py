"""Real nodes: containerd, kubelet and the simulated driver, in a process and mount namespace of their own.

Inside, a node looks as any: /var/lib/kubelet, /run/containerd, /var/run/cdi; outside, these are folders of the
cluster's. Ending the namespace's first process ends all of it at once, pods included, as when the power fails.
Neighbour: `cluster.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import image
from tests.cluster.binaries import folder, program
from tests.cluster.supervise import Program, Supervisor

BRIDGE, GATEWAY, SUBNET = "br0", "10.88.0.1", "10.88.0.0/16"
FIRST_POD = "10.88.1.1"
TESTBED = Path(__file__).parent


@dataclass(frozen=True)
class NodeSpec:
    """One real node. `driver`: whether the simulated driver runs as a process (else a DaemonSet may bring it)."""

    name: str
    profile: str = "gb200-nvl72"
    rack: str = "0"
    tray: int = 0
    gates: str = ""
    consumable_shares: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    driver: bool = True


class RealNode:
    """A node's folder, and what runs in it."""

    def __init__(self, run: Path, spec: NodeSpec, number: int, cgroup: str) -> None:
        self.run, self.spec = run, spec
        self.folder = run / "nodes" / spec.name
        self.address = f"10.88.0.{10 + number}"
        self.cgroup = cgroup
        self.supervisor = Supervisor(self.folder)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def machine(self) -> Path:
        """The simulated machine's folder, for faults."""
        return self.folder / "lib" / "ray-dra-simulated" / "machine"

    def write(self, images: Path, kubeconfig: Path, driver_kubeconfig: Path, server_ca: Path) -> Program:
        """Everything the node needs on disk; the program that is the node."""
        for name in ("lib/kubelet", "lib/containerd", "lib/ray-dra-simulated", "run", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        image.clone(images, self.folder / "lib" / "containerd")
        (self.folder / "containerd.toml").write_text(_containerd(self.folder))
        network = self.folder / "cni"
        network.mkdir(exist_ok=True)
        (network / "10-testbed.conflist").write_text(_network(self.run / "addresses"))
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet(server_ca), indent=1))
        command = self.supervisor.write(self._programs(kubeconfig, driver_kubeconfig))
        enter = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        script = str(TESTBED / "enter-node.sh")
        return Program(f"node-{self.name}", [*enter, "sh", script, str(self.folder), *command])

    def _programs(self, kubeconfig: Path, driver_kubeconfig: Path) -> list[Program]:
        spec = self.spec
        path = {"PATH": f"{folder('containerd')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        kubelet = [
            program("kubelet"),
            f"--config={self.folder}/kubelet.json",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            "--cert-dir=/var/lib/kubelet/pki",
        ]
        if spec.labels:
            kubelet.append(f"--node-labels={','.join(f'{k}={v}' for k, v in spec.labels.items())}")
        wait = 'while [ ! -S /run/containerd/containerd.sock ]; do sleep 0.05; done; exec "$@"'
        programs = [
            Program(
                "containerd",
                [program("containerd"), "--config", f"{self.folder}/containerd.toml"],
                path,
                autostart=True,
            ),
            Program("kubelet", ["sh", "-c", wait, "sh", *kubelet], path, autostart=True),
        ]
        if spec.driver:
            driver = [sys.executable, "-m", "ray_dra.simulated.dra.driver", "--node", self.name]
            driver += ["--kubeconfig", str(driver_kubeconfig), "--profile", spec.profile]
            driver += ["--rack", spec.rack, "--tray", str(spec.tray), "--gates", spec.gates]
            driver += ["--consumable-shares", spec.consumable_shares]
            programs.append(Program("driver", driver, {"PYTHONUNBUFFERED": "1"}, autostart=True))
        return programs

    def _kubelet(self, server_ca: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(server_ca)}},
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": [GATEWAY],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.run / "resolv.conf"),
            # Without systemd, and on cgroups of either version.
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "cgroupRoot": self.cgroup,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False,
            # Images come from the cache alone and are shared, so that nothing may be collected.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "nodeStatusUpdateFrequency": "5s",
            "nodeLeaseDurationSeconds": 10,
            "syncFrequency": "10s",
            "maxPods": 60,
        }


def _containerd(node: Path) -> str:
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{image.PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
enable_cdi = true
cdi_spec_dirs = ["/var/run/cdi"]
# Without CAP_SYS_RESOURCE nobody may lower the score that the OOM killer goes by.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{folder("cni")}"]
conf_dir = "{node}/cni"
"""


def _network(addresses: Path) -> str:
    """All pods of all nodes on one bridge; the addresses are given out from one folder."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(addresses),
            "ranges": [[{"subnet": SUBNET, "rangeStart": FIRST_POD, "gateway": GATEWAY}]],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "testbed", "plugins": [bridge]})
