"""A gang on a fake Kubernetes beside workers that are there, queued work of others, and parts of GPUs of others."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import UnsatisfiableError
from ray_dra.translate.map.cells import node_row
from ray_dra.translate.names import DOMAIN_DRIVER, NODE_LABEL, RAY_NODE_ID
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import tray


def test_gpu_workers_that_are_there_are_used_before_new_ones_are_made() -> None:
    """A worker of the user's own, on the host's network: it calls itself like its node, of which it has a part."""
    world = World()
    taken = "gb200-r0-t00"
    world.ray.add_node("theirs", gpus=4, labels={NODE_LABEL: taken})
    for at in range(4):
        world.kube.take(taken, f"gpu-{at}")
    world.turn()
    world.coordinator.report("theirs", tray("theirs"))
    first = world.coordinator.submit(world.order(bundles=1))
    assert first.selectors == ({RAY_NODE_ID: "theirs"},)
    assert world.drive(first.gang) is Phase.READY
    assert not world.kube.writes
    second = world.coordinator.submit(world.order(bundles=1))
    assert second.phase is Phase.PROVISIONING
    assert second.allocation is not None
    assert second.allocation.nodes != (taken,)
    assert world.drive(second.gang) is Phase.READY
    for status in (first, second):
        world.coordinator.release(status.gang)
    world.settle()


@pytest.mark.parametrize("times", [1, 99])
def test_work_that_took_a_gangs_worker_is_named_and_the_gang_gets_new_ones(times: int) -> None:
    """Ray has no taints: between two joins, queued work of others can settle on the first of a gang's raylets."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    add_node = world.ray.add_node
    took: list[str] = []

    def add_and_take(raylet: str, **more: Any) -> None:
        add_node(raylet, **more)
        if len(took) < times and world.ray.start_task(raylet, 1):
            took.append(raylet)

    world.ray.add_node = add_and_take  # type: ignore[method-assign]
    said = set()
    for _ in range(600):
        try:
            found = world.drive(gang, turns=1)
        except UnsatisfiableError:
            break
        if found is Phase.READY:
            break
        said.add(world.coordinator.status(gang).said)
    assert any("1 GPU on gb200-r0-t0" in text and "by work of job other" in text for text in said)
    if times == 1:
        assert found is Phase.READY
        assert world.coordinator.status(gang).moves == 1
        world.coordinator.release(gang)
    else:
        with pytest.raises(UnsatisfiableError, match=r"given up: .*taken by work of job other"):
            world.coordinator.status(gang)
    world.settle()


@pytest.mark.parametrize("device", ["gpu-2-mig-1g10gb-19-0", "fpga-7"])
def test_a_part_of_a_gpu_that_others_have_is_not_planned_and_what_nobody_knows_is_named(device: str) -> None:
    world = World(nodes=2, cliques=1)
    world.kube.take("gb200-r0-t00", device)
    world.turn()
    free = world.coordinator.inventory.node_states["gb200-r0-t00"].free
    assert free == (0 if device == "fpga-7" else 0b1011)
    said = world.coordinator.backend.problems()
    assert len(said) == (1 if device == "fpga-7" else 0)
    assert all(f"other/other-gb200-r0-t00-{device}" in problem for problem in said)
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    assert world.drive(gang) is Phase.READY
    status = world.coordinator.status(gang)
    assert status.allocation is not None
    assert (status.allocation.nodes, status.moves) == (("gb200-r0-t01",), 0)
    world.kube.give_back("gb200-r0-t00", device)
    world.turn()
    assert world.coordinator.inventory.node_states["gb200-r0-t00"].free == 0b1111
    assert not world.coordinator.backend.problems()
    world.coordinator.release(gang)
    world.settle()


def test_a_part_of_a_gangs_gpu_that_others_got_first_is_named_and_the_gang_moves() -> None:
    world = World()
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    world.kube.take(allocation.nodes[0], "gpu-1-mig-1g10gb-19-0")
    assert world.drive(gang) is Phase.READY
    status = world.coordinator.status(gang)
    assert status.allocation is not None
    assert status.allocation.nodes != allocation.nodes
    world.coordinator.release(gang)
    world.kube.give_back(allocation.nodes[0], "gpu-1-mig-1g10gb-19-0")
    world.settle()


