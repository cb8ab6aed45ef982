"""A gang changes between whole GPUs, parts and shares: its claims end, others are made on the same GPUs, and nobody
else gets one in between, whoever is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.gangs.gang import nodes_of
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.shrinking import shrunk_to
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import InvalidRequest, NotAllowed, UnsatisfiableError
from ray_dra.ports.kubernetes import Object
from ray_dra.translate.names import SCHEDULE_ANNOTATION
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import mig, mps, time_slicing
from ray_dra.translate.schedule import read_schedule
from tests.coordinator import kubernetes_world
from tests.coordinator.kubernetes_world import CrashingKube
from tests.coordinator.world import Crash

DYNAMIC = frozenset({"DynamicMIG"})
WHOLE: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 8}], {})
PARTS: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 1}] * 56, {"part": mig("1g.10gb")})
FEW: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 1}] * 16, {"part": mig("3g.40gb")})


def wanting(device_class: str) -> dict[str, Any]:
    """A stranger's claim that takes whatever it can get."""
    exactly = {"deviceClassName": device_class, "count": 1, "selectors": []}
    return {"spec": {"devices": {"requests": [{"name": "any", "exactly": exactly}]}}}


class World(kubernetes_world.World):
    """A gang has all GPUs of a node, and a stranger asks Kubernetes for any of them all the time."""

    def __init__(self, gates: frozenset[str] = DYNAMIC, nodes: int = 1, first: Any = WHOLE) -> None:
        super().__init__(nodes, None, "hgx-h100", gates)
        self.coordinator.observe()
        self.tried = 0
        self.gang = ""
        bundles, more = first
        gang = self.coordinator.submit(Order(request_from_bundles(bundles, **more), owner="job")).gang
        assert self.drive(gang) is Phase.READY
        self.gang = gang

    def shape(self, shape: Any) -> GangRequest:
        bundles, more = shape
        return replace(request_from_bundles(bundles, **more), gang=self.gang)

    def reshape(self, shape: Any, timeout: float = 60.0, grace: float = 0.0, *, keep: bool = False) -> None:
        try:
            self.coordinator.reshape(self.gang, self.shape(shape), timeout, grace, keep=keep)
        except Crash:
            self.restart()

    def turn(self) -> None:
        self.try_to_take()
        super().turn()
        self.try_to_take()

    def try_to_take(self) -> None:
        if not self.gang:
            return
        gang = self.coordinator.gangs.get(self.gang)
        if gang is None or gang.releasing:
            return
        for node in {placed.node for placed in gang.holds.bundles} if gang.holds is not None else ():
            for kind in ("gpu.nvidia.com", "mig.nvidia.com"):
                self.tried += 1
                assert self.kube._allocate(node, wanting(kind)) is None, f"a stranger gets a GPU: {gang.reshape}"

    def until(self, shape: Any, turns: int = 120) -> None:
        """The gang has the shape, and nothing is left of the one before but what it keeps, which is guarded."""
        asked = self.shape(shape)
        for _ in range(turns):
            self.drive(self.gang, turns=1)
            gang = self.coordinator.gangs[self.gang]
            if gang.request == asked and gang.reshape is None and self.guarded() == self.kept():
                break
        status = self.coordinator.status(self.gang)
        assert (status.phase, status.reshape) == (Phase.READY, None), status.said
        assert self.coordinator.gangs[self.gang].request == asked
        assert self.guarded() == self.kept()

    def kept(self) -> set[str]:
        """The devices that are all of a GPU that the gang keeps, or a part of it."""
        held = self.coordinator.gangs[self.gang].allocation
        gpus = {g.device.device for p in held.kept.placed for g in p.grants} if held and held.kept else set()
        published = {device.name for each in self.kube.view().slices for device in each.devices}
        return {name for name in published if name.partition("-mig-")[0] in gpus}

    def guarded(self) -> set[str]:
        return {rule["spec"]["deviceSelector"].get("device", "all") for rule in self.guards()}

    def guards(self) -> list[Any]:
        return self.kube._of("DeviceTaintRule")

    def end(self) -> None:
        gang, self.gang = self.gang, ""
        self.coordinator.release(gang)
        self.settle()
        assert not self.guards()


