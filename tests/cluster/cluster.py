"""A whole cluster: namespaces, control plane, nodes, and its end.

As root everything runs in process, mount and network namespaces of its own, whose end takes every process, mount,
bridge and address with it; what is left is a folder and a cgroup, which `down` removes, or else the next `sweep`.
Without root there is the control plane alone, for paper nodes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import KubernetesError
from tests.cluster import binaries, control_plane, image
from tests.cluster.binaries import PROJECT, Say, program
from tests.cluster.control_plane import API_SERVICE, Options, Ports
from tests.cluster.machine import (
    PREFIX,
    free_link,
    free_ports,
    link,
    raise_inotify,
    remove_cgroup,
    restore_inotify,
    start_time,
    wait_gone,
)
from tests.cluster.nodes import BRIDGE, GATEWAY, NodeSpec, RealNode
from tests.cluster.pki import Authority, write_kubeconfig
from tests.cluster.supervise import Program, Supervisor

SIMULATED = PROJECT / "kube" / "simulated-gpus"
SIMULATED_NAMESPACE = "ray-dra-simulated"
START_SECONDS = 120.0

# Two gangs of two nodes in two cliques, one node to move to, and one for the head.
SIX_NODES = (
    NodeSpec("head", profile="hgx-h100"),
    *(NodeSpec(f"r{rack}-t{tray}", rack=str(rack), tray=tray) for rack in (0, 1) for tray in (0, 1)),
    NodeSpec("r0-t2", rack="0", tray=2),
)

# The same with the driver's gate that has it publish GPUs' faults; for people, who want to see one.
WITH_HEALTH = tuple(replace(node, gates="NVMLDeviceHealthCheck") for node in SIX_NODES)


class Cluster:
    """A running cluster. Made by `up`; found again by `Cluster.load`."""

    def __init__(self, run: Path, state: dict[str, Any]) -> None:
        self.run, self._state = run, state
        self.name: str = state["name"]
        self.real: bool = state["real"]
        self.kubeconfig = run / "kubeconfig"
        self.supervisor = Supervisor(run)
        self.nodes: dict[str, RealNode] = {}
        self._api: KubernetesApi | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # -- coming up

    @classmethod
    def up(
        cls,
        name: str,
        *,
        nodes: Sequence[NodeSpec] = SIX_NODES,
        options: Options | None = None,
        operator: bool = True,
        tied: bool = True,
        real: bool | None = None,
        say: Say = print,
    ) -> Cluster:
        """Start a cluster and wait until its nodes are ready and publish their devices.

        Args:
            nodes: real nodes; ignored, with a word, without root.
            tied: it ends with this process, however that ends.
            real: in namespaces of its own, which needs root; None: where this is root.
        """
        sweep()
        if real is None:
            real = os.geteuid() == 0
            if nodes and not real:
                say("not root: control plane and paper nodes only, no real nodes")
        nodes = nodes if real else ()
        binaries.build(say, only=() if nodes else ("kubernetes", "kuberay"))
        if nodes:
            image.build(say)
        run = Path(tempfile.gettempdir()) / f"{PREFIX}{name}"
        run.mkdir(mode=0o755)  # fails where one of this name runs
        if nodes:
            raise_inotify()
        started = time.monotonic()
        cluster = cls(run, {"name": name, "real": real, "cgroup": f"/{PREFIX}{name}"})
        try:
            with ThreadPoolExecutor(1) as beside:
                images = beside.submit(image.prepare, run) if nodes else None
                cluster._start(options or Options(), tied, say)
                cluster._install(operator)
                if images is not None:
                    images.result()
            for node in nodes:
                cluster.add_node(node, wait=False)
            cluster.wait_nodes([node.name for node in nodes])
        except BaseException:
            cluster.down(keep_logs=True)
            raise
        say(f"cluster {name}: up in {time.monotonic() - started:.0f} s, {len(nodes)} real nodes")
        return cluster

    def _start(self, options: Options, tied: bool, say: Say) -> None:
        """Namespaces, supervisor, control plane, until the API server is ready."""
        run = self.run
        self.authority = pki = Authority(run / "pki")
        (run / "resolv.conf").write_text(f"nameserver {GATEWAY}\nsearch svc.cluster.local cluster.local\n")
        outside, inside = free_link() if self.real else ("", "127.0.0.1")
        ports = Ports() if self.real else Ports(*free_ports(5))
        address = GATEWAY if self.real else inside
        self.server = f"https://{address}:{ports.api}"  # as seen by those within
        hosts = [GATEWAY, "127.0.0.1", inside]
        programs = control_plane.programs(run, pki, address, hosts, ports, options)
        command = self.supervisor.write(programs)
        if self.real:
            unshare = "unshare --pid --mount --net --fork --kill-child --mount-proc --propagation private"
            script = str(Path(__file__).with_name("enter-cluster.sh"))
            enter = ["sh", script, BRIDGE, GATEWAY, API_SERVICE, str(run / "resolv.conf")]
            command = [*unshare.split(), *enter, *command]
        if tied:
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with (run / "logs" / "start.log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._state |= {"pid": process.pid, "started": start_time(process.pid)}
        self._save()
        self._process = process
        self.supervisor.wait()
        if self.real:
            link(self._inner_pid(), self._link_name, outside, inside)
        for each in programs[:2]:
            self.supervisor.start(each.name)
        pki.kubeconfig(self.kubeconfig, f"https://{inside}:{ports.api}", "admin", "system:masters")
        self.wait_api()
        for each in programs[2:]:
            self.supervisor.start(each.name)
        say("API server ready")

    def _install(self, operator: bool) -> None:
        """What a cluster with GPUs and KubeRay has: CRDs, roles, device classes, DNS, controllers."""
        files = [SIMULATED / f"{name}.yaml" for name in ("namespace", "device-classes", "compute-domains")]
        self.kubectl("apply", "--server-side", *_files(files))
        self.kubectl("apply", "-n", SIMULATED_NAMESPACE, *_files([SIMULATED / "roles.yaml"]))
        if operator:
            kinds = _files(control_plane.custom_resources())
            self.kubectl("create", *kinds)
            self.kubectl("wait", "--for=condition=Established", "--timeout=60s", *kinds)  # before that none is served
            host = GATEWAY if self.real else "127.0.0.1"
            metrics, health = ("8443", "8444") if self.real else map(str, free_ports(2))
            self.supervisor.add(
                control_plane.operator(self.run, self.authority, self.server, f"{host}:{metrics}", f"{host}:{health}")
            )
        if self.real:
            self.supervisor.add(control_plane.dns(self.run, self.authority, GATEWAY, self.server))
        config = self.account_kubeconfig("simulated-domains", SIMULATED_NAMESPACE)
        command = [sys.executable, "-m", "ray_dra.simulated.dra.controller", "--kubeconfig", str(config)]
        self.supervisor.add(Program("domains", command, {"PYTHONUNBUFFERED": "1"}))

    # -- nodes

    def add_node(self, spec: NodeSpec, *, wait: bool = True) -> RealNode:
        number = len(self.nodes)
        node = RealNode(self.run, spec, number, self._state["cgroup"])
        self.nodes[spec.name] = node
        subprocess.run(
            [*self.inside(), "ip", "addr", "add", f"{node.address}/32", "dev", BRIDGE], check=True, capture_output=True
        )
        kubeconfig = self.authority.kubeconfig(
            self.run / f"node-{spec.name}.kubeconfig", self.server, f"system:node:{spec.name}", "system:nodes"
        )
        driver = self.account_kubeconfig("simulated-gpus", SIMULATED_NAMESPACE)
        self.supervisor.add(node.write(self.run / "images", kubeconfig, driver, self.authority.folder / "ca.crt"))
        if wait:
            self.wait_nodes([spec.name])
        return node

    def kill_node(self, name: str) -> None:
        """As when its power fails: every process of it ends at once. It stays off."""
        self.supervisor.stop(f"node-{name}")

    def remove_node(self, name: str) -> None:
        """Power it off and take it out of the cluster."""
        self.kill_node(name)
        self.api.delete("Node", name)

    def start_node(self, name: str) -> None:
        """Power it on again."""
        shutil.rmtree(self.nodes[name].folder / "run", ignore_errors=True)
        (self.nodes[name].folder / "run").mkdir()
        self.supervisor.start(f"node-{name}")

    def kill(self, process: str, node: str | None = None) -> None:
        """kill -9 of one process: of the control plane, or `containerd`, `kubelet` or `driver` of a node."""
        (self.nodes[node].supervisor if node else self.supervisor).signal(process, "KILL")

    def wait_nodes(self, names: Sequence[str], seconds: float = START_SECONDS) -> None:
        """Until they are Ready, and those with a driver publish their devices."""
        publishing = {name for name in names if self.nodes[name].spec.driver}

        def ready() -> bool:
            nodes = {node["metadata"]["name"]: node for node in self.api.items("Node")}
            slices = {s["spec"].get("nodeName") for s in self.api.items("ResourceSlice")}
            return all(name in nodes and is_ready(nodes[name]) for name in names) and publishing <= slices

        self.wait(ready, seconds, f"nodes {', '.join(names)} to be ready")

    # -- use

    @property
    def api(self) -> KubernetesApi:
        if self._api is None:
            self._api = KubernetesApi(str(self.kubeconfig))
        return self._api

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """kubectl as the administrator; what it prints."""
        command = [program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, input=stdin, cwd=self.run)
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}:\n{done.stderr}{done.stdout}")
        return done.stdout + ("" if check else done.stderr)

    def built(self, folder: Path) -> list[dict[str, Any]]:
        """The objects of a kustomization."""
        return list(yaml.safe_load_all(self.kubectl("kustomize", str(folder))))

    def asked(self, account: str, namespace: str) -> Iterator[dict[str, Any]]:
        """What a service account has asked the API server for (audit.k8s.io/v1 Events)."""
        user = f"system:serviceaccount:{namespace}:{account}"
        for line in (self.run / control_plane.AUDIT).read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] == user:
                yield event

    def account_kubeconfig(self, account: str, namespace: str, pod: str = "") -> Path:
        """A kubeconfig, for use within the cluster's network, that is this service account; with the token as it is
        mounted in `pod`."""
        path = self.run / f"account-{namespace}-{account}{pod and f'-{pod}'}.kubeconfig"
        if not path.exists():
            request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
            spec: dict[str, Any] = {"expirationSeconds": 7 * 86400}
            if pod:
                spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod}
            request["spec"] = spec  # type: ignore[assignment]
            token = self.api.post("ServiceAccount", account, "token", request, namespace)["status"]["token"]
            write_kubeconfig(path, self.server, self.authority.folder / "ca.crt", {"token": token})
        return path

    def wait_api(self, seconds: float = START_SECONDS) -> None:
        def ready() -> bool:
            try:
                return self.api.raw("/readyz") == "ok"
            except KubernetesError:
                return False

        self.wait(ready, seconds, "the API server")

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until the condition holds. TimeoutError names `what` and shows the logs' ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self, size: int = 1500) -> str:
        """The ends of all logs."""
        parts = []
        for path in sorted([*self.run.glob("logs/*.log"), *self.run.glob("nodes/*/logs/*.log")]):
            text = path.read_text(errors="replace")[-size:]
            if text.strip():
                parts.append(f"--- {path.relative_to(self.run)}\n{text}")
        return "\n".join(parts)

    # -- the end

    def down(self, *, keep_logs: bool = False) -> None:
        """Nothing is left: the namespaces take processes, mounts and network along; then folder and cgroup go."""
        pid = self._state.get("pid")
        if pid is not None and start_time(pid) == self._state["started"]:
            os.kill(pid, signal.SIGTERM if not self.real else signal.SIGKILL)
            if self._process is not None:
                self._process.wait()
            wait_gone(pid, self._state["started"])
        if self._api is not None:
            self._api.close()
        if keep_logs and self.run.exists():
            kept = Path(tempfile.gettempdir()) / f"ray-dra-logs-{self.name}.txt"
            kept.write_text(self.logs(20000))
        if self.real and pid is not None:
            # The kernel takes it along with the namespace, but in its own time.
            subprocess.run(["ip", "link", "del", self._link_name], capture_output=True)
        remove_cgroup(self._state["cgroup"])
        shutil.rmtree(self.run, ignore_errors=True)
        restore_inotify()

    # -- being found again

    def _save(self) -> None:
        (self.run / "cluster.json").write_text(json.dumps(self._state))

    @classmethod
    def load(cls, name: str) -> Cluster | None:
        """A cluster that somebody started and left running; None where there is none of this name."""
        run = Path(tempfile.gettempdir()) / f"{PREFIX}{name}"
        try:
            return cls(run, json.loads((run / "cluster.json").read_text()))
        except (OSError, ValueError):
            return None

    @property
    def alive(self) -> bool:
        return start_time(self._state.get("pid", 0)) == self._state.get("started")

    @property
    def _link_name(self) -> str:
        """Interface names have 15 characters; the process makes it unique."""
        return f"rdt{self._state['pid']}"

    def _inner_pid(self) -> int:
        """The first process of the namespaces, as numbered outside."""
        pid = self._state["pid"]
        deadline = time.monotonic() + 10
        while True:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster's namespaces did not start")
            time.sleep(0.02)

    def inside(self) -> list[str]:
        """What to put before a command that is to run in the cluster's network."""
        return ["nsenter", "--net", "--target", str(self._inner_pid())]


def sweep() -> None:
    """Remove what clusters left whose process was killed."""
    for run in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        found = Cluster.load(run.name.removeprefix(PREFIX))
        if found is not None and not found.alive:
            found.down()
        elif found is None and time.time() - run.stat().st_mtime > 600:
            shutil.rmtree(run, ignore_errors=True)
    restore_inotify()


def is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _files(paths: Sequence[Path]) -> list[str]:
    return [part for path in paths for part in ("-f", str(path))]
