"""The chart by real Helm: it makes what `kubectl apply -k kube/` makes, for any values, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import binaries
from tests.cluster.cluster import Cluster
from tests.cluster.world import Namespace
from tests.manifests import PROJECT

pytestmark = [pytest.mark.cluster]
CHART = PROJECT / "charts" / "ray-dra"
Things = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def helm() -> str:
    try:
        return binaries.program("helm")
    except RuntimeError as error:
        pytest.skip(str(error))


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done.stdout if check else done.stdout + done.stderr


def named(things: list[Any]) -> Things:
    found = {(thing["kind"], thing["metadata"]["name"]): thing for thing in things if thing}
    assert len(found) == len([thing for thing in things if thing]), "nothing is made twice"
    return found


def rendered(helm: str, *values: str, namespace: str = "team") -> Things:
    settings = [part for value in values for part in ("--set", value)]
    text = run(helm, "template", "ray-dra", str(CHART), "--namespace", namespace, "--kube-version", "1.37", *settings)
    return named(list(yaml.safe_load_all(text)))


def built(folder: Path, *components: str, namespace: str = "team") -> Things:
    """What a kustomization like kube/kustomization.yaml makes."""
    main = yaml.safe_load((PROJECT / "kube" / "kustomization.yaml").read_text())
    at = Path(*[".."] * len(folder.resolve().parts[1:]), *PROJECT.parts[1:], "kube")
    main |= {
        "namespace": namespace,
        "resources": [str(at / "base")],
        "components": [str(at / component) for component in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(main))
    text = run(binaries.program("kubectl"), "kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder))
    return named(list(yaml.safe_load_all(text)))


def plain(thing: Any) -> Any:
    """Without the line ends within texts: the two write folded YAML each in its own way."""
    if isinstance(thing, dict):
        return {key: plain(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [plain(value) for value in thing]
    return " ".join(thing.split()) if isinstance(thing, str) else thing


@pytest.mark.parametrize(
    ("values", "components"),
    [
        ((), ()),
        (
            ("kueue=true", "kai=true", "gangScheduling=true", "sandboxes=true", "shapes=true"),
            ("kueue", "kai", "gang-scheduling", "sandboxes", "shapes"),
        ),
        (("rayCluster=gangs",), ("one-raycluster",)),
        (("allAccounts=true", "shapes=true"), ("all-accounts", "shapes")),
    ],
    ids=["default", "neighbours", "one RayCluster", "all accounts"],
)
def test_the_chart_makes_what_the_kustomization_makes(
    helm: str, tmp_path: Path, values: tuple[str, ...], components: tuple[str, ...]
) -> None:
    ours, theirs = rendered(helm, *values), built(tmp_path, *components)
    assert ours.keys() == theirs.keys()
    for key, thing in theirs.items():
        if key[0].startswith("ValidatingAdmissionPolicy"):
            thing["metadata"].pop("namespace")  # kustomize does not know that it has none
        assert plain(ours[key]) == plain(thing), key


@pytest.mark.parametrize("values", [(), ("namespaces={a,b}", "allAccounts=true", "rayCluster=gangs")])
def test_the_drain_plugin_is_what_its_kustomization_makes(helm: str, values: tuple[str, ...]) -> None:
    """Once, and with its own rights alone, whatever the rest of the chart is for."""
    folder = PROJECT / "kube" / "nvsentinel"
    theirs = named(list(yaml.safe_load_all(run(binaries.program("kubectl"), "kustomize", str(folder)))))
    image = rendered(helm, "example.enabled=true")["RayCluster", "gangs"]["spec"]["headGroupSpec"]["template"]["spec"]
    theirs["Deployment", "ray-dra-drains"]["spec"]["template"]["spec"]["containers"][0]["image"] = image["containers"][
        0
    ]["image"]
    text = run(
        *(helm, "template", "ray-dra", str(CHART), "--namespace", "team", "--kube-version", "1.37"),
        *[part for value in ("nvsentinel.enabled=true", *values) for part in ("--set", value)],
    )
    found = [thing for thing in yaml.safe_load_all(text) if thing]
    ours = named([thing for thing in found if (thing["kind"], thing["metadata"]["name"]) in theirs])
    assert {key: plain(thing) for key, thing in ours.items()} == {key: plain(thing) for key, thing in theirs.items()}


def test_the_topology_agents_metrics_are_what_their_component_makes(helm: str, tmp_path: Path) -> None:
    """Without a port nothing listens, and nobody reaches the agents; with one, that port alone."""
    values = ("topologyAgent.enabled=true", "topologyAgent.metricsPort=8080", "monitoring.enabled=true")
    found = rendered(helm, *values)
    at = Path(*[".."] * len(tmp_path.resolve().parts[1:]), *PROJECT.parts[1:], "kube")
    own = {"resources": [str(at / "topology-agent")], "components": [str(at / "topology-agent" / "metrics")]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": "team", **own}))
    text = run(binaries.program("kubectl"), "kustomize", "--load-restrictor=LoadRestrictionsNone", str(tmp_path))
    theirs = named(list(yaml.safe_load_all(text)))
    image = found["DaemonSet", "ray-dra-topology"]["spec"]["template"]["spec"]["containers"][0]["image"]
    theirs["DaemonSet", "ray-dra-topology"]["spec"]["template"]["spec"]["containers"][0]["image"] = image
    assert {key: plain(found[key]) for key in theirs} == {key: plain(thing) for key, thing in theirs.items()}
    assert theirs["NetworkPolicy", "ray-dra-topology"]["spec"]["ingress"] == [
        {"ports": [{"port": "metrics", "protocol": "TCP"}]}
    ]
    closed = rendered(helm, "topologyAgent.enabled=true", "monitoring.enabled=true")
    assert closed["NetworkPolicy", "ray-dra-topology"]["spec"]["ingress"] == []
    assert ("PodMonitor", "ray-dra-topology") not in closed
    (container,) = closed["DaemonSet", "ray-dra-topology"]["spec"]["template"]["spec"]["containers"]
    assert "ports" not in container
    assert "RAY_DRA_METRICS_PORT" not in [each["name"] for each in container["env"]]


def test_the_drain_plugin_is_opt_in_elsewhere_and_without_the_definition(helm: str) -> None:
    def drains(*values: str) -> Things:
        found = rendered(helm, *values)
        return {key: thing for key, thing in found.items() if "drain" in key[1]}

    assert not drains()
    found = drains("nvsentinel.enabled=true", "nvsentinel.namespace=watch", "nvsentinel.crd=false")
    assert {kind for kind, _ in found} == {
        *("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Deployment")
    }
    for (kind, _), thing in found.items():
        assert thing["metadata"].get("namespace") == (None if kind.startswith("Cluster") else "watch")
        assert all(subject["namespace"] == "watch" for subject in thing.get("subjects", ()))


def test_what_is_asked_for_beside_the_rights_is_there(helm: str) -> None:
    digest = f"sha256:{'a' * 64}"
    values = ("topologyAgent.enabled=true", "monitoring.enabled=true", "example.enabled=true", "namespaces={a,b}")
    found = list(
        yaml.safe_load_all(
            run(
                *(helm, "template", "ray-dra", str(CHART), "--namespace", "ops", "--kube-version", "1.37"),
                *[part for value in values for part in ("--set", value)],
                *("--set", "image.repository=registry.example/ray", "--set", f"image.digest={digest}"),
                *("--set", "image.pullPolicy=Always", "--set", "monitoring.labels.release=prometheus"),
            )
        )
    )
    kinds = [(thing["kind"], thing["metadata"].get("namespace")) for thing in found if thing]
    for kind in ("DaemonSet", "ResourceClaimTemplate", "RayCluster", "NetworkPolicy", "PodMonitor", "PrometheusRule"):
        spaces = [space for each, space in kinds if each == kind]
        assert spaces == ["a", "b"] * (2 if kind == "NetworkPolicy" else 1), kind
    assert ("ConfigMap", "ops") in kinds
    text = json.dumps(found)
    assert "localhost/ray-dra" not in text
    assert f"registry.example/ray@{digest}" in text
    assert '"imagePullPolicy": "IfNotPresent"' not in text
    board = next(thing for thing in found if thing["kind"] == "ConfigMap")["data"]["dashboard.json"]
    assert json.loads(board) == json.loads((PROJECT / "kube" / "monitoring" / "dashboard.json").read_text())
    rules = next(thing for thing in found if thing["kind"] == "PrometheusRule")
    source = yaml.safe_load((PROJECT / "kube" / "monitoring" / "rules.yaml").read_text())
    assert rules["spec"] == source["spec"]
    assert rules["metadata"]["labels"] == {**source["metadata"]["labels"], "release": "prometheus"}


@pytest.mark.parametrize(
    "value",
    [
        "allAccounts=perhaps",
        "namespaces={Not_A_Name}",
        "image.digest=sha256:1",
        "rayClusters=gangs",
        "image.pullPolicy=Sometimes",
        "image.tag=-a",
        *(f"image.repository={said}" for said in ('a"b', "a$1b", "a #b", " ", "a:1", "a@b", "/a")),
        "monitoring.labels.a b=x",
        "monitoring.labels.a=x y",
        "topologyAgent.nodeSelector.a=-",
        "topologyAgent=null",
        "topologyAgent.metricsPort=http",
        "topologyAgent.metricsPort=70000",
        "nvsentinel.enabled=yes please",
        "nvsentinel.namespace=Not_A_Name",
        "nvsentinel=null",
    ],
)
def test_a_value_that_cannot_be_is_refused(helm: str, value: str) -> None:
    said = run(helm, "template", "ray-dra", str(CHART), "--kube-version", "1.37", "--set", value, check=False)
    assert "values don't meet the specifications of the schema" in said
    assert "kind:" not in said


@pytest.mark.parametrize("space", ["1234", "true"])
def test_a_namespace_whose_name_reads_as_something_else(helm: str, space: str) -> None:
    found = rendered(helm, "shapes=true", namespace=space)
    specs = [thing["spec"] for (kind, _), thing in found.items() if kind == "ValidatingAdmissionPolicy"]
    where = [spec["matchConstraints"]["namespaceSelector"]["matchLabels"] for spec in specs]
    assert where
    assert all(labels == {"kubernetes.io/metadata.name": space} for labels in where)


def test_labels_of_the_dashboard_may_be_other_ones_and_none(helm: str) -> None:
    for value, wanted in (("monitoring.labels.grafana_dashboard=a", "a"), ("monitoring.labels=null", "1")):
        boards = [t for (k, _), t in rendered(helm, "monitoring.enabled=true", value).items() if k == "ConfigMap"]
        assert [board["metadata"]["labels"]["grafana_dashboard"] for board in boards] == [wanted]


def test_helm_has_nothing_against_it(helm: str) -> None:
    assert "0 chart(s) failed" in run(helm, "lint", "--strict", "--kube-version", "1.37", str(CHART))
    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert meta["version"] == meta["appVersion"]
    assert f'\nversion = "{meta["version"]}"\n' in (PROJECT / "pyproject.toml").read_text()


def test_installed_upgraded_and_uninstalled_nothing_is_left(helm: str, cluster: Cluster, namespace: Namespace) -> None:
    at = (f"--kubeconfig={cluster.kubeconfig}", "--namespace", namespace.name)

    def there() -> set[str]:
        own = cluster.kubectl("get", "serviceaccount,role,rolebinding", "-n", namespace.name, "-o", "name").split()
        found = {name for name in own if "ray-dra" in name}
        everywhere = "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"
        names = cluster.kubectl("get", everywhere, "-o", "name").split()
        return found | {name for name in names if name.endswith((f":{namespace.name}", f".{namespace.name}"))}

    before = there()
    run(helm, "install", "ray-dra", str(CHART), *at)
    installed = there()
    kinds = {name.partition("/")[0].partition(".")[0] for name in installed - before}
    assert kinds == {
        "serviceaccount",
        "role",
        "rolebinding",
        "clusterrole",
        "clusterrolebinding",
        "validatingadmissionpolicy",
        "validatingadmissionpolicybinding",
    }
    run(helm, "upgrade", "ray-dra", str(CHART), *at, "--reuse-values", "--set", "sandboxes=true")
    more = there() - installed
    assert {name.rpartition("/")[2] for name in more} == {"ray-dra-sandboxes"}
    assert len(more) == 2
    run(helm, "uninstall", "ray-dra", *at, "--wait")
    assert there() == before
