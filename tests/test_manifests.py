"""What docs/security.md promises of the manifests and examples, read off every one of them."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

import pytest
import yaml

from ray_dra.translate.kube.slots import Slot, attempt_name
from tests.manifests import PROJECT, PodSpec, Rule, containers, files, granted, objects, pods

SECURITY = (PROJECT / "docs" / "security.md").read_text()
IMAGE = "localhost/ray-dra"
# The one pod that is not restricted, and all that it takes of its host; docs/security.md says why.
DAEMON = "kube/simulated-gpus/driver.yaml"
HOST_PATHS = {
    "/var/lib/kubelet/plugins/gpu.nvidia.com",
    "/var/lib/kubelet/plugins/compute-domain.nvidia.com",
    "/var/lib/kubelet/plugins_registry",
    "/var/run/cdi",
    "/var/lib/ray-dra-simulated",
}
every_pod = pytest.mark.parametrize("pod", pods(), ids=lambda pod: f"{pod.file}{pod.path}")


def test_there_is_something_to_check() -> None:
    found = {pod.file for pod in pods()}
    assert {DAEMON, "kube/topology-agent/agent.yaml", "examples/kubernetes/raycluster.yaml"} <= found
    assert len(pods()) == 13


@every_pod
def test_a_pod_has_what_restricted_asks_for(pod: PodSpec) -> None:
    context = pod.spec["securityContext"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
    for container in containers(pod.spec):
        own = container["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert "privileged" not in own
    paths = {volume["hostPath"]["path"] for volume in pod.spec.get("volumes", ()) if "hostPath" in volume}
    if pod.file == DAEMON:
        assert paths == HOST_PATHS
        assert all(f"`{path}`" in SECURITY for path in paths)
        return
    assert not paths
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == 1000


@every_pod
def test_a_pod_runs_the_one_image_and_its_version_is_elsewhere(pod: PodSpec) -> None:
    for container in containers(pod.spec):
        assert container["image"] == IMAGE
        assert container["imagePullPolicy"] == ("Never" if "kube/simulated-gpus" in pod.file else "IfNotPresent")
    kustomization = (PROJECT / pod.file).with_name("kustomization.yaml")
    built = yaml.safe_load(kustomization.read_text())
    (component,) = built["components"]
    assert (kustomization.parent / component).resolve() == PROJECT / "kube" / "image"


@every_pod
def test_only_a_pod_that_asks_kubernetes_has_a_token(pod: PodSpec) -> None:
    asks = pod.spec.get("serviceAccountName")
    assert (asks is not None) is pod.spec.get("automountServiceAccountToken", True)
    assert not (asks and "workerGroupSpecs" in pod.path)
    assert asks in (None, *(rule.account for rule in granted()))


def test_one_place_has_the_image_and_its_version() -> None:
    named = yaml.safe_load((PROJECT / "kube" / "image" / "kustomization.yaml").read_text())["images"]
    assert named == [{"name": IMAGE, "newTag": importlib.metadata.version("ray-dra")}]
    assert "no registry" in re.sub(r"\s+", " ", SECURITY)
    for path in (*files(), PROJECT / "kube" / "image" / "Dockerfile", *(PROJECT / "docs").glob("*.md")):
        assert "ray-dra.io/ray:" not in path.read_text(), path
    others = [line for path in files() for line in re.findall(r"image: *(\S+)", path.read_text()) if line != IMAGE]
    assert not others


def test_the_image_is_made_of_pinned_parts() -> None:
    recipe = (PROJECT / "kube" / "image" / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", recipe, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", recipe, re.MULTILINE)) <= {"${BASE}", "scratch"} | stages
    assert re.search(r"^ARG BASE$", recipe, re.MULTILINE), "the base has no default"
    commands = [line for line in recipe.replace("\\\n", " ").splitlines() if line.startswith("RUN")]
    for command in commands:
        for part in re.findall(r"pip (?:install|wheel)[^&]*", command):
            hashed = "--require-hashes" in part and "--only-binary=:all:" in part
            assert hashed or ("--no-index" in part and "--no-deps" in part), part
    last = recipe.rpartition("\nFROM ")[2]
    assert last.startswith("installed\n"), "sources and tools stay in their stages"
    assert "USER 1000:100" in last
    for name in ("", "build-"):
        text = (PROJECT / "kube" / "image" / f"{name}requirements.txt").read_text()
        packages = re.findall(r"^[a-z0-9].*==.*$(?:\n    --hash.*)?", text, re.MULTILINE)
        assert packages
        assert all("--hash=sha256:" in package for package in packages)
    pinned = (PROJECT / "kube" / "image" / "build-requirements.txt").read_text()
    assert all(re.search(rf"^{name}==", pinned, re.MULTILINE) for name in group("build"))


def group(name: str) -> list[str]:
    """The packages of a dependency group, without their versions."""
    text = (PROJECT / "pyproject.toml").read_text()
    found = re.search(rf"^{name} = \[(.*)\]$", text, re.MULTILINE)
    assert found is not None
    return re.findall(r'"([a-z-]+)', found[1])


def test_rights_go_to_accounts_by_name_and_nothing_is_granted_by_a_star() -> None:
    for file, binding in objects("RoleBinding", "ClusterRoleBinding"):
        assert all(subject["kind"] == "ServiceAccount" for subject in binding["subjects"]), file
    for file, role in objects("Role", "ClusterRole"):
        assert all("*" not in rule[part] for rule in role["rules"] for part in ("verbs", "resources", "apiGroups")), (
            file
        )
    grouped = [path for path in files() if "system:serviceaccounts" in path.read_text()]
    assert grouped == [PROJECT / "kube" / "all-accounts" / "kustomization.yaml"]
    main = yaml.safe_load((PROJECT / "kube" / "kustomization.yaml").read_text())
    assert main["components"] == []


def test_what_has_no_namespace_is_named_after_one() -> None:
    """Or to delete one installation would take another's rights."""
    kinds = {"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    found = [thing for file, thing in objects() if file.startswith("kube/base/") and thing["kind"] in kinds]
    assert {thing["kind"] for thing in found} == kinds
    assert all(re.search(r"[:.]namespace$", thing["metadata"]["name"], re.IGNORECASE) for thing in found)
    main = yaml.safe_load((PROJECT / "kube" / "kustomization.yaml").read_text())
    targets = [target for each in main["replacements"] for target in each["targets"]]
    named = {target["select"]["kind"] for target in targets if "metadata.name" in target["fieldPaths"]}
    assert named == kinds


def test_a_policy_that_cannot_be_asked_keeps_nobody_else_from_anything() -> None:
    """An API server that has just started does not know RayClusters: the no comes before account and binding."""
    main = yaml.safe_load((PROJECT / "kube" / "kustomization.yaml").read_text())
    targets = [target for each in main["replacements"] for target in each["targets"]]
    path = "spec.matchConstraints.namespaceSelector.matchLabels.[kubernetes.io/metadata.name]"
    assert {"select": {"kind": "ValidatingAdmissionPolicy"}, "fieldPaths": [path]} in targets
    for _, policy in objects("ValidatingAdmissionPolicy"):
        constraints = policy["spec"]["matchConstraints"]
        assert constraints["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "NAMESPACE"}
        if "paramKind" in policy["spec"]:
            assert constraints["objectSelector"]["matchExpressions"], "gangs' objects alone"
    for _, binding in objects("ValidatingAdmissionPolicyBinding"):
        assert "matchResources" not in binding["spec"], "one place says what is asked about"


def test_a_policy_that_finds_nothing_to_ask_keeps_nobody_from_ending_or_changing_pods() -> None:
    """The no for want of a parameter comes before the account is looked at: it is for the kubelet, too."""
    policies = {thing["metadata"]["name"]: thing["spec"] for _, thing in objects("ValidatingAdmissionPolicy")}
    asking = [t["spec"] for _, t in objects("ValidatingAdmissionPolicyBinding") if "paramRef" in t["spec"]]
    assert len(asking) == 2
    for binding in asking:
        rules = policies[binding["policyName"]]["matchConstraints"]["resourceRules"]
        if any({"UPDATE", "DELETE"} & {*rule["operations"]} for rule in rules):
            assert binding["paramRef"]["parameterNotFoundAction"] == "Allow"


def test_the_docs_list_every_right_and_no_other() -> None:
    rows = re.findall(r"^\| (\S+) \| (namespace|cluster) \| (\S+) \| ([a-z, ]+) \| .+ \|$", SECURITY, re.MULTILINE)
    listed = {Rule(account, where, resource, frozenset(verbs.split(", "))) for account, where, resource, verbs in rows}
    assert len(rows) == len(listed)
    assert listed == granted()


def test_namespaces_say_what_they_take() -> None:
    found = {t["metadata"]["name"]: t["metadata"]["labels"] for _, t in objects("Namespace")}
    level = "pod-security.kubernetes.io/enforce"
    assert found == {"ray": {level: "restricted"}, "ray-dra-simulated": {level: "privileged"}}


def test_rayclusters_have_a_token_and_a_network_policy() -> None:
    found: list[tuple[str, dict[str, Any]]] = [(f, t["spec"]) for f, t in objects("RayCluster")]
    found += [(f, t["spec"]["rayClusterSpec"]) for f, t in objects("RayJob")]
    assert len(found) == 3
    policies = {f.rpartition("/")[0]: t for f, t in objects("NetworkPolicy")}
    for file, spec in found:
        assert spec["authOptions"] == {"mode": "token"}
        policy = policies[file.rpartition("/")[0]]["spec"]
        assert policy["policyTypes"] == ["Ingress"]
        chosen = policy["podSelector"]
        assert {"podSelector": chosen} in policy["ingress"][0]["from"], "its own pods reach each other"
        # By KubeRay's label with the RayCluster's name, or by one that all of its pods carry.
        if "ray.io/cluster" not in chosen["matchLabels"]:
            groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
            assert all(group["template"]["metadata"]["labels"] == chosen["matchLabels"] for group in groups)


def test_the_admission_policy_knows_how_gangs_workers_are_named() -> None:
    """The API server refuses every other pod of the account: also one that takes the place of a lost one, and its
    claims."""
    policy = (PROJECT / "kube" / "base" / "admission.yaml").read_text()
    (worker,) = re.findall(r"object\.metadata\.name\.matches\('\^' \+ variables\.attempt \+ '([^']+)'\)", policy)
    (attempt,) = re.findall(r"variables\.attempt\.matches\('([^']+)'\)", policy)
    name = attempt_name("a gang", 12)
    assert re.search(attempt, name)
    for renewed in (0, 1, 345):
        slot = Slot(f"{name}.17", "node", (0,), ("GPU-0",), None, {}, renewed=renewed)
        assert re.search(f"^{name}{worker}", slot.name)
        assert set(slot.claims) == {slot.name}
        assert len(slot.name) <= 63
    assert not re.search(f"^{name}{worker}", f"{name}-17-x1")
