"""Pools of GPUs on the fake Kubernetes: many gangs on the GPUs of one, from the call to raylets and back; killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import ray_dra
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.errors import InvalidRequest, NameTaken, UnsatisfiableError
from ray_dra.translate.files.records import gang_from_bytes, gang_to_bytes
from ray_dra.translate.files.shared_records import map_from_bytes, slot_from_bytes
from ray_dra.translate.files.snapshot import dump_snapshot, inventory_of, load_snapshot, snapshot_of
from ray_dra.translate.names import MAP_KEY, SLOT_KEY
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.pools import pool_request
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import Crash, CrashingStore
from tests.coordinator.world import World as Raylets

MPS = ray_dra.mps(memory="20Gi")
SLICES = ray_dra.time_slicing("Short")


def world() -> World:
    made = World(1, None, "hgx-b200")
    made.coordinator.observe()
    return made


def pool(gpus: int = 2, sharing: GpuSharing = SLICES, tasks: float = 0.25, **more: Any) -> Order:
    order = {key: more.pop(key) for key in ("wait", "owner", "detached", "team") if key in more}
    request = pool_request("notebooks", gpus=gpus, sharing=sharing, tasks=tasks, **more)
    return Order(request, **{"owner": "job", "detached": True, **order})


def sharer(*amounts: float, **more: Any) -> Order:
    request = request_from_bundles([{"GPU": each} for each in amounts], pool="notebooks")
    return Order(request, **{"owner": "job", **more})


def ready(here: World, order: Order) -> str:
    gang = here.coordinator.submit(order).gang
    assert here.drive(gang) is Phase.READY, here.coordinator.status(gang)
    return gang


def amounts(here: World) -> Counter[str | None]:
    """By GPU: thousandths that gangs have."""
    found: Counter[str | None] = Counter()
    for gang in here.coordinator.gangs.values():
        for grant in gang.allocation.grants if gang.allocation is not None else ():
            found[grant.uuid] += grant.amount or 1000
    return found


def test_gangs_have_shares_of_the_same_gpus_by_one_claim() -> None:
    here = world()
    holder = ready(here, pool())
    held = here.coordinator.status(holder).allocation
    assert held is not None
    assert len({grant.uuid for grant in held.grants}) == 2, "a bundle on each GPU"
    assert here.coordinator.inventory.free_devices == 6
    claims = len(here.kube.claimed())
    gangs = [ready(here, sharer(0.5)), ready(here, sharer(0.25, 0.25)), ready(here, sharer(0.25))]
    assert len(here.kube.claimed()) == claims == 2, "no claim of their own"
    assert here.coordinator.inventory.free_devices == 6
    uuids = {grant.uuid for grant in held.grants}
    for gang in gangs:
        status = here.coordinator.status(gang)
        assert status.allocation is not None
        assert status.allocation.pool == holder
        (label,) = here.coordinator.backend.slots(status.allocation)
        slot = slot_from_bytes(here.store.get(SLOT_KEY + label) or b"")
        assert set(slot.uuids) == uuids, "the container sees all GPUs of the pool's claim"
        mapped = map_from_bytes(here.store.get(f"{MAP_KEY}{status.group}") or b"")
        for (device,), grant in zip(mapped, status.allocation.grants, strict=True):
            assert device[1] == grant.uuid == slot.shares[device[0]], "a task in its bundle sees its GPU"
        record = here.coordinator.gangs[gang]
        assert gang_from_bytes(gang_to_bytes(record)) == record
    assert max(amounts(here).values()) <= 1000
    copy = load_snapshot(dump_snapshot(snapshot_of(here.coordinator.inventory)))
    assert inventory_of(copy).pool_left(holder) == here.coordinator.inventory.pool_left(holder)
    other = ready(here, Order(request_from_bundles([{"GPU": 6}]), owner="job"))
    for gang in (other, *gangs):
        here.coordinator.release(gang)
    for _ in range(20):
        here.turn()
    assert list(here.coordinator.gangs) == [holder], "the pool stays when the last that shared it has left"
    here.coordinator.release(holder)
    here.settle()
    assert here.coordinator.inventory.free_devices == 8


def test_who_does_not_fit_waits_for_its_pool_alone_and_holds_up_nobody() -> None:
    here = world()
    ready(here, pool(gpus=1))
    first = ready(here, sharer(0.5))
    waits = here.coordinator.submit(sharer(0.5))
    assert waits.phase is Phase.QUEUED
    assert [each.kind for each in waits.waits_for] == [ShortfallKind.POOL]
    assert "at most 0.25 of one GPU" in str(waits.waits_for[0])
    expected = here.coordinator.when(sharer(0.25).request, None)
    assert (expected.ahead, expected.starts) == (1, None), "nobody can tell when somebody leaves the pool"
    behind = here.coordinator.submit(sharer(0.25)).gang
    assert here.coordinator.status(behind).waits_for[0].kind is ShortfallKind.QUEUE, "nobody passes in the same pool"
    ready(here, Order(request_from_bundles([{"GPU": 7}]), owner="job"))
    big = here.coordinator.submit(Order(request_from_bundles([{"GPU": 8}]), owner="job")).gang
    with pytest.raises(UnsatisfiableError, match="does not have it now"):
        here.coordinator.submit(sharer(0.25, wait=False))
    here.coordinator.release(first)
    assert here.drive(waits.gang) is Phase.READY
    assert here.drive(behind) is Phase.READY, "whoever waits for whole GPUs"
    assert here.coordinator.status(big).phase is Phase.QUEUED


def test_what_can_never_be_is_refused_before_anything_is_held() -> None:
    here = world()
    with pytest.raises(InvalidRequest, match="no such pool") as none:
        here.coordinator.submit(sharer(0.25))
    assert "ray_dra.pool" in str(none.value)
    ready(here, pool(gpus=1, per_gang=0.5, per_program=0.6))
    writes = here.kube.writes
    with pytest.raises(NameTaken, match="exists already"):
        here.coordinator.submit(pool())
    with pytest.raises(UnsatisfiableError, match="a gang has no more of it"):
        here.coordinator.submit(sharer(0.8))
    assert here.kube.writes == writes
    ready(here, sharer(0.4))
    waits = here.coordinator.submit(sharer(0.3))
    assert "this one has 0.4" in str(waits.waits_for[0])
    here.ray.jobs.add("other")
    ready(here, sharer(0.3, owner="other"))


def test_no_more_clients_than_mps_serves_lie_on_a_gpu() -> None:
    """Of 20Gi each 8 or 9 are on a GPU of a B200: shares are at least so large that no more can be."""
    here = world()
    holder = ready(here, pool(gpus=1, sharing=MPS, tasks=0.1))
    assert here.coordinator.inventory.allocation(holder) is not None
    (state,) = here.coordinator.inventory.node_states.values()
    most = MPS.clients_on(state.node.devices[0].capacity["memory"])
    answer = here.coordinator.plan(request_from_bundles([{"GPU": 0.02}], pool="notebooks"))
    assert isinstance(answer, Unsatisfiable)
    assert "has at least" in str(answer)
    least = (1000 // (most + 1) + 1) / 1000
    answer = here.coordinator.plan(request_from_bundles([{"GPU": least}] * (most - 1), pool="notebooks"))
    assert not isinstance(answer, Unsatisfiable)
    answer = here.coordinator.plan(request_from_bundles([{"GPU": least}] * most, pool="notebooks"))
    assert isinstance(answer, Unsatisfiable)


def test_with_the_pool_end_all_that_have_shares_of_it() -> None:
    here = world()
    holder = ready(here, pool())
    gangs = [ready(here, sharer(0.25)), here.coordinator.submit(sharer(0.75, 0.75)).gang]
    assert here.coordinator.status(gangs[1]).phase is Phase.QUEUED
    here.coordinator.release(holder)
    seen_alone = False
    for _ in range(60):
        here.turn()
        seen_alone = seen_alone or (gangs[0] in here.coordinator.gangs and holder not in here.coordinator.gangs)
        if not here.coordinator.gangs:
            break
    assert not here.coordinator.gangs
    assert not seen_alone, "its GPUs are free only once nobody has shares of them"
    assert here.coordinator.inventory.free_devices == 8
    assert here.left() == []


def two_nodes() -> tuple[World, str, list[str]]:
    """A pool of ten GPUs on two nodes of eight, and a gang on each node."""
    here = World(2, None, "hgx-b200")
    here.coordinator.observe()
    holder = ready(here, pool(gpus=10))
    gangs = [ready(here, sharer(*[0.5] * count)) for count in (8, 2)]
    assert [nodes_of(here, gang) for gang in gangs] == [{"b200-0"}, {"b200-1"}]
    return here, holder, gangs


def nodes_of(here: World, gang: str) -> set[str]:
    allocation = here.coordinator.status(gang).allocation
    return set() if allocation is None else set(allocation.nodes)


FAULTS: dict[str, tuple[Callable[[World], object], Callable[[World], object], bool]] = {
    # what befalls the node b200-0, what ends that, and whether the pool is whole then
    "a GPU is lost": (
        lambda here: here.kube.taint_device("b200-0", "gpu-2", "NoExecute"),
        lambda here: here.kube.taint_device("b200-0", "gpu-2", ""),
        True,
    ),
    "the node is silent": (
        lambda here: here.kube.lose_node("b200-0"),
        lambda here: here.kube.regain_node("b200-0"),
        False,
    ),
    "the node is deleted": (
        lambda here: here.kube.delete_node("b200-0"),
        lambda here: here.kube.regain_node("b200-0"),
        False,
    ),
}


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_left_of_a_pool_is_for_gangs_and_what_is_lost_for_none(fault: str, killed: bool) -> None:
    befalls, ends, heals = FAULTS[fault]
    here, holder, (hit, well) = two_nodes()
    befalls(here)
    for _ in range(10):
        here.turn()
    if killed:
        here.restart()
        for _ in range(3):
            here.turn()
    phases = [here.coordinator.status(gang).phase for gang in (holder, hit, well)]
    assert phases == [Phase.DEGRADED, Phase.DEGRADED, Phase.READY]
    new = ready(here, sharer(0.2, 0.2))
    held = here.coordinator.status(new).allocation
    assert held is not None
    assert ("b200-0", "gpu-2") not in {(grant.node, grant.device.device) for grant in held.grants}
    if not heals:
        assert nodes_of(here, new) == {"b200-1"}
        waits = here.coordinator.submit(sharer(*[0.2] * 3))
        assert waits.phase is Phase.QUEUED
        assert "of its 10 GPUs some are lost" in str(waits.waits_for[0])
    ends(here)
    for _ in range(30):
        here.turn()
    if heals:
        assert here.coordinator.status(holder).phase is here.coordinator.status(hit).phase is Phase.READY
    else:
        assert here.coordinator.status(holder).phase is Phase.DEGRADED
        assert "the worker on b200-0 is gone" in here.coordinator.status(holder).lost
        assert here.coordinator.status(waits.gang).phase is Phase.QUEUED, "the claim of the GPUs there is gone"
        assert here.coordinator.status(well).phase is Phase.READY
    assert max(amounts(here).values()) <= 1000
    here.coordinator.release(holder)
    here.settle()
    again = ready(here, pool(gpus=16))
    assert nodes_of(here, again) == {"b200-0", "b200-1"}


def test_a_pool_that_has_met_a_fault_takes_nobody_new_and_whoever_is_there_goes_on() -> None:
    here = world()
    holder = ready(here, pool(gpus=1))
    there = ready(here, sharer(0.25))
    status = here.coordinator.status(holder)
    assert status.allocation is not None
    (label,) = here.coordinator.backend.slots(status.allocation)
    (raylet,) = (r for r, n in here.ray.nodes.items() if n.alive and label in n.labels.values())
    here.kube.drop("Pod", raylet)
    for _ in range(4):
        here.turn()
    assert here.coordinator.status(holder).phase is Phase.DEGRADED
    waits = here.coordinator.submit(sharer(0.25))
    assert "of its 1 GPUs some are lost" in str(waits.waits_for[0])
    assert there in here.coordinator.gangs
    here.coordinator.release(holder)
    here.settle()


def test_raylets_that_are_there_have_no_pools() -> None:
    here = Raylets()
    with pytest.raises(UnsatisfiableError, match="offers whole GPUs"):
        here.coordinator.submit(pool())
    assert here.coordinator.gangs == {}


def life(here: World) -> None:
    """A pool, two gangs of which one waits for the other, and the end of all; wherever the coordinator is killed."""

    def do(what: Any) -> Any:
        try:
            return what()
        except Crash:
            here.restart()
            return None

    orders = [pool(gpus=1, tasks=0.4), sharer(0.6), sharer(0.5)]
    for order in orders:
        do(partial(here.coordinator.submit, order))
        if order.request.gang not in here.coordinator.gangs:
            here.coordinator.submit(order)
        if order is not orders[2]:
            assert here.drive(order.request.gang) is Phase.READY
    first = orders[1].request.gang
    do(lambda: here.coordinator.release(first))
    do(lambda: here.coordinator.release(first))  # a call that is lost is sent again
    assert here.drive(orders[2].request.gang) is Phase.READY
    for _ in range(2):
        do(lambda: here.coordinator.release(orders[0].request.gang))
    here.settle()
    assert here.coordinator.inventory.free_devices == 8


class Mortal(World):
    """The coordinator may be killed at its writes to the store, too; pods that write there are not it."""

    def _pods(self) -> None:
        assert isinstance(self.store, CrashingStore)
        left, self.store.left = self.store.left, None
        super()._pods()
        self.store.left = left

    def drive(self, gang: str, turns: int = 80) -> Phase:
        try:
            return super().drive(gang, turns)
        except Crash:
            self.restart()
            return super().drive(gang, turns)


def mortal() -> tuple[Mortal, CrashingStore]:
    here, store = Mortal(1, None, "hgx-b200"), CrashingStore()
    here.store = store
    here.restart()
    return here, store


def writes() -> tuple[int, int]:
    here, store = mortal()
    life(here)
    return here.kube.writes, store.writes


TO_KUBE, TO_STORE = writes()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(TO_KUBE))
def test_a_coordinator_killed_at_any_write_to_kubernetes_goes_on(number: int, after: bool) -> None:
    here, _ = mortal()
    here.kube.die_at(number, after=after)
    life(here)


@pytest.mark.parametrize("after", [False, True])
def test_a_coordinator_killed_at_any_write_to_the_store_goes_on(after: bool) -> None:
    for number in range(TO_STORE):
        here, store = mortal()
        store.left, store.after = number, after
        life(here)
