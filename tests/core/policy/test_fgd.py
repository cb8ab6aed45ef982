"""FGD's measure and rule, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Device, DeviceId
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from ray_dra.core.policy.fgd import Demand, FragmentationGradient, Mix


def gpu_node(name: str, gpus: int, product: str, cpus: float) -> Node:
    devices = (
        Device(DeviceId("gpu.nvidia.com", name, f"gpu-{i}"), i, None, attributes={"product": product})
        for i in range(gpus)
    )
    return Node(name, tuple(devices), resources={"CPU": cpus})


def test_f_by_hand() -> None:
    """One node with 0.3, 1 and 1 GPU left and 4 CPUs, three demands; worked out on paper."""
    mix = Mix(
        [
            Demand(0.5, 1, 500, (), (("CPU", 2.0),)),  # served; 0.3 is too little for it: 300 useless
            Demand(0.3, 4, 1000, (), (("CPU", 1.0),)),  # four GPUs: all 2300 useless
            Demand(0.2, 1, 200, ("H200",), (("CPU", 1.0),)),  # another product: all 2300 useless
        ]
    )
    left = (300, 1000, 1000)
    assert mix.unusable((("H100", left),), (4.0,)) == pytest.approx(0.5 * 300 + 0.3 * 2300 + 0.2 * 2300)
    assert mix.unusable((("H200", left),), (4.0,)) == pytest.approx(0.5 * 300 + 0.3 * 2300)
    assert mix.unusable((("H100", left),), (1.0,)) == pytest.approx(2300)
    assert mix.unusable((), (4.0,)) == 0
    both = (("H100", (300, 1000)), ("H200", (1000,)))  # the last demand has one of the three devices
    assert mix.unusable(both, (4.0,)) == pytest.approx(0.5 * 300 + 0.3 * 2300 + 0.2 * 1300)


CHANGES = [{}, {"points": 50}, {"fullest": True}, {"fine": 20.0}]


@pytest.mark.parametrize("changes", CHANGES, ids=["fgd", "coarse", "fullest", "apart"])
def test_the_gradient_fills_gaps_and_spares_rare_products(changes: dict[str, Any]) -> None:
    demands = [Demand(0.6, 1), Demand(0.2, 1, 400), Demand(0.2, 1, 1000, ("rare",))]
    policy = FragmentationGradient(demands, **changes)
    inventory = Inventory([gpu_node("a", 2, "common", 64), gpu_node("b", 2, "rare", 64)])

    def place(name: str, share: int | None = None) -> Allocation:
        answer = plan(inventory, GangRequest(name, (Bundle((DeviceRequest(1, share=share),)),)), policy=policy)
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
        return answer

    assert place("first", 600).nodes == ("a",), "the rare product is left to those who name it"
    assert place("second", 400).grants[0].position == 0, "the gap is filled"
    assert place("third").nodes == ("a",)


@pytest.mark.parametrize(("fullest", "name"), [(False, "a"), (True, "b")])
def test_of_nodes_that_score_the_same_fgd_takes_the_first_of_the_list(fullest: bool, name: str) -> None:
    """Its published figures are met only so (docs/benchmarks.md); the smaller node would be the tighter one."""
    policy = FragmentationGradient([Demand(1.0, 1)], fullest=fullest)
    inventory = Inventory([gpu_node("a", 8, "common", 64), gpu_node("b", 1, "common", 64)])
    answer = plan(inventory, GangRequest("one", (Bundle((DeviceRequest(1),)),)), policy=policy)
    assert isinstance(answer, Allocation)
    assert answer.nodes == (name,)
