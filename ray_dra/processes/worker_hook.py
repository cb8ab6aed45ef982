"""The hook that Ray calls in every worker process: its tasks and actors get exactly the planned GPUs, and the ordinary
placement groups that they make are planned (`ordinary_groups.py`), and Ray Train's elastic runs have as many workers as
fit (`elastic_runs.py`), and each of its runs hears of its gang's notice (`train_notice.py`).

`install_worker` replaces the one method that feeds both CUDA_VISIBLE_DEVICES and `ray.get_gpu_ids()`, and
listens for the end of tasks. Both are private to Ray; `adapters.ray.check_ray` guards them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from ray_dra.adapters.ray import HOOK_METHOD, HOOK_ORIGINAL, KvStore, bundle_of, group_of, part_of
from ray_dra.adapters.ray_groups import PARAMETERS, catch, moved_functions
from ray_dra.adapters.ray_train import TrainSizes, catch_count
from ray_dra.adapters.ray_train_notice import catch_watcher
from ray_dra.errors import RayDraError
from ray_dra.translate.files.shared_records import map_from_bytes
from ray_dra.translate.names import DEVICE_ORDER_VARIABLE, MAP_KEY, MIG_PREFIX, PART_PROFILES_VARIABLE
from ray_dra.translate.nvml.offered import numbers_of_parts

ASK_SECONDS = 60.0
NO_PART = "ray-dra-no-part-is-named"


class PartNotNamedError(RayDraError):
    """A task with a GPU, on a raylet with parts of several profiles, that says none. CUDA shows it nothing."""


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """A GPU that this task or actor may use. `index` is its place in the raylet's numbering."""

    index: int
    uuid: str | None
    node: str
    clique: str | None


def install_worker() -> None:
    """Ray's `worker_process_setup_hook`: from now on this worker's GPUs are the planned ones."""
    cls = ray._private.worker.Worker
    if getattr(cls, HOOK_ORIGINAL, None) is not None:
        return
    setattr(cls, HOOK_ORIGINAL, getattr(cls, HOOK_METHOD))
    setattr(cls, HOOK_METHOD, _accelerator_ids)
    utils = ray._private.utils
    utils.reset_visible_accelerator_env_vars = _at_the_end_of_a_task(utils.reset_visible_accelerator_env_vars)
    catch({name: _lazily(name) for name in PARAMETERS})
    catch_count(_elastic_workers)
    catch_watcher(_beside_a_watcher)
    # NVML numbers GPUs by PCI address; CUDA does so only when told.
    os.environ.setdefault(DEVICE_ORDER_VARIABLE, "PCI_BUS_ID")


def _elastic_workers(sizes: TrainSizes, own: Callable[[], int]) -> int:
    """Only Ray Train's controllers count workers."""
    from ray_dra.processes.elastic_runs import workers

    return workers(sizes, own)


def _beside_a_watcher(group_of: Callable[[], str], tell: Callable[[Mapping[str, float]], None]) -> None:
    """Only a run of Ray Train's has a watcher."""
    from ray_dra.processes.train_notice import watch

    watch(group_of, tell)


def install_driver(runtime_env: Any) -> Any:
    """Ray's `RAY_RUNTIME_ENV_HOOK`, which it calls in a program that connects: the placement groups that the program
    makes itself are planned, where it or the cluster has a policy. Its `runtime_env` stays as it is."""
    if not moved_functions():  # else workers are left alone, too (`start_hook.py`)
        catch({name: _lazily(name) for name in PARAMETERS})
    return runtime_env


def _lazily(name: str) -> Callable[..., Any]:
    """Most workers make no placement group, and need not load what it takes."""

    def call(*arguments: Any) -> Any:
        from ray_dra.processes import ordinary_groups

        return getattr(ordinary_groups, name)(*arguments)

    return call


