"""Gangs of parts of GPUs on Kubernetes: from the call to raylets and back, beside strangers, and through kills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.parts import PartCriteria
from ray_dra.errors import UnsatisfiableError
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.simulated.mig import MigState
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.files.shared_records import map_from_bytes, slot_from_bytes
from ray_dra.translate.kube.slices import read_slice
from ray_dra.translate.names import MAP_KEY, SLOT_KEY
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import mig
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import Crash
from tests.coordinator.world import World as RayletWorld


def world(nodes: int = 1, gates: frozenset[str] = frozenset({"DynamicMIG"})) -> World:
    made = World(nodes, None, "hgx-h100", gates)
    made.coordinator.observe()
    return made


def asking(profiles: Sequence[str], **more: Any) -> Order:
    """Bundles with parts of these profiles."""
    request = request_from_bundles([{"GPU": 1}] * len(profiles), part=mig("1g.10gb"), **more)
    (device,) = request.bundles[0].devices
    kinds = {
        profile: replace(request.bundles[0], devices=(replace(device, part=PartCriteria(profile)),))
        for profile in profiles
    }
    return Order(replace(request, bundles=tuple(kinds[profile] for profile in profiles)), owner="job")


def numbered(world: World, gang: str) -> list[tuple[str, int]]:
    """(node, number in its raylet) of each bundle's device, as the worker hook reads it."""
    group = world.coordinator.status(gang).group
    data = world.store.get(f"{MAP_KEY}{group}")
    assert data is not None
    return [(device[2], device[0]) for bundle in map_from_bytes(data) for device in bundle]


def test_fifty_six_bundles_have_the_parts_of_eight_gpus() -> None:
    here = world()
    status = here.coordinator.submit(asking(["1g.10gb"] * 56))
    assert here.drive(status.gang) is Phase.READY
    claimed = here.kube.claimed()
    assert len(claimed) == len(set(claimed)) == 56
    assert Counter(device.partition("-mig-")[0] for _, device in claimed) == {f"gpu-{at}": 7 for at in range(8)}
    assert len(here.kube._of("ResourceClaim")) == 8
    assert sorted(number for _, number in numbered(here, status.gang)) == list(range(56))
    assert here.coordinator.inventory.free_devices == 0
    with pytest.raises(UnsatisfiableError, match="wanted 1 parts"):
        here.coordinator.submit(replace(asking(["1g.10gb"]), wait=False))
    here.coordinator.release(status.gang)
    here.settle()
    assert here.coordinator.inventory.free_devices == 8


def test_each_bundles_number_is_that_of_its_part_in_the_raylet() -> None:
    """The raylet numbers its parts as the slot's record has them, and the map says which are whose."""
    here = world(2)
    profiles = ["1g.10gb", "3g.40gb", "2g.20gb", "1g.10gb", "4g.40gb", "3g.40gb", "1g.20gb", "7g.80gb"] * 2
    gang = here.coordinator.submit(asking(profiles)).gang
    assert here.drive(gang) is Phase.READY
    allocation = here.coordinator.status(gang).allocation
    assert allocation is not None
    by_node = {node: label for label, node in here.coordinator.backend.slots(allocation).items()}
    seen = set()
    for (node, number), grant, profile in zip(numbered(here, gang), allocation.grants, profiles, strict=True):
        data = here.store.get(SLOT_KEY + by_node[node])
        assert data is not None
        gpu, kind, _ = slot_from_bytes(data).parts[number]
        assert grant.part is not None
        assert (gpu, kind) == (grant.part.parent, profile)
        seen.add((node, number))
    assert len(seen) == len(profiles)
    here.coordinator.release(gang)
    here.settle()


def test_gangs_share_gpus_beside_strangers_and_each_gets_its_own() -> None:
    here = world()
    here.kube.take("h100-0", "gpu-0-mig-1g10gb-19-2")
    here.turn()
    gangs = []
    for profiles in (["1g.10gb"] * 3, ["3g.40gb", "3g.40gb"], ["4g.40gb"], ["1g.10gb"] * 2, ["7g.80gb"]):
        gangs.append(here.coordinator.submit(asking(profiles)).gang)
        here.turn()
    for gang in gangs:
        assert here.drive(gang) is Phase.READY
        assert here.coordinator.status(gang).moves == 0, "the allocator gave each what was planned at the first try"
    broken = {device.partition("-mig-")[0] for _, device in here.kube.claimed()}
    assert len(broken) == 4
    assert here.coordinator.inventory.free_devices == 4
    whole = here.coordinator.submit(Order(request_from_bundles([{"GPU": 4}]), owner="job")).gang
    assert here.drive(whole) is Phase.READY
    for gang in (*gangs, whole):
        here.coordinator.release(gang)
    here.settle()
    assert here.coordinator.inventory.free_devices == 7


