"""`ray-dra check`: what cannot be read, and what the coordinator says."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import ray

from ray_dra.adapters import lease
from ray_dra.adapters.lease import Lease
from ray_dra.operate import check
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.names import (
    GANG_SCHEDULING_ANNOTATION,
    KAI_PRIORITIES_ANNOTATION,
    LOCALITY_LABEL,
    ON_FAULT_LABEL,
    QUEUE_ANNOTATION,
    QUEUES_VARIABLE,
    SPARES_ANNOTATION,
    START_HOOK_VARIABLE,
)
from tests.adapters.memory_api import Api
from tests.adapters.servers import end, node, until
from tests.cluster.paper import paper_node
from tests.translate.kube.objects import cluster


def test_check_tells_what_cannot_be_read_and_what_the_coordinator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.002)

    class Some(Api):
        def items(self, kind: str, **more: Any) -> list[Any]:
            return [node("good"), node("bad", cpu="much")] if kind == "Node" else [{"metadata": {"name": "slice"}}]

    api: Any = Some({"metadata": {}, "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}})
    told = {finding.what: finding for finding in check._of_nodes(api, "n", "c", "GPUs")}
    assert told["node bad"].ok is told["ResourceSlice slice"].ok is False
    assert "much" in told["node bad"].said
    assert "node good" not in told
    (old,) = check._of_view(api, "n", "c", "view")
    assert (old.ok, "no coordinator runs" in old.said) == (None, True)
    written: list[Any] = []
    api.replace = written.append
    api.told = {"metadata": {"resourceVersion": "1"}}
    made = Lease(api, "n", "gangs", "me", problems=lambda: ("Pods cannot be watched", "Node bad is left out"))
    try:
        until(lambda: bool(written))
        api.told = written[0]
        assert [tuple(finding[::2]) for finding in check._of_view(api, "n", "c", "view")] == [
            (False, "Pods cannot be watched"),
            (False, "Node bad is left out"),
        ]
        written[0]["metadata"]["annotations"] = {}
        assert [finding.ok for finding in check._of_view(api, "n", "c", "view")] == [True]
    finally:
        end(made)


def test_nodes_are_left_out_as_the_worker_group_of_the_raycluster_says() -> None:
    machines = simulated_nodes("gb200-nvl72", nodes=3)
    published = [each for m in machines for each in slices(gpu_pool(m, {}), m.name, 1)]
    nodes = [paper_node(m) for m in machines]
    nodes[0]["spec"] = {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}  # tolerated
    nodes[1]["metadata"]["labels"]["pool"] = nodes[0]["metadata"]["labels"]["pool"] = "b"
    found = cluster()
    found["spec"]["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"] = {"pool": "b"}

    class Some(Api):
        def items(self, kind: str, **more: Any) -> list[Any]:
            each = nodes if kind == "Node" else published
            return [{**thing, "metadata": {**thing["metadata"], "resourceVersion": "1"}} for thing in each]

    api: Any = Some(found)
    told = {finding.what: finding.said for finding in check._of_nodes(api, "team", "c", "GPUs")}
    assert told["GPUs"] == "12 on 3 nodes in 1 cliques"
    assert told.keys() == {"GPUs", f"node {machines[2].name}"}
    assert "nodeSelector pool=b does not choose it" in told[f"node {machines[2].name}"]
    assert {f.what for f in check._of_nodes(Some({"spec": 5}), "team", "c", "GPUs")} == {  # type: ignore[arg-type]
        "GPUs",
        f"node {machines[0].name}",
    }


@pytest.mark.parametrize("right", check.RIGHTS, ids=str)
def test_a_right_that_gangs_can_do_without_is_no_fault(right: check.Right) -> None:
    class Nobody(Api):
        def review(self, thing: Any) -> Any:
            return {"status": {"allowed": False}}

    api: Any = Nobody()
    (found,) = check._of_right(api, right, "team", "c", "it")
    assert found.ok is (None if right.resource in ("rayservices", "devicetaintrules") else False)
    assert found.said.endswith(right.without)


@pytest.mark.parametrize(
    ("said", "ok", "told"),
    [
        ("a: {guarantee: 8}\nb: {guarantee: 4}", True, "a, b, default"),
        ("a: {guarantee: 8}\nb: {guarantee: 4.5}", None, "12.5 GPUs are guaranteed together, and the cluster has 12"),
        ("a: {guarantee: many}", False, "many"),
        ("/etc/ray-dra/queues.yaml", True, "declared in /etc/ray-dra/queues.yaml of the head"),
    ],
)
def test_queues_of_teams_that_are_guaranteed_more_than_there_is_are_told(said: str, ok: bool | None, told: str) -> None:
    machines = simulated_nodes("gb200-nvl72", nodes=3)
    published = [each for m in machines for each in slices(gpu_pool(m, {}), m.name, 1)]
    found = raycluster()
    (head,) = found["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    head["env"].append({"name": QUEUES_VARIABLE, "value": said})

    class Some(Api):
        def get(self, *arguments: Any) -> Any:
            return found

        def items(self, kind: str, **more: Any) -> list[Any]:
            each = [paper_node(m) for m in machines] if kind == "Node" else published
            return [{**thing, "metadata": {**thing["metadata"], "resourceVersion": "1"}} for thing in each]

    api: Any = Some(found)
    (finding,) = check._asked("queues of teams", partial(check._of_teams, api, "team", "c"))
    assert finding.ok is ok
    assert told in finding.said
    found["spec"]["headGroupSpec"] = 5
    assert [*check._of_teams(api, "team", "c", "")] == [], "the RayCluster's own finding says it"


def raycluster() -> dict[str, Any]:
    made = cluster(rayVersion=ray.__version__)
    head = {"containers": [{"name": "head", "env": [{"name": START_HOOK_VARIABLE, "value": "ray_dra.hooks.start"}]}]}
    made["spec"] |= {"headGroupSpec": {"template": {"spec": head}}, "authOptions": {"mode": "token"}}
    return made


def findings(found: dict[str, Any]) -> list[check.Finding]:
    class One(Api):
        def get(self, *arguments: Any) -> Any:
            return found

    api: Any = One()
    return [*check._asked("RayCluster", partial(check._of_cluster, api, "team", "c"))]


def test_a_raycluster_that_is_as_it_should_be_passes_each_check() -> None:
    told = findings(raycluster())
    assert [finding.ok for finding in told] == [True] * 5
    assert "the group ray-dra, image mine:1" in told[0].said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workerGroupSpecs": [{"groupName": 5, "template": {}}]}, "cannot be read"),
        ({"workerGroupSpecs": 5}, "cannot be read"),
        ({"headGroupSpec": {}}, "cannot be read"),
        ({"workerGroupSpecs": []}, "no worker group to copy"),
    ],
)
def test_a_raycluster_that_cannot_be_used_is_a_finding_and_not_a_traceback(change: dict[str, Any], said: str) -> None:
    made = raycluster()
    made["spec"] |= change
    *_, last = findings(made)
    assert last.ok is False
    assert said in last.said


@pytest.mark.parametrize(
    ("annotation", "said", "ok"),
    [
        (ON_FAULT_LABEL, "train*=replace,grace=60;degrade", True),
        (ON_FAULT_LABEL, "mend", False),
        (SPARES_ANNOTATION, "2", True),
        (SPARES_ANNOTATION, "some", False),
    ],
)
def test_what_is_said_of_faults_is_checked_before_any_gang_needs_it(annotation: str, said: str, ok: bool) -> None:
    made = raycluster()
    made["metadata"]["annotations"] = {annotation: said}
    *_, last = findings(made)
    assert (last.ok, said in last.said) == (ok, True)
    assert annotation in last.what + last.said


@pytest.mark.parametrize(
    ("said", "hooked", "ok"),
    [("same_clique", True, True), ("same_clique", False, False), ("sameclique", True, False), ("none", True, True)],
)
def test_the_policy_of_ordinary_groups_is_checked_and_what_it_needs(said: str, hooked: bool, ok: bool) -> None:
    """Without the hook on the head nobody would hear of it."""
    made = raycluster()
    made["metadata"]["annotations"] = {LOCALITY_LABEL: said}
    if not hooked:
        made["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"] = []
    *_, last = findings(made)
    assert last.ok is ok
    assert LOCALITY_LABEL in last.what + last.said
    assert said in last.said


@pytest.mark.parametrize(
    ("annotations", "served", "allowed", "told"),
    [
        (None, True, True, []),
        ({QUEUE_ANNOTATION: "kueue/team-a"}, True, True, [True, True, True]),
        ({QUEUE_ANNOTATION: "kueue/team-a"}, True, False, [True, False, False]),
        ({QUEUE_ANNOTATION: "kueue/team-a"}, False, True, [False]),
        ({QUEUE_ANNOTATION: "kai/team-a"}, True, True, [True, True]),
        ({QUEUE_ANNOTATION: "kai/team-a"}, True, False, [True, False]),
        ({QUEUE_ANNOTATION: "kai/team-a"}, False, True, [False]),
        ({QUEUE_ANNOTATION: "kai/team-a", KAI_PRIORITIES_ANNOTATION: "0=train"}, True, True, [True, True]),
        ({QUEUE_ANNOTATION: "kai/team-a", KAI_PRIORITIES_ANNOTATION: "train"}, True, True, [False, True, True]),
        ({QUEUE_ANNOTATION: "kueue/team-a", KAI_PRIORITIES_ANNOTATION: "train"}, True, True, [True, True, True]),
        ({QUEUE_ANNOTATION: "volcano/team-a"}, True, True, [False]),
    ],
)
def test_what_a_queue_that_pays_needs_is_looked_at_where_one_is_named(
    annotations: dict[str, str] | None, served: bool, allowed: bool, told: list[bool]
) -> None:
    class One(Api):
        def get(self, *arguments: Any) -> Any:
            return {"metadata": {"annotations": annotations}}

        def serves(self, kind: str) -> bool:
            return served

        def review(self, thing: Any) -> Any:
            return {"status": {"allowed": allowed}}

    api: Any = One()
    found = [*check._asked("queue", partial(check._of_queue, api, "team", "c"))]
    assert [finding.ok for finding in found] == told


@pytest.mark.parametrize(
    ("asked", "served", "kept", "allowed", "told", "said"),
    [
        ("true", True, True, True, [True, True], "served by scheduling.k8s.io/v1beta1"),
        (
            "true",
            True,
            True,
            False,
            [True, None],
            "with `gang-scheduling` among its components; gangs are in no PodGroup",
        ),
        (
            "true",
            True,
            False,
            True,
            [None],
            "the gate GenericWorkload is off; gangs are placed whole by their own gates",
        ),
        ("true", False, True, True, [None], "with PodGroups is served; gangs are placed whole by their own gates"),
        ("false", True, True, True, [], ""),
    ],
)
def test_gang_scheduling_of_kubernetes_own_is_looked_at_where_it_is_asked_for(
    asked: str, served: bool, kept: bool, allowed: bool, told: list[bool | None], said: str
) -> None:
    made = cluster()
    made["metadata"]["annotations"] = {GANG_SCHEDULING_ANNOTATION: asked}

    class One(Api):
        def serves(self, kind: str) -> bool:
            return served

        def review(self, thing: Any) -> Any:
            assert thing["spec"]["resourceAttributes"]["group"] == "scheduling.k8s.io"
            return {"status": {"allowed": allowed}}

    def create(thing: Any, namespace: str, *, dry_run: bool) -> Any:
        assert dry_run, "nothing is changed"
        return thing if kept else {**thing, "spec": {}}

    api: Any = One(made)
    api.create = create
    found = [*check._asked("it", partial(check._of_gang_scheduling, api, "team", "c"))]
    assert [finding.ok for finding in found] == told
    assert said in " ".join(finding.said for finding in found)


def test_what_confidential_gangs_lack_is_told_where_somebody_wants_them() -> None:
    machines = simulated_nodes("hgx-h100", nodes=4)
    gates = (frozenset({"PassthroughSupport"}),) * 3 + (frozenset[str](),)
    published = [each for m, g in zip(machines, gates, strict=True) for each in slices(gpu_pool(m, {}, g), m.name, 1)]
    nodes = [paper_node(m) for m in machines]
    modes = [("on", "on", "true"), ("on", "off", "false"), ("off", "off", "false"), ("ppcie", "ppcie", "true")]
    keys = ("nvidia.com/cc.mode", "nvidia.com/cc.mode.state", "nvidia.com/cc.ready.state")
    found = cluster()

    class Some(Api):
        classes = True

        def items(self, kind: str, **more: Any) -> list[Any]:
            each = nodes if kind == "Node" else published
            return [{**thing, "metadata": {**thing["metadata"], "resourceVersion": "1"}} for thing in each]

        def find(self, kind: str, *arguments: Any) -> Any:
            return (
                {"metadata": {}} if kind == "RuntimeClass" and self.classes else found if kind == "RayCluster" else None
            )

    api: Any = Some(found)
    assert not [*check._of_confidential(api, "team", "c", "it")], "nobody asks for any"
    for thing, mode in zip(nodes, modes, strict=True):
        thing["metadata"]["labels"] |= dict(zip(keys, mode, strict=True))
    told = {finding.what: finding for finding in check._of_confidential(api, "team", "c", "it")}
    assert (told["it"].ok, "no such runtimeClassName" in told["it"].said) == (None, True)
    assert told["nodes for confidential workers"] == (None, "nodes for confidential workers", "1 nodes in mode on")
    assert told.keys() == {
        "it",
        "nodes for confidential workers",
        f"node {machines[1].name}",
        f"node {machines[3].name}",
    }
    assert "cc.mode.state is 'off', and not on" in told[f"node {machines[1].name}"].said
    assert "ray-dra.io/passthrough is ''" in told[f"node {machines[3].name}"].said
    pod = found["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    pod["runtimeClassName"] = "kata-qemu-nvidia-gpu-tdx"
    assert [f.ok for f in check._of_confidential(api, "team", "c", "it")] == [True, None, None, True]
    api.classes = False
    first = next(check._of_confidential(api, "team", "c", "it"))
    assert (first.ok, "there is none of this name" in first.said) == (False, True)


def test_labels_by_which_others_queue_or_place_the_raycluster_are_told() -> None:
    made = raycluster()
    made["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team", "ray.io/gang-scheduling-enabled": "true"}
    told = {finding.what: finding for finding in findings(made)}
    for label in made["metadata"]["labels"]:
        assert told[f"label {label}"].ok is True
        assert "gangs are in none" in told[f"label {label}"].said
    made["spec"]["workerGroupSpecs"][0]["template"]["spec"]["schedulerName"] = "kai-scheduler"
    (refused,) = findings(made)
    assert (refused.ok, "leave schedulerName out of it" in refused.said) == (False, True)


def test_devices_in_two_claims_and_nodes_of_two_schedulers_are_told() -> None:
    (machine,) = simulated_nodes("gb200-nvl72", nodes=1)
    published = slices(gpu_pool(machine, {}), machine.name, 1)

    def claimed(name: str, device: str) -> dict[str, Any]:
        result = {"driver": "gpu.nvidia.com", "pool": machine.name, "device": device}
        status = {"allocation": {"devices": {"results": [result]}}}
        return {"metadata": {"name": name, "namespace": "ns", "uid": name}, "status": status}

    def pod(scheduler: str) -> dict[str, Any]:
        spec = {"nodeName": machine.name, "resourceClaims": [{"name": "gpus"}], "schedulerName": scheduler}
        return {"metadata": {"name": scheduler}, "spec": spec}

    things: dict[str, list[dict[str, Any]]] = {
        "ResourceSlice": [{**each, "metadata": {**each["metadata"], "resourceVersion": "1"}} for each in published],
        "ResourceClaim": [claimed("a", "gpu-0"), claimed("b", "gpu-1")],
        "Pod": [pod("kai-scheduler")],
    }

    class Some(Api):
        def items(self, kind: str, **more: Any) -> list[Any]:
            return things[kind]

        def review(self, body: dict[str, Any]) -> dict[str, Any]:
            asked = body["spec"]["resourceAttributes"]
            assert asked == {"group": "", "resource": "pods", "verb": "list"}
            return {"status": {"allowed": "Pod" in things}}

    api: Any = Some(cluster())

    def told() -> list[tuple[bool | None, str]]:
        return [(each.ok, each.said) for each in check._of_schedulers(api, "team", "c", "schedulers")]

    assert [ok for ok, _ in told()] == [True, True]
    things["ResourceClaim"].append(claimed("c", "gpu-0"))
    things["Pod"].append(pod("default-scheduler"))
    (doubled, twice), (mixed, two) = told()
    assert (doubled, mixed) == (False, None)
    assert twice.startswith(f"gpu-0 on {machine.name}: given to the claims ns/a and ns/c; let one scheduler")
    assert two.startswith("default-scheduler and kai-scheduler have placed pods with claims there")
    del things["Pod"]
    assert told()[1] == (None, "this cannot be told without the right to list all pods; nothing else needs that")
