"""A node's driver against an API server in memory: when slices and generations change, and when it does not start."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import SimulationError
from ray_dra.ports.metrics import DRIVER_CALLS, DRIVER_CLAIMS, DRIVER_DEVICES, DRIVER_FAULTS, NO_METRICS, Metrics
from ray_dra.simulated.dra.driver import Driver
from ray_dra.simulated.dra.gates import check_gates
from ray_dra.simulated.dra.kubelet import Plugin
from ray_dra.simulated.dra.proto import dra_pb2 as dra
from ray_dra.translate.names import DOMAIN_DRIVER
from ray_dra.translate.vendors import NVIDIA
from tests.ports.counted import Counted

FOLDERS: list[Path] = []  # a socket's path has to be short


@pytest.fixture(autouse=True)
def short_folder() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        FOLDERS.append(Path(folder))
        yield


class Server:
    """What the driver asks of an API server, for one node."""

    def __init__(self) -> None:
        self.slices: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "uid": "u-1", "labels": {}}}

    def items(self, kind: str, fields: str = "") -> list[dict[str, Any]]:
        return list(copy.deepcopy(self.slices).values())

    def create(self, thing: dict[str, Any]) -> None:
        self._put(thing)

    def replace(self, thing: dict[str, Any]) -> None:
        assert (
            thing["metadata"]["resourceVersion"]
            == self.slices[thing["metadata"]["name"]]["metadata"]["resourceVersion"]
        )
        self._put(thing)

    def delete(self, kind: str, name: str) -> None:
        self.writes.append(name)
        del self.slices[name]

    def _put(self, thing: dict[str, Any]) -> None:
        name = thing["metadata"]["name"]
        self.writes.append(name)
        stored = copy.deepcopy(thing)
        stored["metadata"]["resourceVersion"] = str(len(self.writes))
        for device in stored["spec"].get("devices", ()):
            for taint in device.get("taints", ()):
                taint["timeAdded"] = "2026-01-01T00:00:00Z"  # as the server does
        self.slices[name] = stored

    def generations(self) -> set[int]:
        return {s["spec"]["pool"]["generation"] for s in self.slices.values() if s["spec"]["driver"] == NVIDIA.driver}


def driver(
    server: Server, folder: Path, profile: str = "hgx-h100", *gates: str, metrics: Metrics = NO_METRICS
) -> Driver:
    return Driver(
        cast(KubernetesApi, server),
        "n1",
        profile=profile,
        state=folder / "state",
        kubelet=FOLDERS[-1],
        cdi=folder / "cdi",
        gates=frozenset(gates),
        metrics=metrics,
    )


def test_a_slice_that_differs_is_replaced_in_its_place(tmp_path: Path) -> None:
    server = Server()
    made = driver(server, tmp_path, "dgx-a100", "DynamicMIG")
    made.publish()
    assert len(server.slices) == 9 + 1
    server.writes.clear()
    made.publish()
    assert server.writes == []
    made.machine.mig(3)
    made.publish()
    assert server.writes == [f"n1-{NVIDIA.driver}-0", f"n1-{NVIDIA.driver}-4"]  # the counters, and the fourth GPU's
    assert server.generations() == {1}


def test_another_number_of_slices_is_another_generation_of_all(tmp_path: Path) -> None:
    server = Server()
    driver(server, tmp_path, "hgx-h100").publish()
    assert server.generations() == {1}
    driver(server, tmp_path, "hgx-h100", "DynamicMIG").publish()
    assert server.generations() == {2}
    assert {
        s["spec"]["pool"]["resourceSliceCount"] for s in server.slices.values() if s["spec"]["driver"] == NVIDIA.driver
    } == {9}


def test_a_taint_keeps_its_time(tmp_path: Path) -> None:
    server = Server()
    made = driver(server, tmp_path, "l40s-pcie", "NVMLDeviceHealthCheck")
    made.machine.xid(2, 79)
    made.publish()
    server.writes.clear()
    made.publish()
    assert server.writes == []


def test_a_lost_cdi_file_is_written_again_where_the_claims_say_what_is_published(tmp_path: Path) -> None:
    """With PassthroughSupport a GPU in use as itself has no VFIO twin: no call waits for itself."""
    made = driver(Server(), tmp_path, "hgx-h100", "PassthroughSupport")
    preparer = made.preparers[NVIDIA.driver]
    results = [{"request": "g", "driver": NVIDIA.driver, "pool": "n1", "device": "gpu-3"}]
    claim = {
        "metadata": {"namespace": "default", "name": "c", "uid": "u"},
        "status": {"allocation": {"devices": {"results": results}}},
    }
    first = preparer.prepare(claim)
    assert "gpu-vfio-3" not in [device.name for device in made.pool(NVIDIA.driver).devices]
    (file,) = (tmp_path / "cdi").iterdir()
    file.unlink()
    assert preparer.prepare(claim) == first
    assert file.exists()


def test_it_does_not_start_on_a_lost_gpu(tmp_path: Path) -> None:
    made = driver(Server(), tmp_path)
    made.machine.lose(3)
    with pytest.raises(SimulationError, match="lost GPU"):
        made.start()


@pytest.mark.parametrize(
    ("gates", "shares", "message"),
    [
        ({"DynamicMig"}, "", "no feature gate DynamicMig"),
        ({"DynamicMIG", "MPSSupport"}, "", "together"),
        ({"PassthroughSupport", "NVMLDeviceHealthCheck"}, "", "together"),
        ({"ConsumableShares"}, "0", "no such way to share"),
        ({"ConsumableShares"}, "most", "no such way to share"),
    ],
)
def test_gates_that_it_does_not_start_with(gates: set[str], shares: str, message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        check_gates(frozenset(gates), shares)
    check_gates(frozenset({"ConsumableShares", "DynamicMIG", "TimeSlicingSettings"}), "4")


def test_devices_claims_calls_and_faults_are_counted(tmp_path: Path) -> None:
    metrics = Counted()
    made = driver(Server(), tmp_path, "hgx-h100", metrics=metrics)
    made.publish()
    gpus, domains = (NVIDIA.driver,), (DOMAIN_DRIVER,)
    assert metrics.values[DRIVER_DEVICES.name, gpus] == 8
    assert metrics.values[DRIVER_CLAIMS.name, gpus] == metrics.values[DRIVER_CLAIMS.name, domains] == 0
    assert {v for (name, _), v in metrics.values.items() if name == DRIVER_FAULTS.name} == {0}
    made.machine.xid(2, 79)
    made.machine.hang()
    made.publish()
    assert metrics.values[DRIVER_FAULTS.name, ("xids",)] == metrics.values[DRIVER_FAULTS.name, ("hang",)] == 1
    results = [{"request": "g", "driver": NVIDIA.driver, "pool": "n1", "device": "gpu-3"}]
    claim = {
        "metadata": {"namespace": "default", "name": "c", "uid": "u"},
        "status": {"allocation": {"devices": {"results": results}}},
    }
    (tmp_path / "own").mkdir()
    plugin = Plugin(made.preparers[NVIDIA.driver], kubelet=FOLDERS[-1] / "own", fetch=lambda *_: claim, metrics=metrics)
    asked = [dra.Claim(namespace="default", name="c", uid=uid) for uid in ("u", "another")]
    plugin._prepare(dra.NodePrepareResourcesRequest(claims=asked), None)
    assert metrics.values[DRIVER_CLAIMS.name, gpus] == 1
    plugin._unprepare(dra.NodeUnprepareResourcesRequest(claims=asked[:1]), None)
    assert metrics.values[DRIVER_CLAIMS.name, gpus] == 0
    calls = {labels[1:]: v for (name, labels), v in metrics.values.items() if name == DRIVER_CALLS.name}
    assert calls == {("prepare", "ok"): 1, ("prepare", "failed"): 1, ("unprepare", "ok"): 1}
