"""What the simulated driver publishes and how strictly it reads: golden files, the API's limits, NVIDIA's rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ray_dra.simulated.dra.configs import BadConfig, GpuConfig, decode
from ray_dra.simulated.dra.devices import (
    DEVICES_A_SLICE,
    DEVICES_A_SLICE_WITH_COUNTERS,
    GATES,
    device_classes,
    domain_pool,
    gpu_pool,
    node_labels,
    slices,
)
from ray_dra.simulated.profile import load_profile, profile_names, simulated_nodes

GOLDEN = Path(__file__).parent / "golden"
PROJECT = Path(__file__).parents[2]
MACHINES = [name for name in profile_names() if not load_profile(name).cluster]
VERSION = "resource.nvidia.com/v1beta1"


@pytest.mark.parametrize(
    ("file", "profile", "gates", "faults"),
    [
        ("gb200.yaml", "gb200-nvl72", frozenset(), {}),
        ("h100-tainted.yaml", "hgx-h100", frozenset({"NVMLDeviceHealthCheck"}), {"lost": [2], "xids": [[1, 3, 79]]}),
        ("h100-passthrough.yaml", "hgx-h100", frozenset({"PassthroughSupport"}), {}),
    ],
)
def test_published_slices_are_as_reviewed(
    file: str, profile: str, gates: frozenset[str], faults: dict[str, object]
) -> None:
    node = simulated_nodes(profile)[0]
    made = [s for pool in (gpu_pool(node, faults, gates), domain_pool(node)) for s in slices(pool, node.name, 7)]
    made += [{"labels": node_labels(node)}]
    golden = GOLDEN / file
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(made, sort_keys=False, width=120))
    assert made == list(yaml.safe_load_all(golden.read_text()))


@pytest.mark.parametrize("profile", MACHINES)
@pytest.mark.parametrize(
    "gates", [frozenset(), frozenset({"DynamicMIG"}), frozenset({"NVMLDeviceHealthCheck"})], ids=str
)
def test_slices_keep_the_apis_limits(profile: str, gates: frozenset[str]) -> None:
    node = simulated_nodes(profile)[0]
    pool = gpu_pool(node, {"xids": [[1, 0, 79]]}, gates)
    made = slices(pool, node.name, 1)
    names = [device["name"] for s in made for device in s["spec"].get("devices", ())]
    assert len(names) == len(set(names)) == len(pool.devices)
    uuids = [d.body["attributes"]["uuid"]["string"] for d in pool.devices if "uuid" in d.body["attributes"]]
    assert len(set(uuids)) == len(uuids)
    for s in made:
        spec = s["spec"]
        assert not ("devices" in spec and "sharedCounters" in spec)
        devices = spec.get("devices", ())
        special = any("taints" in d or "consumesCounters" in d for d in devices)
        assert len(devices) <= (DEVICES_A_SLICE_WITH_COUNTERS if special else DEVICES_A_SLICE)
        assert spec["pool"]["resourceSliceCount"] == len(made)
        for device in devices:
            assert len(device["attributes"]) + len(device["capacity"]) <= 32
            texts = [a["string"] for a in device["attributes"].values() if "string" in a]
            assert all(len(text) <= 64 for text in texts)


def test_the_shipped_classes_are_the_drivers() -> None:
    shipped = yaml.safe_load_all((PROJECT / "kube" / "simulated-gpus" / "device-classes.yaml").read_text())
    assert list(shipped) == device_classes()


def test_the_generated_messages_are_those_of_the_protos(tmp_path: Path) -> None:
    source = PROJECT / "ray_dra" / "simulated" / "dra" / "proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROJECT}", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", *map(str, source.glob("*.proto"))]
    subprocess.run(command, check=True)
    made = sorted((tmp_path / source.relative_to(PROJECT)).iterdir())
    assert len(made) == 4
    for file in made:
        assert file.read_text() == (source / file.name).read_text(), "run `make protos`"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "GpuConfig"}, 'for version "None"'),
        ({"apiVersion": "resource.nvidia.com/v1alpha1", "kind": "GpuConfig"}, "no kind"),
        ({"apiVersion": VERSION, "kind": ["GpuConfig"]}, "no kind"),
        ({"apiVersion": VERSION, "kind": "GpuConfig", "sharing": {"strategy": "Other"}}, "sharing.strategy"),
        ({"apiVersion": VERSION, "kind": "GpuConfig", "shareing": {}}, 'unknown field "shareing"'),
        (
            {"apiVersion": VERSION, "kind": "GpuConfig", "sharing": {"strategy": "TimeSlicing", "mpsConfig": {}}},
            "does not belong",
        ),
        (
            {
                "apiVersion": VERSION,
                "kind": "GpuConfig",
                "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 101}},
            },
            "less than or equal to 100",
        ),
        (
            {
                "apiVersion": VERSION,
                "kind": "GpuConfig",
                "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "much"}},
            },
            "no quantity",
        ),
        (
            {
                "apiVersion": VERSION,
                "kind": "GpuConfig",
                "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {}},
            },
            "timeSlicingConfig.interval",
        ),
        ({"apiVersion": VERSION, "kind": "VfioDeviceConfig", "iommu": {"backendPolicy": "x"}}, "iommu.backendPolicy"),
        ({"apiVersion": VERSION, "kind": "MigDeviceConfig", "sharing": {"strategy": "x"}}, "sharing.strategy"),
        ({"apiVersion": VERSION, "kind": "ComputeDomainChannelConfig"}, "domainID"),
        ({"apiVersion": VERSION, "kind": "ComputeDomainChannelConfig", "domainID": 1}, "domainID"),
        ({"apiVersion": VERSION, "kind": "VfioDeviceConfig", "x": 1}, 'unknown field "x"'),
    ],
)
def test_a_wrong_config_is_refused_with_its_place(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        decode(parameters, GATES)


def test_a_config_needs_its_gate() -> None:
    sharing = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}
    parameters = {"apiVersion": VERSION, "kind": "GpuConfig", "sharing": sharing}
    with pytest.raises(BadConfig, match="TimeSlicingSettings is not enabled"):
        decode(parameters, frozenset())
    config = decode(parameters, frozenset({"TimeSlicingSettings"}))
    assert isinstance(config, GpuConfig)
    assert json.loads(config.model_dump_json(exclude_none=True))["sharing"] == sharing