def test_eight_gpus_become_fifty_six_parts_and_eight_gpus_again() -> None:
    world = World()
    for _ in range(2):
        world.reshape(PARTS)
        world.until(PARTS)
        claimed = world.kube.claimed()
        assert len(claimed) == len(set(claimed)) == 56
        assert Counter(device.partition("-mig-")[0] for _, device in claimed) == {f"gpu-{at}": 7 for at in range(8)}
        world.reshape(WHOLE)
        world.until(WHOLE)
        assert sorted(device for _, device in world.kube.claimed()) == [f"gpu-{at}" for at in range(8)]
    assert world.tried > 100
    world.end()
    assert world.coordinator.inventory.free_devices == 8


def test_from_parts_to_other_parts() -> None:
    world = World(first=PARTS)
    world.reshape(FEW)
    world.until(FEW)
    assert len(world.kube.claimed()) == 16
    world.end()


@pytest.mark.parametrize("sharing", [mps(memory="20Gi", threads=25), time_slicing("Short")])
def test_from_whole_gpus_to_shares_and_back(sharing: object) -> None:
    shares = ([{"GPU": 0.25}] * 32, {"sharing": sharing})
    world = World(frozenset({"MPSSupport", "TimeSlicingSettings"}))
    world.reshape(shares)
    world.until(shares)
    assert len(world.kube.claimed()) == 8
    (claim,) = world.kube._of("ResourceClaim")
    assert claim["spec"]["devices"]["config"]
    world.reshape(WHOLE)
    world.until(WHOLE)
    (claim,) = world.kube._of("ResourceClaim")
    assert "config" not in claim["spec"]["devices"]
    world.end()


HALF: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 1}] * 8, {"part": mig("3g.40gb")})  # on 4 GPUs


def test_what_is_kept_is_nobodys_though_no_claim_has_it() -> None:
    world = World()
    for _ in range(2):
        world.reshape(HALF, keep=True)
        world.until(HALF)
        assert len({device.partition("-mig-")[0] for _, device in world.kube.claimed()}) == 4
        for _ in range(20):
            world.turn()
        assert world.coordinator.inventory.free_devices == 0
        assert world.guarded() == world.kept()
        assert len(world.kept()) > 4 * 7
        world.reshape(WHOLE)
        world.until(WHOLE)
        assert len(world.kube.claimed()) == 8
    world.reshape(HALF, keep=True)
    world.until(HALF)
    two: tuple[list[dict[str, float]], dict[str, Any]] = (
        [{"GPU": 2}],
        {},
    )  # of whole GPUs, too, by workers with other claims: these have not all of them
    world.reshape(two, keep=True)
    world.until(two)
    assert len(world.kube.claimed()) == 2
    world.reshape(WHOLE)
    world.until(WHOLE)
    world.end()
    assert world.coordinator.inventory.free_devices == 8


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_gang_keeps_is_guarded_and_so_no_sign_that_all_of_its_gpus_are(restarted: bool) -> None:
    """The rules for what it keeps were taken for those of the change: the claims of the rest ended at once."""
    world = World()
    world.reshape(HALF, keep=True)
    world.until(HALF)
    kept = world.guarded()
    if restarted:
        world.restart()
        for _ in range(6):
            world.turn()
    used = {device.partition("-mig-")[0] for _, device in world.kube.claimed()}
    asked, since = world.clock.now, None
    world.reshape(WHOLE, grace=0.0)
    for _ in range(20):
        reshape = world.coordinator.gangs[world.gang].reshape
        if reshape is None or reshape.stage is not ReshapeStage.DRAINS:
            break
        there = world.guarded()
        published = {device.name for each in world.kube.view().slices for device in each.devices}
        if since is None and ("all" in there or published <= there):
            since = world.clock.now
        world.turn()
    assert since is not None, f"nothing was guarded but {kept} of {used}, asked at {asked}"
    assert world.clock.now - since >= 2.0
    world.until(WHOLE)
    world.end()


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_kept_stays_guarded_while_the_driver_publishes_nothing(restarted: bool) -> None:
    """Nothing tells then what the parts of a GPU are called: a coordinator that starts just then guarded none of them,
    and did not look again."""
    world = World()
    world.reshape(HALF, keep=True)
    world.until(HALF)
    (node,) = world.kube._slices
    guarded = world.guarded()
    world.kube.stop_driver(node)
    if restarted:
        world.restart()
    for _ in range(20):
        world.turn()
    assert world.guarded() == ({"all"} if restarted else guarded)
    world.kube.stop_driver(node, stopped=False)
    for _ in range(20):
        world.turn()
    assert world.guarded() == world.kept() == guarded
    world.reshape(WHOLE)
    world.until(WHOLE)
    world.end()


