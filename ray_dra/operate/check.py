"""`ray-dra check`: whether a RayCluster can be given gangs, line by line, and what to do where it cannot.

It only asks and changes nothing. The table of rights is the one place that says what ray-dra needs of Kubernetes; a
test holds the roles under kube/ equal to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple

from ray_dra.adapters.gang_scheduling import pod_group_api, why_ungrouped
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.ray import check_ray
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import WHOLE
from ray_dra.errors import InvalidRequest, RayDraError, shown
from ray_dra.operate import scheduler_checks
from ray_dra.ports.kube_objects import KubeNode, Placing, RayCluster, ResourceSlice
from ray_dra.ports.kubernetes import Object
from ray_dra.translate.files.team_queues import read_team_queues
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.gang_scheduling import asks_for_gang_scheduling, grouped_probe
from ray_dra.translate.kube.kai import PRIORITIES, is_kai, priority_classes
from ray_dra.translate.kube.queues import FORMS, is_queue
from ray_dra.translate.kube.raycluster import (
    check_confidential,
    default_locality,
    driver_of,
    fault_rules_in,
    read_raycluster,
    schedule_in,
    spares_in,
    worker_template,
    write_limits,
)
from ray_dra.translate.kube.shapes import UNREADABLE, why_unreadable
from ray_dra.translate.kube.slices import node_from_slices, read_node, read_slice
from ray_dra.translate.lines import several
from ray_dra.translate.names import (
    COMPUTE_DOMAIN_GROUP,
    GANG_SCHEDULING_ANNOTATION,
    KAI_API,
    KAI_GROUP,
    KAI_PRIORITIES_ANNOTATION,
    KUEUE_API,
    KUEUE_GROUP,
    LOCALITY_LABEL,
    ON_FAULT_LABEL,
    PASSTHROUGH_LABEL,
    PROBLEMS_ANNOTATION,
    QUEUE_ANNOTATION,
    QUEUES_VARIABLE,
    RAY_GROUP,
    SCHEDULE_ANNOTATION,
    SCHEDULING_GROUP,
    SPARES_ANNOTATION,
    START_HOOK_VARIABLE,
)
from ray_dra.translate.queue_table import too_much_guaranteed
from ray_dra.translate.ray.confidential import MODES
from ray_dra.translate.vendors import NVIDIA

LAPSED = timedelta(seconds=60)  # of a lease; its holder renews it every few seconds, by a clock that may differ


class Right(NamedTuple):
    """The verbs that ray-dra needs on a resource, in the RayCluster's namespace or (`everywhere`) in the whole
    cluster. `without`: what is amiss where it is lacking; "": gangs cannot do without it."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    everywhere: bool = False
    without: str = ""


RIGHTS = (
    Right(RAY_GROUP, "rayclusters", ("get", "list", "watch")),
    Right(RAY_GROUP, "rayservices", ("list", "watch"), without="gangs are not told of a RayService's upgrade"),
    Right("resource.k8s.io", "resourceclaims", ("create", "delete")),
    Right("resource.k8s.io", "resourceclaimtemplates", ("list", "watch")),
    Right(COMPUTE_DOMAIN_GROUP, "computedomains", ("list", "watch", "create", "delete")),
    Right("", "pods", ("list", "watch", "create", "patch", "delete")),
    Right("", "configmaps", ("list", "watch")),
    Right("coordination.k8s.io", "leases", ("get", "create", "update")),
    Right("", "events", ("create",)),
    Right("", "nodes", ("list", "watch"), everywhere=True),
    Right("resource.k8s.io", "resourceslices", ("list", "watch"), everywhere=True),
    Right("resource.k8s.io", "resourceclaims", ("list", "watch"), everywhere=True),
    Right(
        "resource.k8s.io",
        "devicetaintrules",
        ("list", "watch"),
        everywhere=True,
        without="gangs are planned onto devices that administrators have tainted, and wait there in vain",
    ),
)


QUEUE_RIGHTS = (
    Right(KUEUE_GROUP, "workloads", ("list", "watch", "create", "delete")),
    Right(KUEUE_GROUP, "resourceflavors", ("list", "watch"), everywhere=True),
)
"""Those that a RayCluster needs besides whose gangs are paid from a queue."""

