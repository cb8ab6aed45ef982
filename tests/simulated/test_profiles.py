"""The contract of a node's topology: the same assertions over every simulated profile and over real NVML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ray_dra.core.model.device import Health
from ray_dra.core.model.device_selector import COMPUTE_CAPABILITY, DRIVER_VERSION, value_of
from ray_dra.core.model.node import Node
from ray_dra.core.model.topology import Topology
from ray_dra.ports.nvml import NodeReading
from ray_dra.simulated.library import compilers, library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import drawing, load_profile, profile_names, simulated_nodes
from ray_dra.translate.nvml.reading import node_from_reading

READING = TypeAdapter(NodeReading)
MACHINES = [name for name in profile_names() if not load_profile(name).cluster]


def read(environment: dict[str, str], timeout: float = 20) -> NodeReading:
    """A reading by the same child process that the agents use."""
    done = subprocess.run(
        [sys.executable, "-m", "ray_dra.adapters.nvml", "once"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    )
    return READING.validate_json(done.stdout)


def simulated(machine: Machine) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(library_folder()), **machine.environment}


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine.create(tmp_path / "m", simulated_nodes(request.param)[0])


def contract(reading: NodeReading) -> Node:
    """What holds on every machine, simulated or real."""
    assert reading.error is None
    assert reading.driver
    assert reading.gpus
    node = node_from_reading("here", reading)
    size = len(node.devices)
    assert [g.index for g in reading.gpus] == list(range(size))
    uuids = [d.uuid for d in node.devices]
    assert len(set(uuids)) == size
    assert all(u and u.startswith("GPU-") for u in uuids)
    assert all(d.capacity["memory"] > 1 << 30 for d in node.devices)
    assert all(d.product for d in node.devices)
    for device in node.devices:
        assert value_of(device, COMPUTE_CAPABILITY) >= (7, 0, 0)  # type: ignore[operator]  # nor None
        assert value_of(device, DRIVER_VERSION) is not None
    assert len(node.links) == size
    for i, j in combinations(range(size), 2):
        assert node.links[i][j] == node.links[j][i] >= 0
        if reading.p2p[i][j] is not None:
            assert (node.links[i][j] > 0) is reading.p2p[i][j]
    assert all(node.links[i][i] == 0 for i in range(size))
    cliques = {d.clique for d in node.devices if d.clique is not None}
    assert len(cliques) <= 1
    for gpu in reading.gpus:  # a place in a rack is one only where the rack has a name
        assert gpu.chassis != ""
        assert (gpu.chassis is None) is (gpu.chassis_slot is None) is (gpu.tray is None)
    members = [i for i, d in enumerate(node.devices) if d.clique is not None]
    assert all(node.links[i][j] > 0 for i, j in combinations(members, 2))
    assert Topology.of([node]).device_count == size
    return node


@pytest.mark.parametrize("machine", MACHINES, indirect=True, ids=str)
def test_every_profile_keeps_the_contract(machine: Machine) -> None:
    node = contract(read(simulated(machine)))
    profile = machine.node.profile
    assert len(node.devices) == profile.gpus
    assert [d.uuid for d in node.devices] == [machine.node.uuid(i) for i in range(profile.gpus)]
    assert {d.product for d in node.devices} == {profile.product}
    assert [d.numa for d in node.devices] == profile.numa
    assert all(d.health is Health.OK for d in node.devices)


@pytest.mark.gpu
def test_a_real_gpu_keeps_the_contract() -> None:
    contract(read({}))


EXPECTED = {  # GPUs in the clique, links of GPU 0, is the clique multi-node
    "dgx-v100": (0, 6, False),
    "dgx-a100": (8, 12, False),
    "hgx-h100": (8, 18, False),
    "hgx-b200": (8, 18, False),
    "hgx-b200-degraded": (7, 18, False),
    "gb200-nvl72": (4, 18, True),
    "gb300-nvl72": (4, 18, True),
    "a100-pcie-bridged": (0, 12, False),
    "l40s-pcie": (0, 0, False),
}


def test_every_profile_is_expected() -> None:
    assert set(EXPECTED) == set(MACHINES)
    assert "mixed" in profile_names()


@pytest.mark.parametrize("machine", MACHINES, indirect=True, ids=str)
def test_what_each_machine_is(machine: Machine) -> None:
    members, links, multi_node = EXPECTED[machine.node.profile.name]
    reading = read(simulated(machine))
    node = node_from_reading("here", reading)
    assert sum(d.clique is not None for d in node.devices) == members
    assert sum(1 for link in reading.gpus[0].links if link and link.active) == links
    if members:
        clique = Topology.of([node]).cliques[node.clique or ""]
        assert clique.multi_node is multi_node


def test_dgx1_is_the_real_mesh(tmp_path: Path) -> None:
    machine = Machine.create(tmp_path / "m", simulated_nodes("dgx-v100")[0])
    node = node_from_reading("here", read(simulated(machine)))
    assert sum(node.links[0]) == 6
    assert sum(1 for i, j in combinations(range(8), 2) if node.links[i][j] == 0) == 12
    assert sum(node.links[i][j] for i, j in combinations(range(4), 2)) == 9


def test_racks_differ_by_cluster_uuid_alone(tmp_path: Path) -> None:
    nodes = simulated_nodes("gb200-nvl72", nodes=4, cliques=2)
    read_nodes = [node_from_reading(n.name, read(simulated(Machine.create(tmp_path / n.name, n)))) for n in nodes]
    topology = Topology.of(read_nodes)
    assert len(topology.cliques) == 2
    assert {c.rsplit(".", 1)[1] for c in topology.cliques} == {"32766"}
    assert [n.order for n in read_nodes] == [0, 1, 0, 1]


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_opens_with_a_drawing(name: str) -> None:
    assert len(drawing(name).splitlines()) >= 3


@pytest.fixture
def tray(tmp_path: Path) -> Machine:
    return Machine.create(tmp_path / "m", simulated_nodes("gb200-nvl72")[0])


def test_faults(tray: Machine) -> None:
    """Each fault is seen as what it is, and healing undoes it."""
    tray.fabric(1, state=2)
    tray.fabric(2, health_summary=2)
    tray.lose(3)
    tray.link_down(0, 5)
    node = node_from_reading("here", read(simulated(tray)))
    assert node.devices[0].clique is not None
    assert node.devices[1].clique is None, "a fabric in progress is unknown, not a clique"
    assert node.devices[2].clique is None
    assert node.devices[3].health is Health.GONE
    assert node.links[0][1] == 17
    tray.heal()
    tray.recovery(0, 5)
    tray.mig(1, *["1g.23gb"] * 7)
    reading = read(simulated(tray))
    node = node_from_reading("here", reading)
    assert node.devices[0].health is Health.DRAIN
    assert "IMEX" in node.devices[0].health_reason
    assert node.devices[1].health is Health.TAINTED
    assert len(reading.gpus[1].migs) == 7
    assert node.devices[3].health is Health.OK


def test_a_missing_or_lying_driver_is_an_error_with_a_reason(tray: Machine) -> None:
    tray.missing()
    reading = read(simulated(tray))
    assert reading.error is not None
    assert "driver" in reading.error
    node = node_from_reading("here", reading)
    assert not node.ready
    assert not node.devices
    tray.heal()
    tray.duplicate_uuid(1, of=0)
    error = read(simulated(tray)).error
    assert error is not None
    assert "one UUID" in error


def test_a_hung_driver_call_can_be_killed(tray: Machine) -> None:
    tray.hang()
    with pytest.raises(subprocess.TimeoutExpired):
        read(simulated(tray), timeout=2)


def test_health_masks_of_healthy_machines(tray: Machine) -> None:
    """0xAA and 0x1AA mean healthy; a true route-unhealthy field does not."""
    tray.fabric(0, health_mask=0x1AA)
    tray.fabric(1, health_mask=0x19A)
    node = node_from_reading("here", read(simulated(tray)))
    assert node.devices[0].clique is not None
    assert node.devices[1].clique is None


@pytest.mark.parametrize("compiler", compilers(), ids=lambda c: " ".join(c[-2:]))
def test_the_library_compiles_with_every_compiler_here(compiler: list[str], tmp_path: Path, tray: Machine) -> None:
    """Also with ziglang, which is what a machine without a compiler uses."""
    folder = library_folder(compiler=compiler, cache=tmp_path)
    reading = read({"LD_LIBRARY_PATH": str(folder), **tray.environment})
    assert len(reading.gpus) == 4


def test_rays_own_detection_sees_the_machine(tray: Machine) -> None:
    code = (
        "import json; from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as M;"
        "print(json.dumps([M.get_current_node_num_accelerators(), M.get_current_node_accelerator_type()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **simulated(tray)}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [4, "GB200"]
