"""What a raylet is given by the hook that Ray calls before it starts."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_dra.adapters import kubernetes
from ray_dra.adapters import ray as adapter
from ray_dra.adapters.ray_groups import PARAMETERS
from ray_dra.errors import ApiUnavailable, InvalidRequest
from ray_dra.hooks import install_driver, start
from ray_dra.processes import start_hook, worker_hook
from ray_dra.translate.names import (
    BACKFILL_VARIABLE,
    CLUSTER_NAME_VARIABLE,
    CLUSTER_NAMESPACE_VARIABLE,
    DEFAULT_LOCALITY_VARIABLE,
    DEFAULT_ON_FAULT_VARIABLE,
    DRIVER_HOOK_VARIABLE,
    GPU_DOMAIN,
    LOCALITY_LABEL,
    LOCALITY_VARIABLE,
    ON_FAULT_VARIABLE,
    RAYCLUSTER_LOCALITY_VARIABLE,
    TRAY_LABEL,
    WORKER_HOOK_VARIABLE,
)


@pytest.fixture(autouse=True)
def _without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_hook, "node_here", lambda name: None)
    for variable in (WORKER_HOOK_VARIABLE, DRIVER_HOOK_VARIABLE):
        monkeypatch.setenv(variable, "taken back at the end")
        monkeypatch.delenv(variable)


def hook_after(head: bool, variable: str = WORKER_HOOK_VARIABLE) -> str | None:
    import os

    start(SimpleNamespace(labels=None), head)
    return os.environ.get(variable)


@pytest.mark.parametrize("head", [True, False])
def test_workers_of_every_job_have_our_hook(head: bool) -> None:
    """As Ray has it in the environment of a worker; by name, as nothing is exported yet."""
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    assert WORKER_PROCESS_SETUP_HOOK_ENV_VAR == WORKER_HOOK_VARIABLE
    assert hook_after(head) == "ray_dra.hooks.install_worker"


def test_programs_that_are_started_beside_it_have_our_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray calls it, by its name, with the program's runtime_env, which is not changed."""
    from ray._common.utils import load_class
    from ray._private import ray_constants

    assert ray_constants.RAY_RUNTIME_ENV_HOOK == DRIVER_HOOK_VARIABLE
    assert load_class(hook_after(True, DRIVER_HOOK_VARIABLE) or "") is install_driver
    caught: list[set[str]] = []
    monkeypatch.setattr(worker_hook, "catch", lambda handlers: caught.append(set(handlers)))
    given = {"env_vars": {"A": "b"}}
    assert install_driver(given) is given
    assert install_driver(None) is None
    assert caught == [set(PARAMETERS)] * 2
    monkeypatch.setattr(worker_hook, "moved_functions", lambda: ["ray.util.placement_group"])
    assert install_driver(given) is given
    assert len(caught) == 2, "a program on another Ray runs as without ray-dra"


def test_a_hook_that_somebody_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKER_HOOK_VARIABLE, "theirs.hook")
    assert hook_after(True) == "theirs.hook"


def test_a_ray_that_has_moved_a_part_starts_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adapter, "PRIVATE", (("ray.gone", lambda: ray.gone),))
    assert hook_after(True) is None
    assert "moved: ray.gone" in capsys.readouterr().err


def test_resources_by_which_nemo_rl_places(monkeypatch: pytest.MonkeyPatch) -> None:
    uuid = "9c6f5af3-53bf-49b5-a436-b66766c413c3"
    monkeypatch.setattr(start_hook, "labels_of", lambda node: {GPU_DOMAIN: f"{uuid}.3", TRAY_LABEL: "4"})
    given = SimpleNamespace(labels=None, resources={"topo_rank": 7, "own": 1})
    start(given, False)
    assert given.resources == {f"nvlink_domain_{uuid}": 1.0, "topo_rank": 7, "own": 1}, "what the user says stays"
    given = SimpleNamespace(labels=None, resources=None)
    start(given, False)
    assert given.resources["topo_rank"] == 5.0, "from 1: Ray drops what is 0"
    monkeypatch.setattr(start_hook, "labels_of", lambda node: {GPU_DOMAIN: "box.n1", TRAY_LABEL: "4"})
    given = SimpleNamespace(labels=None, resources={"own": 1})
    start(given, False)
    assert given.resources == {"own": 1}, "a box is no domain of several nodes"


@pytest.mark.parametrize(
    "variable", [LOCALITY_VARIABLE, DEFAULT_LOCALITY_VARIABLE, ON_FAULT_VARIABLE, DEFAULT_ON_FAULT_VARIABLE]
)
def test_a_policy_that_is_none_is_said_before_the_raylet_starts(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "nearby")
    with pytest.raises(InvalidRequest) as refused:
        start(SimpleNamespace(labels=None), True)
    assert refused.value.place == variable


def test_a_setting_of_the_queue_that_is_none_is_said_before_the_raylet_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BACKFILL_VARIABLE, "some")
    with pytest.raises(InvalidRequest) as refused:
        start(SimpleNamespace(labels=None), True)
    assert refused.value.place == BACKFILL_VARIABLE


def test_a_worker_with_our_hook_finds_ray_as_it_is() -> None:
    """It may be the first to need the coordinator."""
    code = "from ray_dra.hooks import install_worker; install_worker();"
    code += "from ray_dra.adapters.ray import check_ray; check_ray()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("said", ["same_clique", "", None])
def test_a_head_of_kuberays_starts_with_the_rayclusters_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str | None
) -> None:
    """None: the API server does not answer, and the head starts all the same."""

    class Api:
        def await_answer(self, seconds: float) -> None:
            if said is None:
                raise ApiUnavailable("It does not answer.")

        def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
            assert (kind, name, namespace) == ("RayCluster", "c", "team")
            return {"metadata": {"annotations": {LOCALITY_LABEL: said} if said else None}}

    started: list[Any] = []
    monkeypatch.setattr(kubernetes, "KubernetesApi", Api)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1))
    monkeypatch.setenv(CLUSTER_NAME_VARIABLE, "c")
    monkeypatch.setenv(CLUSTER_NAMESPACE_VARIABLE, "team")
    monkeypatch.setenv(RAYCLUSTER_LOCALITY_VARIABLE, "taken back at the end")
    assert hook_after(True, RAYCLUSTER_LOCALITY_VARIABLE) == (said or "")
    assert started, "the coordinator is woken"
    assert ("does not answer" in capsys.readouterr().err) == (said is None)