KAI_RIGHTS = (Right(KAI_GROUP, "podgroups", ("list", "watch", "create", "delete")),)
"""The same, where the queue is KAI Scheduler's."""

GANG_SCHEDULING_RIGHTS = (
    Right(
        SCHEDULING_GROUP,
        "podgroups",
        ("list", "watch", "create", "delete"),
        without="gangs are in no PodGroup of Kubernetes' own",
    ),
)
"""The same, where its gangs are to be bound whole by Kubernetes' own scheduler, too."""

SHAPE_RIGHTS = (
    Right(
        "resource.k8s.io",
        "devicetaintrules",
        ("create", "delete"),
        everywhere=True,
        without="gangs cannot change between whole GPUs, parts and shares (kube/shapes)",
    ),
)


class Finding(NamedTuple):
    """One line. `ok` is None for what may be missing."""

    ok: bool | None
    what: str
    said: str


def findings(api: KubernetesApi, namespace: str, raycluster: str) -> Iterator[Finding]:
    """Everything that a gang needs, in the order in which it needs it. What could not be asked is a finding too."""
    cluster = f"RayCluster {namespace}/{raycluster}"
    yield from _asked("Ray", _of_ray)
    for kind in ("RayCluster", "ResourceSlice", "ComputeDomain"):
        yield from _asked(kind, partial(_of_kind, api))
    for right in (*RIGHTS, *SHAPE_RIGHTS):
        where = "everywhere" if right.everywhere else f"in {namespace}"
        yield from _asked(f"{right.resource} {where}", partial(_of_right, api, right, namespace, raycluster))
    yield from _asked(cluster, partial(_of_cluster, api, namespace, raycluster))
    yield from _asked("the queue that gangs are paid from", partial(_of_queue, api, namespace, raycluster))
    asked = f"annotation {GANG_SCHEDULING_ANNOTATION}"
    yield from _asked(asked, partial(_of_gang_scheduling, api, namespace, raycluster))
    yield from _asked("GPUs", partial(_of_nodes, api, namespace, raycluster))
    yield from _asked("queues of teams", partial(_of_teams, api, namespace, raycluster))
    yield from _asked("schedulers", partial(_of_schedulers, api, namespace, raycluster))
    yield from _asked("confidential gangs", partial(_of_confidential, api, namespace, raycluster))
    yield from _asked("the coordinator's view", partial(_of_view, api, namespace, raycluster))