def test_devices_that_a_driver_publishes_later_of_a_gpu_that_is_kept_are_guarded_too() -> None:
    world = World()
    (node,) = world.kube._slices
    published = world.kube._slices[node]

    def without(kind: str) -> tuple[Any, ...]:
        left = [tuple(device for device in each.devices if kind not in device.name) for each in published]
        return tuple(
            replace(each, devices=devices, version="without") for each, devices in zip(published, left, strict=True)
        )

    world.kube._slices[node] = without("-mig-1g20gb")
    world.kube._version += 1
    world.reshape(HALF, keep=True)
    world.until(HALF)
    few = world.guarded()
    world.kube._slices[node] = published
    world.kube._version += 1
    world.try_to_take = lambda: None  # type: ignore[method-assign]
    world.turn()
    world.turn()
    assert few < world.guarded() == world.kept()
    world.end()


def test_what_is_kept_is_given_back_without_another_change() -> None:
    world = World()
    world.reshape(HALF, keep=True)
    world.until(HALF)
    claimed, moves = world.kube.claimed(), world.coordinator.gangs[world.gang].moves
    world.try_to_take = lambda: None  # type: ignore[method-assign]
    world.reshape(HALF)
    world.until(HALF)
    assert (world.kube.claimed(), world.coordinator.gangs[world.gang].moves) == (claimed, moves)
    assert world.coordinator.inventory.free_devices == 4
    world.end()


def change_without_images(world: World, shape: Any) -> None:
    """The gang's node gets no images until the old shape is on its way back."""
    node = world.coordinator.status(world.gang).allocation.nodes[0]  # type: ignore[union-attr]
    world.kube.break_registry(node)
    world.reshape(shape, timeout=20.0)
    for _ in range(200):
        world.turn()
        gang = world.coordinator.gangs[world.gang]
        if gang.reshape is not None and gang.reshape.stage is ReshapeStage.RETURNS:
            break
    world.kube.break_registry()


def test_where_the_next_workers_cannot_be_had_it_still_keeps_what_it_kept() -> None:
    world = World()
    world.reshape(HALF, keep=True)
    world.until(HALF)
    change_without_images(world, WHOLE)
    world.until(HALF)
    assert "within 20 s" in world.coordinator.status(world.gang).shape_failed
    assert world.coordinator.inventory.free_devices == 0
    world.reshape(WHOLE)
    world.until(WHOLE)
    world.end()


def test_beside_other_gangs_the_rest_of_the_node_is_left_alone() -> None:
    """Rules are for the gang's own GPUs alone, and so are they gone."""
    world = World(first=([{"GPU": 4}], {}))
    world.gang, gang = "", world.gang
    other = world.coordinator.submit(Order(request_from_bundles([{"GPU": 2}]), owner="job")).gang
    assert world.drive(other) is Phase.READY
    world.gang = gang
    tainted: set[str] = set()

    def no_stranger() -> None:
        tainted.update(rule["spec"]["deviceSelector"].get("device", "all") for rule in world.guards())

    world.try_to_take = no_stranger  # type: ignore[method-assign]
    parts = ([{"GPU": 1}] * 28, {"part": mig("1g.10gb")})
    world.reshape(parts)
    world.until(parts)
    mine = {device.partition("-mig-")[0] for _, device in world.kube.claimed() if "-mig-" in device}
    assert {device.partition("-mig-")[0] for device in tainted} == mine
    published = {device.name for each in world.kube.view().slices for device in each.devices}
    assert tainted == {name for name in published if name.partition("-mig-")[0] in mine}
    world.coordinator.release(other)
    world.end()


