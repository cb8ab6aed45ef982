"""Whoever changes a module of core, coordinator or translate finds its tests: by its name, or by this table."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "ray_dra"
ROOMS = ("core", "coordinator", "translate")
ELSEWHERE = {
    "coordinator/backends/base.py": "coordinator/backends/kubernetes/test_provisioning.py, coordinator/test_life.py",
    "coordinator/backends/kubernetes/backend.py": "coordinator/backends/kubernetes/test_provisioning.py",
    "coordinator/backends/kubernetes/kueue.py": "ports/test_quota.py, coordinator/test_quota.py",
    "coordinator/backends/kubernetes/kai.py": "coordinator/test_kai.py",
    "coordinator/backends/kubernetes/queues.py": "coordinator/test_kai.py, coordinator/test_quota.py",
    "coordinator/backends/kubernetes/machines.py": "coordinator/backends/kubernetes/test_closed_nodes.py, "
    "coordinator/backends/kubernetes/test_taken_devices.py",
    "coordinator/backends/kubernetes/objects.py": "coordinator/backends/kubernetes/test_teardown.py",
    "coordinator/backends/raylets/backend.py": "coordinator/backends/raylets/test_nodes.py",
    "coordinator/backends/kubernetes/guard.py": "coordinator/test_reshape_parts.py",
    "coordinator/executor.py": "coordinator/test_kills.py, coordinator/test_coordinator.py",
    "coordinator/gang_store.py": "coordinator/test_aside.py, coordinator/test_kills.py",
    "coordinator/inventory_sync.py": "coordinator/test_silence.py, coordinator/backends/raylets/test_nodes.py",
    "coordinator/jobs.py": "processes/test_coordinator_actor.py",
    "coordinator/kube_events.py": "coordinator/test_notice.py, translate/kube/test_events.py",
    "coordinator/observer.py": "coordinator/test_coordinator.py, coordinator/test_silence.py",
    "coordinator/parts.py": "coordinator/test_aside.py, coordinator/test_life.py",
    "coordinator/status.py": "coordinator/test_coordinator.py",
    "coordinator/turns.py": "coordinator/test_queue.py, coordinator/test_crowd.py",
    "coordinator/waits.py": "processes/test_coordinator_actor.py",
    "core/cluster/holds.py": "core/cluster/test_inventory.py, core/cluster/test_inventory_life.py",
    "core/cluster/index.py": "core/cluster/test_changes.py, core/cluster/test_inventory_life.py",
    "core/cluster/node_state.py": "core/cluster/test_inventory.py, core/cluster/test_owned_writes.py",
    "core/cluster/portions.py": "core/cluster/test_sharing.py, core/planner/test_parts.py",
    "core/explain/criteria.py": "core/model/test_device_selector.py, core/explain/test_shortfalls.py",
    "core/explain/parts.py": "core/planner/test_parts.py",
    "core/explain/shares.py": "core/planner/test_own_shares.py",
    "core/gangs/answers.py": "core/gangs/test_patience.py, core/gangs/test_forecast.py",
    "core/gangs/kept_turns.py": "coordinator/test_kept.py",
    "core/gangs/ordinary_turns.py": "core/gangs/test_ordinary.py, core/gangs/test_sets.py",
    "core/gangs/overtaking.py": "core/gangs/test_backfill.py",
    "core/gangs/pool_turns.py": "core/gangs/test_pools.py",
    "core/gangs/verdicts.py": "core/gangs/test_admission.py",
    "core/gangs/discipline.py": "translate/test_settings.py",
    "core/gangs/promise.py": "core/gangs/test_backfill.py",
    "core/gangs/actions.py": "core/gangs/test_engine.py",
    "core/gangs/changes.py": "core/gangs/test_lifecycle.py",
    "core/gangs/elastic.py": "coordinator/test_elastic.py",
    "core/gangs/consolidating.py": "core/gangs/test_consolidation.py, coordinator/test_consolidation.py",
    "core/gangs/elsewhere.py": "core/gangs/test_engine.py",
    "core/gangs/ends.py": "core/gangs/test_engine.py",
    "core/gangs/events.py": "core/gangs/test_engine.py",
    "core/gangs/eviction.py": "core/gangs/test_preemption.py",
    "core/gangs/evictions.py": "core/gangs/test_preemption.py, coordinator/test_preemption.py",
    "core/gangs/expecting.py": "core/gangs/test_forecast.py",
    "core/gangs/faults.py": "core/gangs/test_repair.py, core/gangs/test_replacing.py",
    "core/gangs/gang.py": "core/gangs/test_lifecycle.py, core/gangs/test_ordinary.py",
    "core/gangs/kept.py": "coordinator/test_kept.py",
    "core/gangs/kept_workers.py": "coordinator/test_kept_workers.py",
    "core/gangs/order.py": "edge/test_orders.py",
    "core/gangs/phases.py": "core/gangs/test_lifecycle.py",
    "core/gangs/pool_index.py": "core/gangs/test_records.py, coordinator/test_pools.py",
    "core/gangs/preempting.py": "core/gangs/test_preemption.py",
    "core/gangs/progress.py": "core/gangs/test_stages.py, core/gangs/test_engine_life.py",
    "core/gangs/queueing.py": "core/gangs/test_engine.py, coordinator/test_queue.py",
    "core/gangs/quota_answers.py": "core/gangs/test_quota.py",
    "core/gangs/record_checks.py": "core/gangs/test_records.py, core/gangs/test_engine_life.py",
    "core/gangs/record_sense.py": "core/gangs/test_lifecycle.py",
    "core/gangs/recording.py": "core/gangs/test_engine.py, core/gangs/test_stages.py",
    "core/gangs/refusals.py": "core/gangs/test_admission.py",
    "core/gangs/reshaping.py": "core/gangs/test_reshape.py",
    "core/gangs/runtime_notes.py": "core/gangs/test_records.py",
    "core/gangs/set_index.py": "core/gangs/test_sets.py",
    "core/gangs/shapes.py": "core/gangs/test_reshape.py, coordinator/test_reshape.py",
    "core/gangs/standing.py": "coordinator/test_queue.py, translate/test_text.py",
    "core/gangs/starts.py": "core/gangs/test_engine.py, coordinator/test_made_here.py",
    "core/gangs/turn.py": "core/gangs/test_records.py",
    "core/model/allocation.py": "core/test_plan_brute.py",
    "core/model/checked.py": "edge/test_parameters.py",
    "core/model/device.py": "core/model/test_fabric_kinds.py, core/model/test_device_selector.py",
    "core/model/imex.py": "core/planner/test_imex.py",
    "core/model/node.py": "core/model/test_fabric_kinds.py, translate/test_device_sources.py",
    "core/model/parts.py": "core/cluster/test_gpu_parts.py, core/planner/test_parts.py",
    "core/model/reason.py": "core/explain/test_shortfall_values.py",
    "core/model/selector.py": "core/model/test_device_selector.py",
    "core/model/shortfall.py": "core/explain/test_shortfall_values.py",
    "core/model/topology.py": "core/model/test_clique.py, core/model/test_fabric_kinds.py",
    "core/model/wording.py": "core/explain/test_shortfalls.py, translate/test_text.py",
    "core/planner/placement.py": "core/test_plan.py",
    "core/planner/scope.py": "core/test_plan.py, core/cluster/test_clique_order.py",
    "core/planner/unequal.py": "core/planner/test_packing.py, core/test_plan_oracle.py",
    "core/policy/base.py": "core/policy/test_place_by_policy.py",
    "translate/capacity_text.py": "test_cli.py",
    "translate/files/readings.py": "translate/nvml/test_reading.py",
    "translate/files/shared_records.py": "translate/files/test_records.py",
    "translate/kube/ending.py": "coordinator/test_notice.py",
    "translate/kube/guards.py": "coordinator/test_reshape_parts.py, translate/kube/test_taint_rules.py",
    "translate/kube/idle_pod.py": "translate/kube/test_warm.py, translate/kube/test_gang_scheduling.py",
    "translate/kube/images.py": "translate/kube/test_warm.py",
    "translate/kube/kuberay_start.py": "translate/kube/test_kuberay_pod.py",
    "translate/quantity.py": "translate/kube/test_slices.py",
    "translate/ray/bundles.py": "edge/test_parameters.py",
    "translate/ray/localities.py": "translate/ray/test_policy.py, edge/test_parameters.py",
    "translate/traces.py": "coordinator/test_traces.py",
}
"""Modules without a file of tests by their name in the same folder, and the files that have their tests."""


def modules() -> list[str]:
    found = [path for room in ROOMS for path in (PACKAGE / room).rglob("*.py")]
    return sorted(path.relative_to(PACKAGE).as_posix() for path in found if path.name != "__init__.py")


def by_name(module: str) -> Path:
    return TESTS / Path(module).parent / f"test_{Path(module).name}"


@pytest.mark.parametrize("module", modules())
def test_a_module_has_tests_that_are_found(module: str) -> None:
    assert by_name(module).exists() != (module in ELSEWHERE), "its tests have its name, or stand in the table"
    for path in ELSEWHERE.get(module, "").split(", "):
        assert (TESTS / path).exists(), path


def test_the_table_has_no_module_that_is_gone() -> None:
    assert ELSEWHERE.keys() <= set(modules())
