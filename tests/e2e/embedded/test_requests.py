"""What can be asked for, what is refused, and what is planned without holding it."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

import ray_dra
from ray_dra.adapters.ray_groups import uncaught
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster
from ray_dra.translate.files.snapshot import dump_snapshot
from tests.e2e.conftest import eventually

pytestmark = pytest.mark.ray


def test_rays_own_topology_strategy_works_here(free: LocalCluster) -> None:
    with uncaught():
        group = ray.util.placement_group([{"GPU": 4}] * 2, topology_strategy={"ray.io/gpu-domain": "STRICT_PACK"})
        assert group.wait(30)
        assert not ask(coordinator().gangs.remote())
        ray.util.remove_placement_group(group)


def test_ours_takes_rays_parameters(free: LocalCluster) -> None:
    with ray_dra.placement_group(
        [{"GPU": 4}] * 2,
        name="named",
        topology_strategy={"ray.io/gpu-domain": "STRICT_PACK", "ray.io/node-id": "STRICT_SPREAD"},
    ) as gang:
        gang.wait(30)
        assert gang.allocation is not None
        assert len(set(gang.allocation.cliques)) == 1
        assert len(set(gang.allocation.nodes)) == 2
        assert ray.util.get_placement_group("named").id == gang.placement_group.id
        with pytest.raises(ray_dra.NameTaken):
            ray_dra.placement_group([{"GPU": 1}], name="named")
    node = free.nodes[3].name
    with ray_dra.placement_group([{"GPU": 1}], bundle_label_selector=[{"ray-dra.io/node": node}]) as gang:
        assert gang.allocation is not None
        assert gang.allocation.nodes == (node,)


BAD: list[tuple[object, dict[str, object]]] = [
    ([], {}),
    ([{"GPU": 0}], {}),
    ([{"GPU": -1}], {}),
    ([{"GPU": 0.5}], {}),
    ([{"GPU": 100_000}], {}),
    ([{"CPU": 1}], {}),
    ([{}], {}),
    ([{"GPU": 1}] * 3, {"locality": ray_dra.same_clique(segment=2)}),
    ([{"GPU": 1}], {"strategy": "NOWHERE"}),
    ([{"GPU": 1}], {"topology_strategy": {"rack": "STRICT_PACK"}}),
    ([{"GPU": 1}], {"lifetime": "forever"}),
    ([{"GPU": 1}], {"bundle_label_selector": []}),
]


IMPOSSIBLE: list[tuple[list[dict[str, float]], dict[str, object], str]] = [
    ([{"GPU": 5}], {}, "5 GPUs in one bundle"),
    ([{"GPU": 4}] * 5, {}, "20 GPUs"),
    ([{"GPU": 4}] * 3, {"locality": ray_dra.same_clique()}, "3 bundles of 4 GPUs"),
    ([{"GPU": 1}], {"product": "NVIDIA GH200"}, "NVIDIA GH200"),
    ([{"GPU": 1, "CPU": 1000}], {}, "1000 CPU"),
]


@pytest.mark.parametrize(("bundles", "options"), BAD, ids=str)
def test_bad_requests_are_typed_errors_that_hold_nothing(
    free: LocalCluster, bundles: object, options: dict[str, object]
) -> None:
    with pytest.raises(ray_dra.InvalidRequest) as caught:
        ray_dra.placement_group(bundles, **options)  # type: ignore[arg-type]
    assert caught.value.reason
    assert caught.value.place
    assert not ask(coordinator().gangs.remote())


@pytest.mark.parametrize(("bundles", "options", "wanted"), IMPOSSIBLE, ids=str)
def test_impossible_requests_say_what_was_missing_where(
    free: LocalCluster, bundles: list[dict[str, float]], options: dict[str, object], wanted: str
) -> None:
    with pytest.raises(ray_dra.UnsatisfiableError) as caught:
        ray_dra.placement_group(bundles, **options)  # type: ignore[arg-type]
    assert any(wanted in s.wanted_text for s in caught.value.shortfalls)
    assert caught.value.place
    assert caught.value.available
    assert not ask(coordinator().gangs.remote())


def test_contradictory_localities_are_refused() -> None:
    with pytest.raises(ray_dra.InvalidRequest, match="contradict"):
        _ = ray_dra.at_most_cliques(1) & ray_dra.at_most_cliques(2)


def test_plan_answers_without_holding(free: LocalCluster) -> None:
    answer = ray_dra.plan([{"GPU": 4}] * 2, locality=ray_dra.same_clique())
    assert not isinstance(answer, Unsatisfiable)
    assert isinstance(ray_dra.plan([{"GPU": 4}] * 3, locality=ray_dra.same_clique()), Unsatisfiable)
    assert not ask(coordinator().gangs.remote())


def test_a_snapshot_of_the_live_cluster_answers_as_it_does(free: LocalCluster, tmp_path: Path) -> None:
    """With a gang on it; in this process, and by the command line on the file that it wrote."""
    with ray_dra.placement_group([{"GPU": 4, "CPU": 1}], name="holder") as gang:
        assert gang.wait(30)
        # Until Ray's view of the placed group has come, its GPUs count as others' work, too.
        eventually(lambda: not any(o.devices for o in ray_dra.snapshot().others.values()), 10)
        found = ray_dra.snapshot()
        assert [a.gang for a in found.gangs] == [gang.id]
        file = tmp_path / "cluster.yaml"
        file.write_text(dump_snapshot(found))
        for bundles, locality in (
            ([{"GPU": 4}] * 2, ray_dra.same_clique()),
            ([{"GPU": 2}] * 3, ray_dra.same_clique()),
            ([{"GPU": 4}] * 4, ray_dra.same_clique(segment=2)),
            ([{"GPU": 5}], None),
        ):
            live = ray_dra.plan(bundles, locality=locality)
            replayed = ray_dra.plan(bundles, locality=locality, cluster=file)
            assert type(replayed) is type(live)
            if isinstance(live, Allocation) and isinstance(replayed, Allocation):
                assert replayed.bundles == live.bundles
            if isinstance(live, Unsatisfiable) and isinstance(replayed, Unsatisfiable):
                assert replayed.shortfalls == live.shortfalls
        refused = ray_dra.plan([{"GPU": 4}] * 4, locality=ray_dra.same_clique(segment=2), cluster=file)
        assert isinstance(refused, Unsatisfiable)
        assert refused.counterfactual is not None
        assert refused.counterfactual.leaving is not None
        assert refused.counterfactual.leaving.gangs == (gang.id,)