def test_parts_that_are_there_are_claimed_by_their_uuids() -> None:
    machine = simulated_nodes("hgx-h100", nodes=1)[0]
    state = MigState()
    for gpu in (2, 5):
        state = state.with_mode(gpu, True, now=True)
        for at, profile in enumerate(("3g.40gb", "1g.10gb", "1g.10gb")):
            kind = machine.profile.mig_profile(profile)
            start = 0 if at == 0 else 3 + at
            state, _ = state.with_part(machine.profile, gpu, kind, start, f"MIG-{gpu}-{at}")
    here = world(1, frozenset())
    publish(here.kube, machine.name, slices(gpu_pool(machine, {}, frozenset(), state), machine.name, 2))
    here.turn()
    gang = here.coordinator.submit(asking(["1g.10gb"] * 4)).gang
    assert here.drive(gang) is Phase.READY
    ((_, got),) = here.kube.running()
    assert got == {"MIG-2-1", "MIG-2-2", "MIG-5-1", "MIG-5-2"}
    with pytest.raises(UnsatisfiableError, match="none free"):
        here.coordinator.submit(replace(asking(["1g.10gb"]), wait=False))
    larger = here.coordinator.submit(
        Order(request_from_bundles([{"GPU": 1}] * 2, part=mig(memory="30G")), owner="job")
    ).gang
    assert here.drive(larger) is Phase.READY
    assert here.coordinator.inventory.free_devices == 6
    for each in (gang, larger):
        here.coordinator.release(each)
    here.settle()


def publish(kube: FakeKube, node: str, raw: list[dict[str, Any]]) -> None:
    """The node's driver publishes this from now on."""
    versioned = [{**each, "metadata": {**each["metadata"], "resourceVersion": "2"}} for each in raw]
    kube._version += 1
    kube._slices[node] = tuple(map(read_slice, versioned))


def writes(release: bool) -> int:
    here = world()
    gang = here.coordinator.submit(asking(["3g.40gb"] * 3)).gang
    assert here.drive(gang) is Phase.READY
    if release:
        here.coordinator.release(gang)
        here.settle()
    return here.kube.writes


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(writes(False)))
def test_a_coordinator_killed_at_any_write_of_the_making_goes_on(number: int, after: bool) -> None:
    here = world()
    here.kube.die_at(number, after=after)
    gang = here.coordinator.submit(asking(["3g.40gb"] * 3)).gang
    assert here.drive(gang) is Phase.READY
    assert here.coordinator.status(gang).moves == 0
    here.coordinator.release(gang)
    here.settle()
    assert here.coordinator.inventory.free_devices == 8


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(writes(True) - writes(False)))
def test_a_coordinator_killed_at_any_write_of_the_undoing_goes_on(number: int, after: bool) -> None:
    here = world()
    gang = here.coordinator.submit(asking(["3g.40gb"] * 3)).gang
    assert here.drive(gang) is Phase.READY
    here.kube.die_at(number, after=after)
    try:
        here.coordinator.release(gang)
    except Crash:
        here.restart()
    here.settle()
    assert here.coordinator.inventory.free_devices == 8


def test_without_parts_on_offer_the_no_says_so() -> None:
    here = world(1, frozenset())
    with pytest.raises(UnsatisfiableError, match="no node gives GPUs in parts by claims"):
        here.coordinator.submit(asking(["1g.10gb"]))


def test_on_raylets_that_are_there_the_no_says_what_to_ask_instead() -> None:
    here = RayletWorld()
    here.coordinator.observe()
    for bundle in ({"GPU": 1, "MIG-1g.10gb": 1}, {"MIG-1g.10gb": 1}):
        with pytest.raises(UnsatisfiableError, match="ask Ray for MIG-<profile>"):
            here.submit(request_from_bundles([bundle]))
    assert not here.coordinator.gangs