def test_a_shape_that_its_gpus_do_not_have_changes_nothing() -> None:
    world = World()
    before, writes = world.coordinator.gangs[world.gang], world.kube.writes
    for shape, error in (
        (([{"GPU": 1}] * 57, {"part": mig("1g.10gb")}), UnsatisfiableError),
        (([{"GPU": 1}] * 9, {"part": mig("7g.80gb")}), UnsatisfiableError),
        (([{"GPU": 1}] * 8, {"part": mig("1g.5gb")}), UnsatisfiableError),
        (([{"GPU": 0.5}] * 17, {"sharing": time_slicing()}), UnsatisfiableError),
    ):
        with pytest.raises(error):
            world.coordinator.reshape(world.gang, world.shape(shape), 60.0, 0.0)
    assert world.coordinator.gangs[world.gang].reshape is None
    assert world.coordinator.gangs[world.gang].allocation == before.allocation
    assert world.kube.writes == writes
    world.end()


def test_a_gang_that_shares_a_gpu_with_others_keeps_its_parts() -> None:
    world = World(first=([{"GPU": 1}] * 3, {"part": mig("1g.10gb")}))
    world.gang, gang = "", world.gang
    other = world.coordinator.submit(
        Order(request_from_bundles([{"GPU": 1}] * 2, part=mig("1g.10gb")), owner="job")
    ).gang
    assert world.drive(other) is Phase.READY
    with pytest.raises(InvalidRequest, match="nobody else has a part"):
        world.coordinator.reshape(gang, replace(request_from_bundles([{"GPU": 1}]), gang=gang), 60.0, 0.0)
    for each in (gang, other):
        world.coordinator.release(each)
    world.settle()


def test_a_part_that_others_take_before_all_is_guarded_ends_the_change_and_not_the_gangs_work() -> None:
    """Of a GPU of which the gang has a few parts: the next shape has no place on it, and was waited for in vain."""
    few: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 1}] * 3, {"part": mig("1g.10gb")})
    world = World(first=few)
    world.try_to_take = lambda: None  # type: ignore[method-assign]
    status = world.coordinator.status(world.gang)
    assert status.allocation is not None
    grant = status.allocation.grants[0]
    world.reshape(([{"GPU": 1}] * 2, {"part": mig("3g.40gb")}), grace=30.0)
    change = world.coordinator.gangs[world.gang].reshape
    assert change is not None
    assert change.stage is ReshapeStage.DRAINS
    gpu = grant.device.device.partition("-mig-")[0]
    free = {f"{gpu}-mig-1g10gb-19-{at}" for at in range(7)} - {device for _, device in world.kube.claimed()}
    world.kube.take(grant.node, max(free))
    world.turn()
    after = world.coordinator.status(world.gang)
    assert (after.phase, after.reshape, after.group) == (Phase.READY, None, status.group)
    assert "somebody else has a part" in after.shape_failed
    assert after.notice is None
    world.kube.give_back(grant.node, max(free))
    world.end()


def test_a_gang_that_has_got_parts_does_not_shrink() -> None:
    """As one that comes with parts may not; with whole GPUs again it may."""
    world = World(nodes=2, first=WHOLE)
    world.gang, first = "", world.gang
    world.try_to_take = lambda: None  # type: ignore[method-assign]
    world.coordinator.release(first)
    world.settle()
    declared = on_fault(("shrink",), 1.0, min_bundles=1)
    asked = request_from_bundles([{"GPU": 8}] * 2, strategy="STRICT_SPREAD")
    world.gang = world.coordinator.submit(Order(asked, owner="job", on_fault=declared)).gang
    assert world.drive(world.gang) is Phase.READY
    world.reshape(([{"GPU": 1}] * 32, {"part": mig("3g.40gb")}))
    world.until(([{"GPU": 1}] * 32, {"part": mig("3g.40gb")}))
    gang = world.coordinator.gangs[world.gang]
    faulty = [rank for rank, node in enumerate(nodes_of(gang)) if node == nodes_of(gang)[0]]
    assert 0 < len(faulty) < 32
    assert shrunk_to(gang, faulty, own_workers=True) is None
    two: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 8}] * 2, {"strategy": "STRICT_SPREAD"})
    world.reshape(two)
    world.until(two)
    assert shrunk_to(world.coordinator.gangs[world.gang], [0], own_workers=True) is not None
    world.end()