def _asked(what: str, ask: Callable[[str], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from ask(what)
    except RayDraError as error:
        yield Finding(False, what, str(error))


def _of_kind(api: KubernetesApi, kind: str) -> Iterator[Finding]:
    missing = {
        "RayCluster": "not served: no KubeRay",
        "ResourceSlice": "not served: Kubernetes is older than 1.34",
        "ComputeDomain": "not served: gangs over several nodes get no IMEX channel",
    }
    served = api.serves(kind)
    lacking = None if kind == "ComputeDomain" else False
    yield Finding(True, kind, "served") if served else Finding(lacking, kind, missing[kind])


def _of_queue(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    """Nothing where the RayCluster names none. Whether there is such a queue, Kueue says to each gang."""
    annotations = (api.get("RayCluster", raycluster, namespace)["metadata"].get("annotations")) or {}
    queue = annotations.get(QUEUE_ANNOTATION)
    if queue is None:
        return
    if not is_queue(queue):
        yield Finding(False, what, f"{shown(queue)} is none that is known: {FORMS}")
        return
    said = annotations.get(KAI_PRIORITIES_ANNOTATION, "")
    if is_kai(queue) and priority_classes(said) is None:
        yield Finding(False, KAI_PRIORITIES_ANNOTATION, f"{shown(said)} is none that is known: {PRIORITIES}")
    kind, served, whose = ("PodGroup", KAI_API, "KAI Scheduler") if is_kai(queue) else ("Workload", KUEUE_API, "Kueue")
    if not api.serves(kind):
        yield Finding(False, what, f"{queue}: {served} is not served: no {whose}, or an old one")
    else:
        yield Finding(True, what, queue)
        rights, component = (KAI_RIGHTS, "kai") if is_kai(queue) else (QUEUE_RIGHTS, "kueue")
        yield from _of_component(api, rights, component, namespace, raycluster)


def _of_gang_scheduling(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    """Nothing where the RayCluster does not ask for it."""
    found = _raycluster(api, namespace, raycluster)
    if found is None or not asks_for_gang_scheduling(found):
        return
    served = pod_group_api(api)
    why = why_ungrouped(api, served, grouped_probe(found), namespace)
    if why:
        yield Finding(None, what, f"{why}; gangs are placed whole by their own gates")
    else:
        yield Finding(True, what, f"served by {served}")
        yield from _of_component(api, GANG_SCHEDULING_RIGHTS, "gang-scheduling", namespace, raycluster)


def _of_component(
    api: KubernetesApi, rights: Iterable[Right], component: str, namespace: str, raycluster: str
) -> Iterator[Finding]:
    for right in rights:
        missing = may_not(api, right, namespace, raycluster)
        named = f"{right.resource} {'everywhere' if right.everywhere else f'in {namespace}'}"
        if missing:
            said = f"may not {', '.join(missing)}: kubectl apply -k kube/, with `{component}` among its components"
            without = right.without and f"; {right.without}"
            yield Finding(None if right.without else False, named, said + without)
        else:
            yield Finding(True, named, f"may {', '.join(right.verbs)}")


def _of_ray(what: str) -> Iterator[Finding]:
    check_ray()
    import ray

    yield Finding(True, what, f"{ray.__version__}; the parts that exact GPUs need are where they were")


def _of_right(api: KubernetesApi, right: Right, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    missing = may_not(api, right, namespace, raycluster)
    if missing:
        said = f"may not {', '.join(missing)}: kubectl apply -k kube/, with `namespace: {namespace}` in it"
        yield Finding(None if right.without else False, what, f"{said}; {right.without}" if right.without else said)
    else:
        yield Finding(True, what, f"may {', '.join(right.verbs)}")


def may_not(api: KubernetesApi, right: Right, namespace: str, raycluster: str) -> list[str]:
    """The verbs that this identity lacks. Of RayClusters one is asked for by name: the role may name it."""
    missing = []
    for verb in right.verbs:
        wanted = {"group": right.group, "resource": right.resource, "verb": verb}
        if not right.everywhere:
            wanted["namespace"] = namespace
        if right.resource == "rayclusters":
            wanted["name"] = raycluster
        review = {"spec": {"resourceAttributes": wanted}}
        if not api.review(review)["status"].get("allowed"):
            missing.append(verb)
    return missing


def _of_cluster(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    found = api.get("RayCluster", raycluster, namespace)
    try:
        yield from _of_found(found, what)
    except RayDraError:
        raise  # some are ValueErrors, too
    except UNREADABLE as error:
        yield Finding(False, what, f"left out, it cannot be read: {why_unreadable(error)}")


def _of_found(found: Object, what: str) -> Iterator[Finding]:
    read = read_raycluster(found)
    template = worker_template(read)
    write_limits(read)
    policy = default_locality(read)
    faults, spares = fault_rules_in(read), spares_in(read)
    image = template["template"]["spec"]["containers"][0].get("image")
    yield Finding(True, what, f"workers are copies of the group {template['groupName']}, image {image}")
    yield _of_version(str(found["spec"].get("rayVersion", "")))
    token = (found["spec"].get("authOptions") or {}).get("mode") == "token"
    said = "on" if token else "off: whoever reaches the head runs code with its account; authOptions: {mode: token}"
    yield Finding(token or None, "token authentication of the RayCluster", said)
    head = found["spec"]["headGroupSpec"]["template"]["spec"]
    hooked = any(e["name"] == START_HOOK_VARIABLE for c in head["containers"] for e in c.get("env") or ())
    said = (
        "set" if hooked else "not set: when the head is lost, nothing sweeps what gangs left until a program connects"
    )
    yield Finding(hooked or None, f"{START_HOOK_VARIABLE} of the head", said)
    said = policy or "not set: ordinary placement groups are planned in programs with a ray_dra:// address alone"
    yield Finding(bool(hooked or not policy), f"annotation {LOCALITY_LABEL}", said)
    if faults:
        yield Finding(True, f"annotation {ON_FAULT_LABEL}", read.settings[ON_FAULT_LABEL])
    if spares:
        yield Finding(True, f"annotation {SPARES_ANNOTATION}", f"{several(spares, 'node')} of each clique")
    for told, ok, said in scheduler_checks.of_labels(found):
        yield Finding(ok, told, said)
    if (schedule := schedule_in(read)) is not None:
        yield Finding(True, f"annotation {SCHEDULE_ANNOTATION}", str(schedule))


def _of_version(wanted: str) -> Finding:
    """Compares `rayVersion` with our Ray: KubeRay does not look into images."""
    import ray

    same = wanted in ("", ray.__version__)
    said = f"{wanted or 'not said'}; here it is {ray.__version__}"
    return Finding(
        same or None, "Ray version of the RayCluster", said if same else f"{said}: are the images of one kind?"
    )


def _placing(api: KubernetesApi, namespace: str, raycluster: str) -> Placing:
    """Of gangs' workers; where it cannot be told, which is a finding of its own, of pods that ask for nothing."""
    found = _raycluster(api, namespace, raycluster)
    return found.placing if found is not None else Placing()


def _raycluster(api: KubernetesApi, namespace: str, raycluster: str) -> RayCluster | None:
    """None where there is none, or it cannot be read."""
    try:
        found = api.find("RayCluster", raycluster, namespace)
        return read_raycluster(found) if found is not None else None
    except (RayDraError, *UNREADABLE):
        return None


def _of_nodes(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    driver = driver_of(_raycluster(api, namespace, raycluster))
    found, odd = _read(api.items("ResourceSlice", fields=f"spec.driver={driver}"), read_slice)
    slices: list[ResourceSlice] = found
    found, odd_nodes = _read(api.items("Node"), read_node)
    nodes: dict[str, KubeNode] = {node.name: node for node in found}
    for name, why in odd:
        yield Finding(False, f"ResourceSlice {name}", f"left out, it cannot be read: {why}")
    for name, why in odd_nodes:
        yield Finding(False, f"node {name}", f"left out, it cannot be read: {why}")
    made = _with_gpus(slices, nodes, _placing(api, namespace, raycluster))
    count = sum(len(node.devices) for node in made)
    cliques = {node.clique for node in made if node.clique}
    said = f"{count} on {len(made)} nodes in {len(cliques)} cliques"
    yield Finding(count > 0, what, said if count else f"no ResourceSlices of {driver}: is its DRA driver installed?")
    for node in made:
        if not node.ready:
            yield Finding(None, f"node {node.name}", f"left out: {node.reason}")
    for name, plain in sorted(nodes.items()):
        if plain.device_plugin and name not in {each.node for each in slices}:
            yield Finding(None, f"node {name}", "left out: its GPUs are offered by a device plugin, not by DRA")


def _with_gpus(slices: Iterable[ResourceSlice], nodes: Mapping[str, KubeNode], placing: Placing) -> list[Node]:
    by_node: dict[str, list[ResourceSlice]] = {}
    for each in slices:
        if each.node in nodes:
            by_node.setdefault(each.node, []).append(each)
    return [node_from_slices(nodes[name], pool, placing) for name, pool in sorted(by_node.items())]


def _of_teams(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    """Of queues whose text is in the RayCluster itself; what a file says, `ray-dra queues` tells."""
    try:
        head = api.get("RayCluster", raycluster, namespace)["spec"]["headGroupSpec"]["template"]["spec"]
        environment = [each for container in head["containers"] for each in container.get("env") or ()]
        said = next((str(each.get("value", "")) for each in environment if each["name"] == QUEUES_VARIABLE), "").strip()
    except UNREADABLE:
        return  # a finding of the RayCluster's own
    if not said:
        return
    if said.startswith("/"):
        yield Finding(True, what, f"declared in {said} of the head: ray-dra queues tells what it says")
        return
    queues = read_team_queues(said, QUEUES_VARIABLE)
    driver = driver_of(_raycluster(api, namespace, raycluster))
    slices = _read(api.items("ResourceSlice", fields=f"spec.driver={driver}"), read_slice)[0]
    nodes = {node.name: node for node in _read(api.items("Node"), read_node)[0]}
    gpus = sum(len(node.devices) for node in _with_gpus(slices, nodes, _placing(api, namespace, raycluster)))
    problem = too_much_guaranteed(queues, gpus * WHOLE)
    yield Finding(None, what, problem) if problem else Finding(True, what, queues.names())


def _of_schedulers(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    driver = driver_of(_raycluster(api, namespace, raycluster))
    slices = _read(api.items("ResourceSlice", fields=f"spec.driver={driver}"), read_slice)[0]
    claims = _read(api.items("ResourceClaim"), read_claim)[0]
    for told, ok, said in scheduler_checks.of_devices(claims, slices):
        yield Finding(ok, told, said)
    # Asked for first: a request that is refused stands in the audit logs of those who watch for such.
    lacks = may_not(api, Right("", "pods", ("list",), everywhere=True), namespace, raycluster)
    pods = None if lacks else api.items("Pod")
    for told, ok, said in scheduler_checks.of_nodes(pods, {each.node for each in slices if each.node}):
        yield Finding(ok, told, said)


def _of_confidential(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    """Nothing where neither the RayCluster nor any node is for them."""
    found = _raycluster(api, namespace, raycluster)
    nodes: list[KubeNode] = _read(api.items("Node"), read_node)[0]
    meant = [node for node in nodes if node.labels.get(NVIDIA.confidential_mode) in MODES]
    runtime = found.placing.runtime if found is not None else ""
    lacking = _lacks_confidential(found)
    if lacking and not (meant or runtime.startswith("kata-")):
        return
    if lacking:
        yield Finding(None, what, lacking)
    else:
        there = api.find("RuntimeClass", runtime) is not None
        yield Finding(there, what, f"runtime class {runtime}" + ("" if there else ": there is none of this name"))
    pools: dict[str, list[ResourceSlice]] = {}
    for each in _read(api.items("ResourceSlice", fields=f"spec.driver={NVIDIA.driver}"), read_slice)[0]:
        pools.setdefault(each.node, []).append(each)
    usable: Counter[str] = Counter()
    for node in meant:
        mode, labels = node.labels[NVIDIA.confidential_mode], node_from_slices(node, pools.get(node.name, [])).labels
        wrong = [
            f"{name} is {shown(labels.get(name, ''))}, and not {wanted}"
            for name, wanted in (
                (NVIDIA.confidential_state, mode),
                (NVIDIA.confidential_ready, "true"),
                (PASSTHROUGH_LABEL, "true"),
            )
            if labels.get(name) != wanted
        ]
        usable[mode] += not wrong
        if wrong:
            yield Finding(None, f"node {node.name}", f"no confidential workers: {'; '.join(wrong)}")
    said = ", ".join(f"{count} nodes in mode {mode}" for mode, count in sorted(usable.items()) if count)
    yield Finding(bool(said) if not lacking else None, "nodes for confidential workers", said or "none")


def _lacks_confidential(found: RayCluster | None) -> str:
    try:
        if found is not None:
            check_confidential(found)
    except InvalidRequest as error:
        return error.reason if not error.available else f"{error.reason} It has {error.available}."
    return "" if found is not None else "there is no RayCluster"


def _of_view(api: KubernetesApi, namespace: str, raycluster: str, what: str) -> Iterator[Finding]:
    """What the coordinator itself says with each renewal of its lease."""
    lease = api.find("Lease", f"ray-dra-{raycluster}", namespace)
    renewed = _time(((lease or {}).get("spec") or {}).get("renewTime"))
    if lease is None or renewed is None or datetime.now(timezone.utc) - renewed > LAPSED:
        yield Finding(None, what, "no coordinator runs; one is started by the first program that connects")
        return
    said = str((lease["metadata"].get("annotations") or {}).get(PROBLEMS_ANNOTATION, "")).splitlines()
    for problem in said:
        yield Finding(False, what, problem)
    if not said:
        yield Finding(True, what, "all watches are up, every object can be read")


def _time(text: object) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def _read(things: Iterable[Object], reader: Callable[[Object], Any]) -> tuple[list[Any], list[tuple[str, str]]]:
    """The values of all objects that can be read, and the names and reasons of those that cannot."""
    found, odd = [], []
    for thing in things:
        try:
            found.append(reader(thing))
        except UNREADABLE as error:
            odd.append((str((thing.get("metadata") or {}).get("name")), why_unreadable(error)))
    return found, odd
