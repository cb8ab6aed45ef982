"""The driver of one node: `python -m ray_dra.simulated.dra.driver --node NAME`. Runs on every node with simulated GPUs.

It publishes the node's ResourceSlices, keeps them true while faults come and go, labels the node, and serves the
kubelet. Which machine it simulates is said by the node's labels (`ray-dra.io/simulated-profile`, `-rack`, `-tray`), or
by its options for nodes that have none.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ray_dra.adapters.kube_answers import Object
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.prometheus import metrics_served
from ray_dra.errors import KubernetesError, NotFound, SimulationError
from ray_dra.ports.metrics import (
    DRIVER_CLAIMS,
    DRIVER_DEVICES,
    DRIVER_FAULTS,
    DRIVER_INFO,
    DRIVER_METRICS,
    NO_METRICS,
    Metrics,
)
from ray_dra.simulated.dra.devices import Pool, domain_pool, gpu_pool, node_labels, slices, twin
from ray_dra.simulated.dra.domains import NodeDomains
from ray_dra.simulated.dra.gates import check_gates
from ray_dra.simulated.dra.kubelet import Plugin
from ray_dra.simulated.dra.prepare import Preparer
from ray_dra.simulated.library import NAME, library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import SimulatedNode, load_profile
from ray_dra.translate.names import (
    DOMAIN_DRIVER,
    SIMULATED_PROFILE_LABEL,
    SIMULATED_RACK_LABEL,
    SIMULATED_TRAY_LABEL,
    VERSION,
)
from ray_dra.translate.vendors import NVIDIA

FAULT_KINDS = ("lost", "links", "xids", "fabric", "recovery", "hang", "init")  # of `Machine.read_faults`
FAULT_SECONDS = 0.5  # between two looks at the machine's faults
PUBLISH_SECONDS = 2.0  # between two looks at what the API server has
REGISTER_SECONDS = 10.0  # for the kubelet to find the driver, before its devices are published
FORGET_SECONDS = 60.0  # between two looks for claims that went away unseen


def simulated_node(name: str, labels: Mapping[str, str], profile: str, rack: str, tray: int) -> SimulatedNode:
    """The machine that a node's labels describe, or the other arguments where it has none; racks and trays only where
    the profile has them."""
    chosen = load_profile(labels.get(SIMULATED_PROFILE_LABEL, profile))
    if chosen.fabric != "rack":
        return SimulatedNode(name=name, profile=chosen)
    rack, tray = labels.get(SIMULATED_RACK_LABEL, rack), int(labels.get(SIMULATED_TRAY_LABEL, tray))
    return SimulatedNode(name=name, profile=chosen, rack=f"{chosen.name}/{rack}", tray=tray)


class Driver:
    """Both of NVIDIA's drivers on one node, with simulated GPUs below.

    Args:
        state: this driver's own folder. The kubelet and the container runtime must see it by the same path.
        kubelet: the kubelet's root folder.
        cdi: where the container runtime looks for CDI files.
    """

    def __init__(
        self,
        api: KubernetesApi,
        node: str,
        *,
        profile: str,
        rack: str = "0",
        tray: int = 0,
        state: Path,
        kubelet: Path,
        cdi: Path,
        gates: frozenset[str] = frozenset(),
        consumable_shares: str = "",
        metrics: Metrics = NO_METRICS,
    ) -> None:
        check_gates(gates, consumable_shares)
        self._api, self._node, self._gates = api, node, gates
        self._shares, self._metrics = consumable_shares, metrics
        self._object = api.get("Node", node)
        described = simulated_node(node, self._object["metadata"].get("labels", {}), profile, rack, tray)
        self.machine = Machine.kept(state / "machine", described)
        library = state / NAME
        shutil.copy(library_folder() / NAME, library.with_suffix(".new"))
        library.with_suffix(".new").rename(library)
        self._domains = NodeDomains(api, node)
        self.preparers = {
            driver: Preparer(
                driver,
                node,
                folder=state / driver,
                cdi=cdi,
                machine=self.machine,
                library=library,
                published=lambda driver=driver: self.pool(driver).devices,  # type: ignore[misc]
                gates=gates,
                domains=self._domains if driver == DOMAIN_DRIVER else None,
                shared="ConsumableShares" in gates and consumable_shares not in ("", "disabled"),
            )
            for driver in (NVIDIA.driver, DOMAIN_DRIVER)
        }
        self._plugins = [
            Plugin(preparer, kubelet=kubelet, fetch=self._fetch, metrics=metrics)
            for preparer in self.preparers.values()
        ]

    def pool(self, driver: str) -> Pool:
        """What the driver publishes now."""
        if driver == DOMAIN_DRIVER:
            return domain_pool(self.machine.node)
        machine = self.machine
        pool = gpu_pool(
            machine.node, machine.read_faults(), self._gates, machine.mig_state(), consumable_shares=self._shares
        )
        if "PassthroughSupport" not in self._gates:
            return pool
        used = {d["device"] for e in self.preparers[driver].entries() for d in e["devices"]}
        return pool.without(other for name in used if (other := twin(name)))

    def start(self) -> None:
        """Clean up after a predecessor, label the node, serve the kubelet, and publish.

        In this order, so that no pod lands here whose claim the kubelet could not have readied yet.
        """
        if lost := self.machine.read_faults().get("lost"):
            gpus = ", ".join(map(str, sorted(lost)))
            raise SimulationError("NVIDIA's driver does not start on a machine with a lost GPU.", place=f"GPU {gpus}")
        self.forget_gone()
        self.preparers[NVIDIA.driver].clean_up()
        used = {d["domain"] for e in self.preparers[DOMAIN_DRIVER].entries() for d in e["devices"]}
        current = self._domains.current()
        if current is not None and current not in used:
            self._domains.leave(current)
        self._api.patch("Node", self._node, {"metadata": {"labels": node_labels(self.machine.node)}})
        for plugin in self._plugins:
            plugin.start()
        for plugin in self._plugins:
            plugin.registered.wait(REGISTER_SECONDS)
        self.publish()

    def stop(self) -> None:
        for plugin in self._plugins:
            plugin.stop()

    def publish(self) -> None:
        """Make the API server's slices those of now: a slice that differs is replaced in its place, and the pool's
        generation rises where their number does not stay."""
        self._tell()
        fields = f"spec.nodeName={self._node}"
        existing = self._api.items("ResourceSlice", fields=fields)
        for driver in self.preparers:
            pool = self.pool(driver)
            self._metrics.put(DRIVER_DEVICES, len(pool.devices), driver)
            mine = {s["metadata"]["name"]: s for s in existing if s["spec"]["driver"] == driver}
            generation = max((s["spec"]["pool"]["generation"] for s in mine.values()), default=0)
            wanted = slices(pool, self._node, generation, self._owner())
            if len(wanted) != len(mine):
                generation += 1
                wanted = slices(pool, self._node, generation, self._owner())
            old = {name: spec_of(found) for name, found in mine.items()}
            changed = [each for each in wanted if each["spec"] != old.get(each["metadata"]["name"])]
            if not changed and len(wanted) == len(mine):
                continue
            self._replace(mine, changed, keep={each["metadata"]["name"] for each in wanted})
            print(f"{driver}: published {len(pool.devices)} devices, generation {generation}", flush=True)

    def _tell(self) -> None:
        """How it is now, for whoever collects metrics."""
        for driver, preparer in self.preparers.items():
            self._metrics.put(DRIVER_CLAIMS, len(preparer.claims()), driver)
        faults = self.machine.read_faults()
        for kind in FAULT_KINDS:
            found = faults.get(kind)
            self._metrics.put(DRIVER_FAULTS, len(found) if isinstance(found, list | dict) else bool(found), kind)

    def forget_gone(self) -> None:
        """Undo claims that were deleted while nobody told us."""
        for preparer in self.preparers.values():
            for uid, (namespace, name) in preparer.claims().items():
                found = self._api.find("ResourceClaim", name, namespace)
                if found is None or found["metadata"]["uid"] != uid:
                    print(f"{preparer.driver}: {namespace}/{name} is gone, undone", flush=True)
                    preparer.unprepare(uid)

    def _replace(self, mine: Mapping[str, Object], wanted: list[Object], *, keep: set[str]) -> None:
        for name in mine.keys() - keep:
            self._api.delete("ResourceSlice", name)
        for each in wanted:
            old = mine.get(each["metadata"]["name"])
            if old is None:
                self._api.create(each)
            else:
                version = old["metadata"]["resourceVersion"]
                self._api.replace({**each, "metadata": {**each["metadata"], "resourceVersion": version}})

    def _owner(self) -> dict[str, Any]:
        meta = self._object["metadata"]
        return {"apiVersion": "v1", "kind": "Node", "name": meta["name"], "uid": meta["uid"], "controller": True}

    def _fetch(self, namespace: str, name: str) -> Object:
        return self._api.get("ResourceClaim", name, namespace)


def spec_of(found: Object) -> dict[str, Any]:
    """A slice's spec without what the server adds."""
    spec = dict(found["spec"])
    if "devices" in spec:
        spec["devices"] = [_plain(device) for device in spec["devices"]]
    return spec