def test_without_the_right_to_keep_others_off_the_shape_stays() -> None:
    world = World()
    create = CrashingKube.create

    def refuse(kube: CrashingKube, thing: Object) -> str:
        if thing["kind"] == "DeviceTaintRule":
            raise NotAllowed("This identity may not do that.", wanted="create devicetaintrules")
        return create(kube, thing)

    before = world.kube.claimed()
    world.kube.create = lambda thing: refuse(world.kube, thing)  # type: ignore[method-assign]
    world.reshape(PARTS)
    world.until(WHOLE)
    status = world.coordinator.status(world.gang)
    assert "kube/shapes" in status.shape_failed
    assert world.kube.claimed() == before
    world.kube.create = lambda thing: create(world.kube, thing)  # type: ignore[method-assign]
    world.kube.taint_rules = False
    world.reshape(PARTS)
    world.until(WHOLE)
    assert "serves no DeviceTaintRules" in world.coordinator.status(world.gang).shape_failed
    world.kube.taint_rules = True
    world.reshape(PARTS)
    world.until(PARTS)
    world.end()


def test_where_the_next_workers_cannot_be_had_the_old_shape_returns() -> None:
    world = World()
    change_without_images(world, PARTS)
    world.until(WHOLE)
    assert "within 20 s" in world.coordinator.status(world.gang).shape_failed
    assert len(world.kube.claimed()) == 8
    world.reshape(PARTS)
    world.until(PARTS)
    world.end()


def test_a_change_that_failed_keeps_nobody_off_the_node_not_the_gang_itself_nor_others() -> None:
    """The node was left out for a minute, in which the gang's own GPUs did not have any shape, and others no GPU."""
    world = World(DYNAMIC | {"TimeSlicingSettings"}, first=([{"GPU": 6}], {}))
    world.try_to_take = lambda: None  # type: ignore[method-assign]
    node = world.coordinator.status(world.gang).allocation.nodes[0]  # type: ignore[union-attr]
    first: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 6}], {})
    parts: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 1}] * 42, {"part": mig("1g.10gb")})
    world.kube.break_registry(node)
    world.reshape(parts, timeout=400.0)
    for _ in range(200):
        world.turn()
        gang = world.coordinator.gangs[world.gang]
        if gang.reshape is not None and gang.reshape.stage is ReshapeStage.RETURNS:
            break
    world.kube.break_registry()
    world.until(first)
    assert "without progress" in world.coordinator.status(world.gang).shape_failed
    slices = Order(request_from_bundles([{"GPU": 0.5}] * 4, sharing=time_slicing()), owner="job")
    beside = world.coordinator.submit(slices).gang
    assert world.drive(beside) is Phase.READY
    world.reshape(parts)
    world.until(parts)
    assert world.coordinator.status(beside).phase is Phase.READY
    world.coordinator.release(beside)
    world.end()


@pytest.mark.parametrize(
    ("bundles", "more"),
    [([{"GPU": 0.5}] * 2, {"sharing": time_slicing()}), ([{"GPU": 1}] * 2, {"part": mig("1g.10gb")})],
    ids=["shares", "parts"],
)
def test_a_gang_that_waits_for_shares_or_parts_hears_which_node_is_left_out_and_why(bundles: Any, more: Any) -> None:
    world = World(DYNAMIC | {"TimeSlicingSettings"}, nodes=2)
    world.try_to_take = lambda: None  # type: ignore[method-assign]
    world.kube.break_registry("h100-1")
    waits = world.coordinator.submit(Order(request_from_bundles(bundles, **more), owner="job")).gang
    for _ in range(100):
        world.turn()
        if world.coordinator.status(waits).phase is Phase.QUEUED:
            break
    (shortfall,) = world.coordinator.status(waits).waits_for
    assert "not ready: h100-1 (left out for a while" in str(shortfall)
    assert "ErrImagePull" in str(shortfall)
    world.coordinator.release(waits)
    world.end()


def test_where_neither_shape_can_be_had_all_is_given_back_with_the_reason() -> None:
    world = World()
    node = world.coordinator.status(world.gang).allocation.nodes[0]  # type: ignore[union-attr]
    world.kube.break_registry(node)
    world.reshape(PARTS, timeout=10.0)
    gang, world.gang = world.gang, ""
    for _ in range(200):
        world.turn()
        if gang not in world.coordinator.gangs:
            break
    with pytest.raises(UnsatisfiableError, match=r"next shape.*old shape"):
        world.coordinator.status(gang)
    world.kube.break_registry()
    world.settle()
    assert not world.guards()


