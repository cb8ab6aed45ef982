"""The hook that Ray calls before a raylet starts: labels, its workers' hook, a gang worker's proof of its devices."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ray_dra.core.model.node import Node
from ray_dra.errors import IncompatibleRay, KubernetesError
from ray_dra.translate.names import (
    CLUSTER_NAME_VARIABLE,
    CLUSTER_NAMESPACE_VARIABLE,
    DRIVER_HOOK_VARIABLE,
    LOCALITY_LABEL,
    MIG_PREFIX,
    NODE_VARIABLE,
    PART_PROFILES_VARIABLE,
    QUEUES_VARIABLE,
    RAY_ADDRESS_VARIABLE,
    RAYCLUSTER_LOCALITY_VARIABLE,
    SLOT_VARIABLE,
    START_HOOK_VARIABLE,
    VISIBLE_VARIABLE,
    WORKER_HOOK_VARIABLE,
)

WORKER_HOOK = "ray_dra.hooks.install_worker"
DRIVER_HOOK = "ray_dra.hooks.install_driver"
if TYPE_CHECKING:
    from ray_dra.translate.nvml.offered import OfferedPart

ANSWER_SECONDS = 5.0  # for the Kubernetes API


def start(ray_params: Any, head: bool) -> None:
    """Ray's RAY_START_HOOK (`RAY_START_HOOK=ray_dra.hooks.start ray start ...`): labels from this node's NVML, the
    resources by which NeMo-RL places, and parts of GPUs, each a GPU of Ray's and one of the resource `MIG-<profile>`.

    A node without GPUs, or whose NVML does not answer, starts without the labels. A worker that was made for a gang
    (RAY_DRA_SLOT) first proves that it has what was planned, and waits for the gang's others; it exits otherwise.

    The raylet's workers have our hook, whosever job they run: Serve's controller, which the dashboard starts, too. So
    have programs that are started beside it: by `ray job submit`, or as a RayJob.

    Raises:
        InvalidRequest: an environment variable that is to have a policy, or a setting of the queue, has none.
    """
    import socket

    from ray_dra.translate.ray.labels import node_resources
    from ray_dra.translate.ray.ordinary import check_policies
    from ray_dra.translate.schedule import schedule_of
    from ray_dra.translate.settings import discipline_of

    check_policies(os.environ)
    discipline_of(os.environ)
    schedule_of(os.environ)
    if head and os.environ.get(QUEUES_VARIABLE):
        from ray_dra.translate.files.team_queues import check_queues

        check_queues(os.environ)
    _hook_programs()
    if head and os.environ.get(CLUSTER_NAME_VARIABLE):
        # Programs may be there before the coordinator is: they wait for it where they see this.
        os.environ[RAYCLUSTER_LOCALITY_VARIABLE] = _policy_of_raycluster()
        # KubeRay's head: the coordinator sweeps what an earlier head left. A process of its own, for after we return.
        subprocess.Popen([sys.executable, "-m", "ray_dra.wake"], start_new_session=True, env=_without_hook())
    labels = dict(getattr(ray_params, "labels", None) or {})
    name = os.environ.get(NODE_VARIABLE) or socket.gethostname()
    node = node_here(name)
    label = os.environ.get(SLOT_VARIABLE)
    if label and not head:
        from ray_dra.processes.join_gang import join_gang

        other = None if node is not None else other_node_here(name)
        joined = join_gang(label, name, node or other)
        labels |= joined.labels
        os.environ.update(joined.environment)
        parts, shares = joined.parts, joined.shares
        ray_params.num_gpus = len(parts) or len(shares) or ray_params.num_gpus
        if shares:
            # A GPU that is shared is there once for each share, so that Ray packs no fractions and no two bundles have
            # one number.
            os.environ[VISIBLE_VARIABLE] = ",".join(shares)
        _see(parts, visible_on(other))
    else:
        parts = _parts_here(node)
        _see(parts, VISIBLE_VARIABLE)
    own = labels_of(node)
    ray_params.labels = {**own, **labels}
    said = getattr(ray_params, "resources", None) or {}
    ray_params.resources = {**node_resources(own), **_offer(ray_params, parts), **said}
    if parts and not label:
        _tell_workers(parts)


def _parts_here(node: Node | None) -> tuple[OfferedPart, ...]:
    """The parts of GPUs that a raylet which was made for no gang offers."""
    from ray_dra.translate.nvml.offered import offered_parts

    parts = offered_parts(node, os.environ.get(VISIBLE_VARIABLE))
    if parts is None:
        print("ray-dra offers no parts of GPUs beside whole ones: start a raylet for each of the two.", file=sys.stderr)
    return parts or ()


def _see(parts: tuple[OfferedPart, ...], variable: str) -> None:
    """The raylet's workers see these, in this order."""
    if parts:
        os.environ[variable] = ",".join(part.uuid for part in parts)


def visible_on(node: Node | None) -> str:
    """The variable that says which parts of a node's GPUs a process sees; that of NVIDIA's where NVML showed them."""
    from ray_dra.translate.vendors import VENDORS

    drivers = {part.id.driver for gpu in (node.parted if node is not None else ()) for part in gpu.parts}
    return next((VENDORS[driver].visible for driver in drivers), VISIBLE_VARIABLE)