def _plain(device: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(device)
    if "taints" in plain:
        plain["taints"] = [{k: v for k, v in taint.items() if k != "timeAdded"} for taint in plain["taints"]]
    return plain


def main(
    node: Annotated[str, typer.Option(envvar="NODE_NAME", help="This node's name.")],
    kubeconfig: Annotated[str | None, typer.Option(help="Default: the pod's service account.")] = None,
    profile: Annotated[str, typer.Option(envvar="PROFILE", help="Machine, for nodes without a label.")] = "hgx-h100",
    rack: Annotated[str, typer.Option(help="Rack, for nodes without a label.")] = "0",
    tray: Annotated[int, typer.Option(help="Tray in the rack, for nodes without a label.")] = 0,
    state: Annotated[Path, typer.Option(help="This driver's folder.")] = Path("/var/lib/ray-dra-simulated"),
    kubelet: Annotated[Path, typer.Option(help="The kubelet's folder.")] = Path("/var/lib/kubelet"),
    cdi: Annotated[Path, typer.Option(help="The container runtime's CDI folder.")] = Path("/var/run/cdi"),
    gates: Annotated[
        str, typer.Option(envvar="FEATURE_GATES", help="Feature gates that are on, comma-separated.")
    ] = "",
    consumable_shares: Annotated[
        str,
        typer.Option(envvar="CONSUMABLE_SHARES", help="With that gate: memory, unlimited, or how many share a device."),
    ] = "",
) -> None:
    """Simulated NVIDIA GPUs on this node, for Kubernetes' dynamic resource allocation."""
    metrics = metrics_served(DRIVER_METRICS, DRIVER_INFO, VERSION)
    api = KubernetesApi(kubeconfig, metrics=metrics)
    chosen = frozenset(gate.strip() for gate in gates.split(",") if gate.strip())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    while not ended.is_set() and api.find("Node", node) is None:
        ended.wait(FAULT_SECONDS)  # the kubelet has not registered it yet
    driver = Driver(
        api,
        node,
        profile=profile,
        rack=rack,
        tray=tray,
        state=state,
        kubelet=kubelet,
        cdi=cdi,
        gates=chosen,
        consumable_shares=consumable_shares,
        metrics=metrics,
    )
    driver.start()
    rounds, faults = 0, driver.machine.read_faults()
    while not ended.wait(FAULT_SECONDS):
        rounds += 1
        seen = driver.machine.read_faults()
        try:
            if seen != faults or rounds % round(PUBLISH_SECONDS / FAULT_SECONDS) == 0:
                driver.publish()
                faults = seen
            if rounds % round(FORGET_SECONDS / FAULT_SECONDS) == 0:
                driver.forget_gone()
        except NotFound as error:
            raise SimulationError("This node is no longer in the cluster.", place=node) from error
        except KubernetesError as error:
            print(error, flush=True)  # the next round tries again
    driver.stop()


if __name__ == "__main__":
    typer.run(main)
