"""Two schedulers on one node: each gives the other's devices out again, and neither looks. Seen, said, and ended."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.core.gangs.phases import Phase
from ray_dra.translate.text import explain_gang
from tests.coordinator.kubernetes_world import World


def told(world: World) -> list[str]:
    return [said for reason, said in world.kube.told if reason == "DevicesGivenTwice"]


RACES = {(2, 1), (2, 2), (3, 2), (2, 4), (3, 4), (4, 4)}
"""(turn, late) at which the other scheduler does not see yet what ours was given: three turns of the making."""


@pytest.mark.parametrize("late", [0, 1, 2, 4])
@pytest.mark.parametrize("turn", range(8))
def test_of_two_schedulers_on_the_same_nodes_our_gang_ends_its_part_of_the_race(turn: int, late: int) -> None:
    """The other gives out, at one turn of the gang's making, a device that it saw free `late` turns ago. What ours got
    as well is given back at once, at the cost of a try, while no pod of it runs."""
    world = World()
    world.kube.doubled = True
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    planned = world.coordinator.gangs[gang].allocation
    assert planned is not None
    wants = planned.grants[0].node, planned.grants[0].device.device
    seen, doubled, phase = [set(world.kube.claimed())], False, Phase.PROVISIONING
    for at in range(turn + 1):
        phase = world.drive(gang, 1)
        seen.append(set(world.kube.claimed()))
        if at == turn and phase is not Phase.READY and wants not in seen[max(0, len(seen) - 1 - late)]:
            world.kube.take(*wants)
            doubled = wants in seen[-1]
    assert doubled is ((turn, late) in RACES)
    assert world.drive(gang) is Phase.READY
    for _ in range(4):
        world.turn()
    status = world.coordinator.status(gang)
    assert bool(told(world)) is doubled
    assert status.phase is Phase.READY
    moved = doubled and turn < 4  # no raylet has joined by then
    assert not doubled or status.moves == int(moved)
    if moved:
        assert "though it was ours" in " ".join(each.why for each in status.history)
    if moved or not doubled:
        assert len(set(world.kube.claimed())) == len(world.kube.claimed()), "nothing is given twice any more"
        assert not world.coordinator.backend.problems()
    else:  # its pods run, so the driver has readied the device for ours and refuses the other's claim
        assert status.other_work == tuple(told(world))
    world.kube.give_back(*wants)
    world.kube.doubled = False
    world.coordinator.release(gang)
    world.settle()


def ready(world: World) -> tuple[str, Any]:
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    assert world.drive(gang) is Phase.READY
    return gang, world.kube.claimed()[0]


def test_a_gang_that_runs_keeps_its_devices_and_says_who_was_given_them_as_well() -> None:
    """The driver has readied them for its claims, and refuses the other's."""
    world = World()
    gang, (node, device) = ready(world)
    world.kube.doubled = True
    world.kube.take(node, device)
    for _ in range(4):
        world.turn()
    status = world.coordinator.status(gang)
    assert status.phase is Phase.READY
    (said,) = told(world)
    assert said.startswith(f"{device} on {node}: given to the claims other/other-{node}-{device} and team/rd-")
    assert f"(of gang {gang}); let one scheduler place" in said
    assert status.other_work == (said,)
    assert said in explain_gang(status, world.coordinator.gangs[gang].request)
    assert said in world.coordinator.backend.problems()
    world.kube.give_back(node, device)
    world.turn()
    assert not world.coordinator.status(gang).other_work
    assert not world.coordinator.backend.problems()


def test_devices_of_others_are_told_once_and_by_dozens_in_short() -> None:
    world = World()
    world.kube.doubled = True
    for node in sorted(world.kube.nodes):
        for at in range(4):
            world.kube.take(node, f"gpu-{at}")
            world.kube.put(
                {
                    "kind": "ResourceClaim",
                    "metadata": {"name": f"more-{node}-{at}", "namespace": "more"},
                    "status": {
                        "allocation": {
                            "devices": {"results": [{"driver": "gpu.nvidia.com", "pool": node, "device": f"gpu-{at}"}]}
                        }
                    },
                }
            )
    for _ in range(5):
        world.turn()
    assert len(told(world)) == 11
    assert told(world)[-1] == "and 6 more devices"
    assert len(world.coordinator.backend.problems()) == 11