def _at_the_end_of_a_task(original: Callable[..., None]) -> Callable[..., None]:
    """Runs after a task, when Ray resets the environment; tells the coordinator which GPU ids became free."""

    def reset(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        if ray.get_runtime_context().get_actor_id() is None:
            for coordinator, node, gpu_ids in _to_end:
                coordinator.ended.remote(node, gpu_ids, os.getpid())
            _to_end.clear()

    return reset


def _accelerator_ids(worker: Any, resource_name: str, resource_regex: str) -> list[Any]:
    if resource_name == "GPU":
        try:
            devices = seen_devices(worker)
        except PartNotNamedError as error:  # raised here, it would end the worker, and Ray would not say why
            print(f"ray-dra: {error}", file=sys.stderr, flush=True)
            return [NO_PART]
        if devices is not None:
            visible = worker.original_visible_accelerator_ids.get("GPU")
            return [visible[d.index] if visible and d.index < len(visible) else d.index for d in devices]
    return list(getattr(worker, HOOK_ORIGINAL)(resource_name, resource_regex))


_maps: dict[str, list[list[SeenDevice]] | None] = {}


_answers: dict[tuple[Any, ...], list[SeenDevice]] = {}


_to_end: list[tuple[Any, str, tuple[int, ...]]] = []  # what to say when the running task ends


def seen_devices(worker: Any) -> list[SeenDevice] | None:
    """The devices behind this worker's GPU ids, in order; None if it has none, or if no coordinator runs."""
    group, bundles = "", set()
    gpu_ids: set[int] = set()
    for name, assigned in worker.core_worker.resource_ids().items():
        owner = group_of(name)
        if owner is None:
            continue
        gpu_ids.update(gpu_id for gpu_id, _ in assigned)
        group = group or owner
        place = bundle_of(name)
        if place is not None:
            bundles.add(place[1])
    profiles = os.environ.get(PART_PROFILES_VARIABLE)
    if profiles and gpu_ids:
        return [_named(worker, SeenDevice(at, None, "", None)) for at in _parts(worker, profiles.split(","), gpu_ids)]
    if not gpu_ids:
        return _of_named_part(worker)
    if group and len(bundles) == 1:
        planned = _map(group)
        if planned is not None:
            devices = planned[next(iter(bundles))]
            if len(gpu_ids) == len(devices):
                return [_named(worker, device) for device in devices]
    return _ask(worker, group, min(bundles, default=-1), tuple(sorted(gpu_ids)))


def _of_named_part(worker: Any) -> list[SeenDevice] | None:
    """A gang's part, of a task that asks for it by the resource of its profile alone; None where it asks for none."""
    named = {(part[1], part[2]) for name in worker.core_worker.resource_ids() if (part := part_of(name)) is not None}
    found = [(group, bundle) for group, bundle in named if bundle is not None]
    planned = _map(found[0][0]) if len(found) == 1 else None
    return None if planned is None else [_named(worker, device) for device in planned[found[0][1]]]


def _parts(worker: Any, profiles: list[str], gpu_ids: Collection[int]) -> list[int]:
    """The places of this worker's parts in the list of a raylet that was made for no gang: Ray's own. Where the raylet
    has several profiles, a GPU id says nothing, and the worker's resources of parts do.

    Raises:
        PartNotNamedError: it has several, and the task or actor names none.
    """
    if len(set(profiles)) == 1:
        return sorted(gpu_ids)
    named: dict[tuple[str, int], None] = {}
    for name, assigned in worker.core_worker.resource_ids().items():
        part = part_of(name)
        if part is not None:
            named |= dict.fromkeys((part[0], number) for number, _ in assigned)
    if len(named) != len(gpu_ids):
        kinds = ", ".join(f'"{MIG_PREFIX}{profile}"' for profile in dict.fromkeys(profiles))
        raise PartNotNamedError(
            "This worker has parts of several profiles, so a task or actor names the one that it wants.",
            place="resources",
            wanted=f"{len(gpu_ids)} GPUs and {len(named)} of {kinds}",
            available='num_gpus=1 and resources={"MIG-<profile>": 1} together',
        )
    return numbers_of_parts(profiles, list(named))


def _named(worker: Any, device: SeenDevice) -> SeenDevice:
    """A part that was made for the gang has its UUID once it is there: the raylet's list has it."""
    visible = worker.original_visible_accelerator_ids.get("GPU") if device.uuid is None else None
    uuid = visible[device.index] if visible and device.index < len(visible) else ""
    return replace(device, uuid=uuid) if str(uuid).startswith(MIG_PREFIX) else device


def _map(group: str) -> list[list[SeenDevice]] | None:
    """A gang's devices by bundle; None for a placement group that is no gang."""
    if not group:
        return None
    if _maps.get(group) is None:
        data = KvStore().get(MAP_KEY + group)
        _maps[group] = None if data is None else [[SeenDevice(*d) for d in b] for b in map_from_bytes(data)]
    return _maps[group]


def _ask(worker: Any, group: str, bundle: int, gpu_ids: tuple[int, ...]) -> list[SeenDevice] | None:
    """Ask the coordinator, once a task or once an actor's life."""
    from ray_dra.processes.calls import ask
    from ray_dra.processes.node_agent import NAME, NAMESPACE

    context = ray.get_runtime_context()
    who = context.get_actor_id() or context.get_task_id()
    key = (who, group, bundle, gpu_ids)
    if key not in _answers:
        try:
            coordinator = ray.get_actor(NAME, namespace=NAMESPACE)
        except ValueError:
            return None  # nobody plans on this cluster: Ray's own numbering
        if len(_answers) > 64:
            _answers.clear()
        node = context.get_node_id()
        call = coordinator.devices_for.remote(node, group, bundle, gpu_ids, os.getpid())
        _answers[key] = [_named(worker, SeenDevice(*d)) for d in ask(call, timeout=ASK_SECONDS)]
        if _map(group) is None:
            _to_end.append((coordinator, node, gpu_ids))
    return _answers[key]
