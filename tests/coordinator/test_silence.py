"""Seconds of silence are no final no: of an agent, of NVML, of a raylet, of the coordinator itself; and of a cordon."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.coordinator.backends.raylets.nodes import SILENT_SECONDS
from ray_dra.core.cluster.known_nodes import REMEMBER_SECONDS
from ray_dra.core.model.locality import Locality
from ray_dra.errors import UnsatisfiableError
from ray_dra.ports.nvml import NodeReading
from tests.core.machines import gang

from . import kubernetes_world
from .world import Phase, World

FITS = [  # each fits the whole cluster, two racks of two trays with four GPUs
    gang(*[4] * 4, name="all"),
    gang(*[1] * 16, name="ones"),
    gang(4, 4, name="rack", locality=Locality(cliques=1)),
    gang(4, 4, 4, 4, name="racks", locality=Locality(cliques=2, segment=2, exclusive=True)),
    gang(3, 3, 3, 3, name="threes"),
    gang(4, name="cpus", resources={"CPU": 16.0}, products=("NVIDIA GB200",)),
    gang(*[4] * 4, name="near", locality=Locality(cliques=2, required=False, patience=5.0)),
]


def agent_silent(world: World, at: int, seconds: float) -> None:
    quiet = world.raylet(f"t{at}")
    until = world.clock.now + seconds
    while world.clock.now < until:
        world.clock.now += 0.5
        for raylet in list(world.coordinator.nodes.heard):
            if raylet != quiet:
                world.coordinator.nodes.heartbeat(raylet)
        world.coordinator.observe()


def late_look(world: World, at: int, seconds: float) -> None:
    """The coordinator was stopped, or a burst of calls kept it busy, and it heard nobody."""
    world.clock.now += seconds
    if at % 2:
        world.coordinator.observe()


def nvml_silent(world: World, at: int, seconds: float) -> None:
    if world.ray.nodes[world.raylet(f"t{at}")].alive:
        world.coordinator.report(world.raylet(f"t{at}"), NodeReading(error="NVML did not answer in 3 s"))


def gpu_lost(world: World, at: int, seconds: float) -> None:
    if world.ray.nodes[world.raylet(f"t{at}")].alive:
        world.report(f"t{at}", lost=1)


def one_gpu_less(world: World, at: int, seconds: float) -> None:
    if world.ray.nodes[world.raylet(f"t{at}")].alive:
        world.report(f"t{at}", gpus=3)


def raylet_gone(world: World, at: int, seconds: float) -> None:
    world.ray.kill_node(world.raylet(f"t{at}"))
    world.coordinator.observe()


def back(world: World, at: int, seconds: float = 0.0) -> None:
    name = f"t{at}"
    if not world.ray.nodes[world.raylet(name)].alive:
        world.incarnation[name] += 1
        world.ray.add_node(world.raylet(name), gpus=4, labels={"ray-dra.io/node": name})
        world.coordinator.observe()
    world.report(name)


def restart(world: World, at: int, seconds: float) -> None:
    world.restart()


def pass_time(world: World, at: int, seconds: float) -> None:
    world.pass_time(seconds)


HICCUPS: list[Callable[[World, int, float], None]] = [
    agent_silent,
    late_look,
    nvml_silent,
    gpu_lost,
    one_gpu_less,
    raylet_gone,
    back,
    restart,
    pass_time,
]


@settings(max_examples=150, deadline=None)
@given(
    hiccups=st.lists(
        st.tuples(st.sampled_from(HICCUPS), st.integers(0, 3), st.sampled_from([0.5, 3.0, 5.0, 30.0])), max_size=12
    ),
    request=st.sampled_from(FITS),
)
def test_what_fits_the_whole_cluster_is_never_refused_for_good(
    hiccups: list[tuple[Callable[[World, int, float], None], int, float]], request: object
) -> None:
    world = World()
    for hiccup, at, seconds in hiccups:
        hiccup(world, at, seconds)
    assert isinstance(request, type(FITS[0]))
    status = world.submit(request)  # raises where it is refused
    assert status.phase in (Phase.QUEUED, Phase.HELD)
    for at in range(4):
        back(world, at)
    world.pass_time(8)
    assert world.coordinator.status(request.gang).phase is Phase.HELD
    world.check()


def test_a_node_that_is_gone_for_long_is_no_reason_to_wait() -> None:
    for forget in (False, True):
        world = World()
        raylet_gone(world, 0, 0.0)
        if forget:
            world.restart()
        world.pass_time(REMEMBER_SECONDS - 10)
        world.submit(gang(*[4] * 4, name="waits"))
        world.coordinator.release("waits")
        world.pass_time(20)
        with pytest.raises(UnsatisfiableError, match="even if nobody else"):
            world.submit(gang(*[4] * 4, name="never"))
        assert "node/t0-0" not in world.store.data
        world.check_empty()


def test_a_gpu_that_stays_broken_is_no_reason_to_wait_either() -> None:
    world = World()
    gpu_lost(world, 0, 0.0)
    world.submit(gang(*[4] * 4, name="waits"))
    world.coordinator.release("waits")
    world.pass_time(REMEMBER_SECONDS + 1)
    with pytest.raises(UnsatisfiableError, match="even if nobody else"):
        world.submit(gang(*[4] * 4, name="never"))


def test_a_coordinator_that_was_stopped_takes_nothing_from_anybody() -> None:
    """30 s in which it heard nobody, nor its programs it: no node is silent, no gang degraded, no hold over."""
    world = World()
    world.submit(gang(4, name="placed"))
    world.place("placed")
    world.submit(gang(4, name="held"))
    world.pass_time(25)
    world.clock.now += 30
    world.coordinator.observe()
    assert all(state.node.ready for state in world.coordinator.inventory.node_states.values())
    assert world.coordinator.status("placed").phase is Phase.READY
    assert world.coordinator.status("held").phase is Phase.HELD
    world.clock.now += SILENT_SECONDS
    assert world.submit(gang(4, 4, name="more")).phase is Phase.HELD
    agent_silent(world, 0, SILENT_SECONDS + 1)
    assert not world.coordinator.inventory.node_states["t0"].node.ready, "who is silent while others speak, is"


def test_one_tray_of_each_rack_cordoned_keeps_a_gang_of_whole_racks_waiting() -> None:
    world = kubernetes_world.World()
    racks = {name[: name.index("-t")] for name in world.kube.nodes}
    cordoned = [next(name for name in sorted(world.kube.nodes) if name.startswith(rack)) for rack in racks]
    for name in cordoned:
        world.kube.cordon(name)
    for _ in range(3):
        world.turn()
    whole = len(world.kube.nodes) // len(racks)
    status = world.coordinator.submit(world.order(bundles=whole))
    assert status.phase is Phase.QUEUED
    world.later(int(REMEMBER_SECONDS) + 10)
    assert world.coordinator.status(status.gang).phase is Phase.QUEUED
    assert world.coordinator.submit(world.order(bundles=whole)).phase is Phase.QUEUED, "it is known still"
    world.kube.cordon(cordoned[0], False)
    assert world.drive(status.gang) is Phase.READY