def writes() -> int:
    world = World()
    before = world.kube.writes
    world.reshape(FEW)
    world.until(FEW)
    return world.kube.writes - before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(writes()))
def test_killed_at_any_write_the_gang_has_the_next_shape_and_a_stranger_nothing(write: int, after: bool) -> None:
    world = World()
    world.kube.die_at(write, after=after)
    world.reshape(FEW)
    world.until(FEW)
    assert len(world.kube.claimed()) == 16
    world.end()
    assert world.coordinator.inventory.free_devices == 8


SLICES = frozenset({"TimeSlicingSettings"})
SHARES: tuple[list[dict[str, float]], dict[str, Any]] = ([{"GPU": 0.5}] * 4, {"sharing": time_slicing()})  # 2 GPUs


def writes_and_back() -> int:
    world = World(SLICES)
    before = world.kube.writes
    for shape in (SHARES, WHOLE):
        world.reshape(shape, keep=True)
        world.until(shape)
    return world.kube.writes - before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(writes_and_back()))
def test_killed_at_a_write_a_stranger_gets_nothing_of_what_is_kept(write: int, after: bool) -> None:
    """Also where one rule for the node is followed by one for each GPU that is kept, and back."""
    world = World(SLICES)
    world.kube.die_at(write, after=after)
    for shape, claimed in ((SHARES, 2), (WHOLE, 8)):
        world.reshape(shape, keep=True)
        world.until(shape)
        assert len(world.kube.claimed()) == claimed
        assert world.coordinator.inventory.free_devices == 0
    world.end()
    assert world.coordinator.inventory.free_devices == 8


def of_others(world: World) -> Mapping[str, int]:
    return {name: state.busy for name, state in world.coordinator.inventory.node_states.items()}


def test_what_another_raycluster_guards_is_taken_and_no_sign_of_a_fault() -> None:
    world = World()
    taint = {"key": "ray-dra.io/guard", "value": "12345678.rd-12345678", "effect": "NoSchedule"}
    selector = {"driver": "gpu.nvidia.com", "pool": "h100-0", "device": "gpu-3-mig-1g10gb-19-0"}
    world.end()
    rule = {"kind": "DeviceTaintRule", "metadata": {"name": "theirs"}, "spec": {"deviceSelector": selector}}
    rule["spec"]["taint"] = taint  # type: ignore[index]
    world.kube.put(rule)
    world.turn()
    assert of_others(world) == {"h100-0": 1 << 3}
    assert world.coordinator.inventory.free_devices == 7
    assert not world.coordinator.observer.drains.tripped
    world.kube.drop("DeviceTaintRule", "theirs")
    world.turn()
    assert world.coordinator.inventory.free_devices == 8


def test_whether_a_shape_can_be_had_is_told_and_nothing_changes() -> None:
    world = World()
    before, writes = world.coordinator.gangs[world.gang], world.kube.writes
    world.coordinator.check_shape(world.gang, world.shape(PARTS))
    with pytest.raises(UnsatisfiableError):
        world.coordinator.check_shape(world.gang, world.shape(([{"GPU": 1}] * 57, {"part": mig("1g.10gb")})))
    world.turn()
    assert world.coordinator.gangs[world.gang] == before
    assert world.kube.writes == writes
    world.end()


def test_the_raycluster_says_when_gangs_have_which_shape_and_hears_what_is_no_schedule() -> None:
    world = World()
    usual = read_schedule("day=07:00", "the setting")
    world.coordinator._schedule = usual
    assert world.coordinator.schedule == usual
    world.kube.annotate_raycluster({SCHEDULE_ANNOTATION: "day=08:00, night=20:00, zone=Europe/Berlin"})
    world.turn()
    assert str(world.coordinator.schedule) == "day=08:00, night=20:00, zone=Europe/Berlin"
    world.kube.annotate_raycluster({SCHEDULE_ANNOTATION: "day at eight"})
    world.turn()
    assert world.coordinator.schedule == usual
    assert world.kube.told[-1][0] == "ScheduleInvalid"
    assert any("day at eight" in problem for problem in world.coordinator.backend.problems())
    world.end()
