"""Ray's autoscaler beside ordinary placement groups on Kubernetes: its own scheduler is asked what it would make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint, GangResourceRequest, ResourceRequest
from ray.core.generated.common_pb2 import LabelSelectorOperator

from ray_dra.core.gangs.phases import Phase
from ray_dra.translate.names import LOCALITY_LABEL
from tests.coordinator.kubernetes_world import World
from tests.coordinator.test_ordinary_kubernetes import submit

GPU_GROUP = {"gpus": NodeTypeConfig("gpus", 0, 9, resources={"CPU": 4, "GPU": 4})}
"""A RayCluster's worker group whose workers would be just right."""


def asked(bundle: Mapping[str, float], selector: Mapping[str, str]) -> ResourceRequest:
    labels = [(key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value]) for key, value in selector.items()]
    return ResourceRequestUtil.make(dict(bundle), label_selectors=[labels] if labels else None)


def makes(groups: Sequence[GangResourceRequest] = (), constraint: Sequence[ResourceRequest] = ()) -> int:
    """How many workers Ray's autoscaler makes, for placement groups that wait in Ray, and for what a library asks of it
    (`ray.autoscaler.sdk.request_resources`)."""
    wanted = ResourceRequestUtil.group_by_count(list(constraint))
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=GPU_GROUP,
        max_num_nodes=20,
        gang_resource_requests=list(groups),
        cluster_resource_constraints=[ClusterResourceConstraint(resource_requests=wanted)] if wanted else [],
    )
    return sum(launch.count for launch in ResourceDemandScheduler().schedule(request).to_launch)


def waiting(world: World) -> list[GangResourceRequest]:
    """The placement groups that wait in Ray, as it tells its autoscaler of them."""
    return [
        GangResourceRequest(requests=[asked(*each) for each in zip(group.bundles, group.selectors, strict=True)])
        for group in world.ray.groups.values()
        if group.state in ("PENDING", "RESCHEDULING")
    ]


def test_a_group_that_is_rays_own_gets_workers() -> None:
    """So that the next test can fail."""
    assert makes([GangResourceRequest(requests=[asked({"GPU": 4}, {})] * 2)]) == 2


def test_it_makes_no_worker_for_a_group_that_is_planned_at_any_time() -> None:
    """Ray hears of one once its workers are verified, and then each bundle selects its own worker by its slot."""
    world = World()
    first, second, never = (submit(world, number) for number in (1, 2, 3))
    seen, ready = 0, list[Phase]()
    for turn in range(120):
        world.turn()
        seen += len(waiting(world))
        assert makes(waiting(world)) == 0
        if turn == 60:
            world.kube.lose_node(next(iter(world.kube.nodes)))
        ready = [world.coordinator.status(group).phase for group in (first, second)]
    assert seen, "some waited in Ray for their workers to join"
    assert Phase.READY in ready
    assert world.coordinator.status(never).phase is Phase.QUEUED
    assert never not in world.ray.groups, "Ray does not know of it"


@pytest.mark.parametrize(("selector", "made"), [({}, 2), ({LOCALITY_LABEL: "same_clique"}, 0)])
def test_what_train_asks_of_it_makes_workers_unless_our_key_is_in_its_selector(
    selector: dict[str, str], made: int
) -> None:
    """Train asks Ray's autoscaler for its workers itself, beside its placement group, with the selector of its
    `ScalingConfig`; docs/unchanged.md says so."""
    workers = [asked({"GPU": 4, "CPU": 1}, selector)] * 2
    assert makes(constraint=workers) == made
    # All requests are one to it, so that with one that cannot be met it makes nothing for the others.
    assert makes(constraint=[*workers, asked({"CPU": 4}, {})]) == (made and made + 1)