def _offer(ray_params: Any, parts: tuple[OfferedPart, ...]) -> dict[str, float]:
    """Ray counts GPUs, and one in parts as one. It takes this for what there is, and numbers it in this order. How many
    it offers, the user may have said."""
    from ray_dra.translate.vendors import part_resources

    if not parts:
        return {}
    count = getattr(ray_params, "num_gpus", None)
    if count is None:
        count = ray_params.num_gpus = len(parts)
    return part_resources(part.profile for part in parts[:count])


def _tell_workers(parts: tuple[OfferedPart, ...]) -> None:
    """The workers' hook needs no coordinator to know these. Where they differ, a task names its profile, and Ray says
    which of those of the profile it has."""
    profiles = [part.profile for part in parts]
    os.environ[PART_PROFILES_VARIABLE] = ",".join(profiles)
    if len(set(profiles)) > 1:
        from ray_dra.adapters.ray import UNIT_INSTANCES, UNIT_INSTANCES_VARIABLE

        before = os.environ.get(UNIT_INSTANCES_VARIABLE, UNIT_INSTANCES)
        numbered = [MIG_PREFIX + profile for profile in dict.fromkeys(profiles)]
        os.environ[UNIT_INSTANCES_VARIABLE] = ",".join(filter(None, [before, *numbered]))


def _hook_programs() -> None:
    """Ray's processes inherit this environment. Not where this Ray has moved what the hooks need: its programs run as
    without ray-dra."""
    from ray_dra.adapters.ray import check_ray

    try:
        check_ray()
    except IncompatibleRay as error:
        print(f"ray-dra leaves the programs of this node alone. {error}", file=sys.stderr)
        return
    os.environ.setdefault(WORKER_HOOK_VARIABLE, WORKER_HOOK)
    os.environ.setdefault(DRIVER_HOOK_VARIABLE, DRIVER_HOOK)


def _policy_of_raycluster() -> str:
    """As its annotation says it now; "" where it has none, or cannot be read."""
    from ray_dra.adapters.kubernetes import KubernetesApi

    name, namespace = os.environ[CLUSTER_NAME_VARIABLE], os.environ.get(CLUSTER_NAMESPACE_VARIABLE)
    try:
        api = KubernetesApi()
        api.await_answer(ANSWER_SECONDS)
        meta = api.get("RayCluster", name, namespace).get("metadata") or {}
        return str((meta.get("annotations") or {}).get(LOCALITY_LABEL, ""))
    except KubernetesError as error:
        print(f"ray-dra does not know yet whether the RayCluster has a policy. {error}", file=sys.stderr)
        return ""


def _without_hook() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name not in (START_HOOK_VARIABLE, RAY_ADDRESS_VARIABLE)
    }


def other_node_here(name: str) -> Node | None:
    """This node by the GPUs of other vendors; None without. Each is known by its bus id, and nothing else of it is; of
    a partition its profile, too, and the number that its vendor's library gives it is its UUID."""
    from ray_dra.adapters.drm import rendered
    from ray_dra.core.model.device import Device, DeviceId
    from ray_dra.core.model.parts import Part, PartedGpu
    from ray_dra.translate.vendors import VENDORS

    devices: list[Device] = []
    parts: dict[str, list[Part]] = {}
    for vendor in VENDORS.values():
        for at, (bus, profile) in enumerate(rendered(vendor.pci) if vendor.pci else ()):
            key = vendor.key(name, bus) or ""
            if profile:
                parts.setdefault(key, []).append(Part(DeviceId(vendor.driver, name, f"{bus}-{at}"), profile, str(at)))
            else:
                devices.append(Device(DeviceId(vendor.driver, name, bus), len(devices), key))
    parted = tuple(PartedGpu(gpu, tuple(each)) for gpu, each in parts.items())
    return Node(name, tuple(devices), parted=parted) if devices or parted else None


def labels_here(name: str, *, environment: dict[str, str] | None = None, timeout: float = 30.0) -> dict[str, str]:
    """The labels of this node by NVML; empty without GPUs."""
    return labels_of(node_here(name, environment=environment, timeout=timeout))


def labels_of(node: Node | None) -> dict[str, str]:
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    from ray_dra.translate.ray.labels import node_labels

    if node is None:
        return {}
    accelerator = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(node.devices[0].product)
    return node_labels(node, accelerator_type=accelerator)


def node_here(name: str, *, environment: dict[str, str] | None = None, timeout: float = 30.0) -> Node | None:
    """This node by NVML, read in a child process that may be killed; None without GPUs. Its links are left out."""
    command = [sys.executable, "-m", "ray_dra.adapters.nvml", "once"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        # Imported while the child reads.
        from ray_dra.translate.files.readings import reading_from_bytes
        from ray_dra.translate.nvml.reading import node_from_reading

        try:
            printed, _ = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            return None
    if child.returncode:
        return None
    reading = reading_from_bytes(printed)
    if reading.error is not None or not reading.gpus:
        return None
    return node_from_reading(name, reading, with_links=False)