def join(world: World, node: str, domain: str, pod: str = "", device: str = "channel-0") -> None:
    """Somebody's pod on a node joins a ComputeDomain: its claim has a channel there."""
    parameters = {"kind": "ComputeDomainChannelConfig", "domainID": domain}
    result = {"driver": DOMAIN_DRIVER, "pool": node, "device": device}
    owner = {"apiVersion": "v1", "kind": "Pod", "controller": True, "name": pod, "uid": f"uid-{pod}"}
    owners = {"ownerReferences": [owner]} if pod else {}
    world.kube.put(
        {
            "kind": "ResourceClaim",
            "metadata": {"name": f"theirs-{node}{device[:1]}", "namespace": "other", **owners},
            "spec": {"devices": {"config": [{"opaque": {"driver": DOMAIN_DRIVER, "parameters": parameters}}]}},
            "status": {"allocation": {"devices": {"results": [result]}}},
        }
    )
    world.turn()


def test_a_node_in_somebody_elses_compute_domain_is_in_no_gangs() -> None:
    """Its GPUs are free all the same: for gangs that need no IMEX."""
    world = World(nodes=4, cliques=2)
    join(world, "gb200-r0-t00", "their-uid")
    over_two = world.order(bundles=2)
    assert world.coordinator.submit(over_two).allocation is not None
    (first,) = world.coordinator.gangs.values()
    assert first.allocation is not None
    assert set(first.allocation.nodes) == {"gb200-r1-t00", "gb200-r1-t01"}
    assert world.drive(first.id) is Phase.READY
    with pytest.raises(UnsatisfiableError, match="IMEX domains of others"):
        world.coordinator.submit(world.order(bundles=2, wait=False))
    alone = world.coordinator.submit(world.order(bundles=1))
    assert alone.allocation is not None
    assert alone.allocation.nodes == ("gb200-r0-t00",), "what no gang over several nodes can use goes first"
    for gang in (first.id, alone.gang):
        world.coordinator.release(gang)
    for _ in range(8):
        world.turn()
    for node in ("gb200-r1-t00", "gb200-r1-t01"):
        join(world, node, "their-uid")
    waits = world.coordinator.submit(world.order(bundles=2)).gang
    world.turn()
    assert world.coordinator.status(waits).phase is Phase.QUEUED, "not now, which is not never"
    world.kube.drop("ResourceClaim", "theirs-gb200-r0-t00c")
    world.turn()
    assert world.drive(waits) is Phase.READY
    world.coordinator.release(waits)
    world.settle()


def test_the_channels_of_a_gang_are_no_others() -> None:
    world = World(nodes=2, cliques=1)
    gang = world.coordinator.submit(world.order(bundles=2)).gang
    assert world.drive(gang) is Phase.READY
    (domain,) = world.kube.view().domains
    for node in ("gb200-r0-t00", "gb200-r0-t01"):
        join(world, node, domain.uid)
    assert not world.coordinator.inventory.others_domains
    world.coordinator.release(gang)
    for node in ("gb200-r0-t00", "gb200-r0-t01"):
        world.kube.drop("ResourceClaim", f"theirs-{node}c")
    world.settle()
    assert not world.coordinator.inventory.others_domains


def test_others_domains_are_called_after_their_first_pod() -> None:
    """The map says so of each of their nodes; whose claims no pod owns, and an IMEX daemon's alone, have no name."""
    world = World(nodes=4, cliques=2)
    first, second, third, _ = (f"gb200-r{rack}-t0{tray}" for rack in range(2) for tray in range(2))
    join(world, second, "their-uid", "b-1")
    join(world, first, "their-uid", "a-0")
    join(world, first, "their-uid", "imex-daemon-x", device="daemon-0")
    join(world, third, "", "")
    inventory = world.coordinator.inventory

    def said() -> dict[str, tuple[str, str]]:
        rows = {row.name: row for row in (node_row(inventory, state) for state in inventory.node_states.values())}
        return {name: (row.imex_gang, row.imex_member) for name, row in rows.items() if row.imex_gang}

    assert said() == {
        first: ("#others", "other/b-1"),
        second: ("#others", "other/b-1"),
        third: ("#others", ""),
    }
    inventory.touched = {}
    world.kube.drop("ResourceClaim", f"theirs-{second}c")
    world.turn()
    assert said() == {first: ("#others", "other/a-0"), third: ("#others", "")}
    assert {state.name for state in inventory.touched} >= {first, second}, "whoever follows the nodes hears of it"
    world.kube.drop("ResourceClaim", f"theirs-{first}c")
    world.turn()
    assert said()[first] == ("#others", ""), "its IMEX daemon is still there"
