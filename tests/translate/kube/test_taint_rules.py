"""Which devices a DeviceTaintRule taints, by Kubernetes' documented rule: all that its selector names have to match."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.core.model.device import Health
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.shapes import UNREADABLE
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.kube.taint_rules import read_taint_rule, rules_for, with_rules
from tests.translate.kube.objects import read

MACHINE = simulated_nodes("hgx-h100")[0]
PUBLISHED = read(slices(gpu_pool(MACHINE, {}), MACHINE.name, 1))


def rule(selector: dict[str, str] | None, effect: str = "NoSchedule") -> dict[str, Any]:
    spec: dict[str, Any] = {"taint": {"key": "repair", "value": "soon", "effect": effect}}
    if selector is not None:
        spec["deviceSelector"] = selector
    return {"kind": "DeviceTaintRule", "metadata": {"name": "r"}, "spec": spec}


def health(*rules: dict[str, Any]) -> list[Health]:
    found = rules_for(MACHINE.name, map(read_taint_rule, rules))
    return [d.health for d in node_from_slices(KubeNode(MACHINE.name), with_rules(PUBLISHED, found)).devices]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (None, []),
        ({}, range(8)),
        ({"driver": "gpu.nvidia.com"}, range(8)),
        ({"driver": "other"}, []),
        ({"pool": MACHINE.name}, range(8)),
        ({"pool": "other"}, []),
        ({"device": "gpu-3"}, [3]),
        ({"device": "gpu-3", "pool": MACHINE.name, "driver": "gpu.nvidia.com"}, [3]),
        ({"device": "gpu-3", "pool": "other"}, []),
        ({"device": "gpu-3", "driver": "other"}, []),
        ({"device": "gpu-99"}, []),
    ],
)
def test_a_rule_taints_what_its_selector_chooses(selector: dict[str, str] | None, chosen: Any) -> None:
    for effect, wanted in (("NoSchedule", Health.DRAIN), ("NoExecute", Health.TAINTED), ("None", Health.OK)):
        assert health(rule(selector, effect)) == [wanted if at in chosen else Health.OK for at in range(8)]
    assert health(rule(selector, "SomethingNew")) == [Health.OK] * 8, "unknown effects are as None"


def test_of_several_rules_the_worst_counts_and_names_itself() -> None:
    device = {"device": "gpu-0"}
    rules = [rule(device, "None"), rule(device), rule({"device": "gpu-1"}, "NoExecute")]
    found = rules_for(MACHINE.name, map(read_taint_rule, rules))
    made = node_from_slices(KubeNode(MACHINE.name), with_rules(PUBLISHED, found)).devices
    assert [d.health for d in made[:3]] == [Health.DRAIN, Health.TAINTED, Health.OK]
    assert made[0].health_reason == "repair=soon (DeviceTaintRule r)"


@pytest.mark.parametrize("broken", [{}, {"spec": 5}, {"spec": {}}, {"spec": {"taint": {"key": "a"}}}])
def test_what_is_no_rule_is_left_out(broken: dict[str, Any]) -> None:
    with pytest.raises(UNREADABLE):
        read_taint_rule({"metadata": {"name": "r"}, **broken})
