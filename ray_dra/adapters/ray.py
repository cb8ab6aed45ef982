"""The one place that calls Ray's private API, and the ports `Ray` and `Store`.

Everything private that ray-dra depends on is listed in `PRIVATE` and checked by `check_ray()` before
anything starts, so that a Ray that moved a part is told apart from a cluster that misbehaves.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.experimental import internal_kv
from ray.util.placement_group import PlacementGroup

from ray_dra.adapters.ray_groups import PRIVATE_OF_GROUPS, Groups, moved_functions, remove
from ray_dra.adapters.ray_train import PRIVATE_OF_TRAIN
from ray_dra.adapters.ray_train_notice import PRIVATE_OF_WATCHER
from ray_dra.errors import IncompatibleRay, RayDraError
from ray_dra.ports.ray import GroupAnswer, NewGroup, RayGroup, RayNode, RayView, Worker
from ray_dra.translate.names import DRIVER_HOOK_VARIABLE, HEAD_RESOURCE, MIG_PREFIX, START_HOOK_VARIABLE

KV_NAMESPACE = b"ray_dra"
UNDECODED = "surrogateescape"  # somebody else's key that is no UTF-8 must not end the coordinator
STATS_SECONDS = 2.0  # for a raylet to say what its workers do; the coordinator does nothing else meanwhile
REACH_SECONDS = 0.5  # for a connection to a raylet
HOOK_METHOD = "get_accelerator_ids_for_accelerator_resource"
HOOK_ORIGINAL = "_ray_dra_original"  # Ray's own, where our hook has taken its place
UNIT_INSTANCES_VARIABLE = "RAY_custom_unit_instance_resources"  # of a raylet: resources of which it numbers each one
UNIT_INSTANCES = "neuron_cores,TPU,NPU,HPU,RBLN,FURIOSA,TTNPU,MBLT"  # Ray's own, which the variable replaces


class KvStore:
    """Ray's internal KV as a Store. It lives as long as Ray's control store does."""

    def put(self, key: str, value: bytes) -> None:
        internal_kv._internal_kv_put(key.encode(errors=UNDECODED), value, overwrite=True, namespace=KV_NAMESPACE)

    def get(self, key: str) -> bytes | None:
        value = internal_kv._internal_kv_get(key.encode(errors=UNDECODED), namespace=KV_NAMESPACE)
        return None if value is None else bytes(value)

    def delete(self, key: str) -> None:
        internal_kv._internal_kv_del(key.encode(errors=UNDECODED), namespace=KV_NAMESPACE)

    def keys(self, prefix: str) -> list[str]:
        found = internal_kv._internal_kv_list(prefix.encode(), namespace=KV_NAMESPACE)
        return sorted(key.decode(errors=UNDECODED) for key in found)


class GcsStore:
    """The same keys without a connection to Ray: for a node that has not joined yet. `address`: the control store's."""

    def __init__(self, address: str) -> None:
        self._client = ray._raylet.GcsClient(address=address)

    def put(self, key: str, value: bytes) -> None:
        self._client.internal_kv_put(key.encode(), value, True, KV_NAMESPACE)

    def get(self, key: str) -> bytes | None:
        value = self._client.internal_kv_get(key.encode(), KV_NAMESPACE)
        return None if value is None else bytes(value)


class RayAdapter:
    """Ray as the coordinator sees it."""

    def __init__(self) -> None:
        self._groups: dict[bytes, RayGroup] = {}  # by the record
        self._removed: set[bytes] = set()  # ids of removed groups: Ray keeps their records, however many
        self._where: dict[str, tuple[str, int]] = {}  # living raylet -> address and port
        self._channels: dict[tuple[str, int], Any] = {}  # to those
        self._made = Groups()

    def view(self) -> RayView:
        try:
            available = ray._private.state.available_resources_per_node()
            found = self._look_up()
            draining = ray._private.state.state.get_draining_nodes()
            nodes = tuple(
                RayNode(
                    id=node["NodeID"],
                    alive=node["Alive"],
                    labels=node["Labels"],
                    total=node["Resources"],
                    available=available.get(node["NodeID"], node["Resources"]),
                    hostname=node["NodeManagerHostname"],
                    head=HEAD_RESOURCE in node["Resources"],
                    drains=node["NodeID"] in draining,
                )
                for node in found
            )
            jobs = _gcs().get_all_job_info(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
            running = frozenset(job.hex() for job, info in jobs.items() if not info.is_dead)
            self._look_at_groups(ray._private.state.state._connect_and_get_accessor().get_placement_group_table())
            return RayView(nodes, {group.id: group for group in self._groups.values()}, running)
        except (ray.exceptions.RayError, RuntimeError, OSError) as error:
            raise RayDraError("Ray's control store did not answer.", available=str(error)) from error

    def workers(self, node_id: str) -> tuple[Worker, ...]:
        if node_id not in self._where:
            self._look_up()
        where = self._where.get(node_id)
        if where is None:
            return ()
        try:
            stats = self._raylet(*where)
        except Exception as error:  # grpc's own errors
            raise RayDraError("A raylet did not say what its workers do.", place=node_id) from error
        found = []
        for worker in stats.core_workers_stats:
            gpu_ids: dict[str, set[int]] = {}
            for name, allocations in worker.used_resources.items():
                group = group_of(name)
                if group is not None:
                    gpu_ids.setdefault(group, set()).update(int(s.slot) for s in allocations.resource_slots)
            in_order = {group: tuple(sorted(used)) for group, used in gpu_ids.items()}
            found.append(Worker(worker.pid, in_order, worker.job_id.hex()))
        return tuple(found)

    def _look_at_groups(self, table: list[bytes]) -> None:
        """Each record is parsed once, and of removed groups only the id stays: it is the record's first field."""
        living, removed = {}, set()
        for data in table:
            key = data[: 2 + _ID_BYTES]
            if key in self._removed:
                removed.add(key)
            elif (group := self._groups.get(data) or _group(data)).state != "REMOVED":
                living[data] = group
            elif key.startswith(_ID_FIELD):
                removed.add(key)
        self._groups, self._removed = living, removed

    def _look_up(self) -> list[dict[str, Any]]:
        """Ray's nodes."""
        found: list[dict[str, Any]] = ray.nodes()
        self._where = {n["NodeID"]: (n["NodeManagerAddress"], n["NodeManagerPort"]) for n in found if n["Alive"]}
        for gone in self._channels.keys() - set(self._where.values()):
            self._channels.pop(gone).close()
        return found

    def _raylet(self, address: str, port: int) -> Any:
        """What a raylet says of its workers; the channel to it is kept, as a new one takes longer than the answer."""
        from ray._common.network_utils import build_address
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

        if (address, port) not in self._channels:
            options = [("grpc.max_receive_message_length", ray._config.max_grpc_message_size())]
            self._channels[address, port] = init_grpc_channel(build_address(address, port), options=options)
        raylet = node_manager_pb2_grpc.NodeManagerServiceStub(self._channels[address, port])
        request = node_manager_pb2.GetNodeStatsRequest(include_memory_info=False)
        return raylet.GetNodeStats(request, timeout=STATS_SECONDS)

    def answers(self, node_id: str) -> bool:
        """By a connection to its port, which the kernel takes however busy the raylet is."""
        if node_id not in self._where:
            self._look_up()
        try:
            with socket.create_connection(self._where[node_id], timeout=REACH_SECONDS):
                return True
        except (KeyError, OSError):
            return False

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        return self._made.make(new, again=again)

    def drain(self, node_id: str, why: str, deadline: float) -> None:
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION  # the one that no raylet refuses
        try:
            _gcs().drain_node(node_id, reason, why, int(deadline * 1000))
        except (ray.exceptions.RayError, RuntimeError, OSError) as error:
            raise RayDraError("Ray did not take a drain.", place=node_id, available=str(error)) from error

    def actor_ended(self, actor: str) -> bool:
        return self._made.actor_ended(actor)

    def has_actors(self, job: str) -> bool:
        return self._made.has_actors(job)

    def remove_group(self, group: str) -> None:
        remove(PlacementGroup(ray._raylet.PlacementGroupID(bytes.fromhex(group))))


def cluster_id() -> str:
    """Of the control store's life: another after the head was lost without fault tolerance."""
    return str(_gcs().cluster_id.hex())


def log_folder() -> Path | None:
    """Where Ray keeps this node's logs; None outside a Ray process."""
    node = ray._private.worker._global_node
    return Path(node.get_logs_dir_path()) if node is not None else None


def _gcs() -> Any:
    return ray._private.worker.global_worker.gcs_client


_ID_BYTES = 18
_ID_FIELD = bytes((1 << 3 | 2, _ID_BYTES))  # protobuf: field 1, a string of bytes, so many


def _group(data: bytes) -> RayGroup:
    """A placement group of Ray's table."""
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    table = PlacementGroupTableData.FromString(data)
    bundles = sorted(table.bundles, key=lambda bundle: bundle.bundle_id.bundle_index)
    return RayGroup(
        id=table.placement_group_id.hex(),
        state=PlacementGroupTableData.PlacementGroupState.Name(table.state),
        nodes=tuple(bundle.node_id.hex() or None for bundle in bundles),
        bundles=tuple(dict(bundle.unit_resources) for bundle in bundles),
        name=table.name,
        job=table.creator_job_id.hex(),
    )


def group_of(resource: str) -> str | None:
    """The placement group whose GPUs a resource id names: "" for plain GPUs, None for no GPUs or a bundle's own.

    Ray names a bundle's GPUs twice, `GPU_group_<bundle>_<group>` and `GPU_group_<group>`; both carry the
    same GPU ids.
    """
    if resource == "GPU":
        return ""
    head, _, rest = resource.partition("_group_")
    return rest.rpartition("_")[2] if head == "GPU" and rest else None


def bundle_of(resource: str) -> tuple[str, int] | None:
    """(group, bundle) of `GPU_group_<bundle>_<group>`; None for anything else."""
    head, _, rest = resource.partition("GPU_group_")
    bundle, _, group = rest.partition("_")
    return (group, int(bundle)) if not head and group and bundle.isdigit() else None


def part_of(resource: str) -> tuple[str, str, int | None] | None:
    """(profile, group, bundle) that a resource of parts of GPUs names, e.g. `MIG-1g.10gb_group_<bundle>_<group>`: no
    group outside placement groups, no bundle in the name that a group has besides. None: it is no such resource."""
    if not resource.startswith(MIG_PREFIX):
        return None
    profile, _, rest = resource.removeprefix(MIG_PREFIX).partition("_group_")
    bundle, _, group = rest.rpartition("_")
    return profile, group, int(bundle) if bundle.isdigit() else None


PRIVATE: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("ray._private.worker.Worker." + HOOK_METHOD, lambda: getattr(ray._private.worker.Worker, HOOK_METHOD)),
    (
        "ray._private.utils.reset_visible_accelerator_env_vars",
        lambda: _import("ray._private.utils").reset_visible_accelerator_env_vars,
    ),
    ("ray._raylet.CoreWorker.resource_ids", lambda: ray._raylet.CoreWorker.resource_ids),
    ("ray._private.worker._global_node", lambda: _import("ray._private.worker").__dict__["_global_node"]),
    ("ray._private.node.Node.kill_all_processes", lambda: ray._private.node.Node.kill_all_processes),
    ("ray._private.ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR", lambda: _constants()),
    (
        f"ray._private.ray_constants.{START_HOOK_VARIABLE}",
        lambda: getattr(_import("ray._private.ray_constants"), START_HOOK_VARIABLE),
    ),
    (
        f"ray._private.ray_constants.{DRIVER_HOOK_VARIABLE}",
        lambda: getattr(_import("ray._private.ray_constants"), DRIVER_HOOK_VARIABLE),
    ),
    (
        "ray._private.runtime_env.setup_hook.load_and_execute_setup_hook",
        lambda: _import("ray._private.runtime_env.setup_hook").load_and_execute_setup_hook,
    ),
    ("ray._private.state.available_resources_per_node", lambda: ray._private.state.available_resources_per_node),
    ("ray._private.grpc_utils (needs grpcio)", lambda: _import("ray._private.grpc_utils").init_grpc_channel),
    ("ray._common.network_utils.build_address", lambda: _import("ray._common.network_utils").build_address),
    (
        "ray.core.generated.node_manager_pb2_grpc.NodeManagerServiceStub",
        lambda: _import("ray.core.generated.node_manager_pb2_grpc").NodeManagerServiceStub,
    ),
    (
        "ray._private.state.GlobalState._connect_and_get_accessor",
        lambda: ray._private.state.GlobalState._connect_and_get_accessor,
    ),
    (
        "ray.core.generated.gcs_pb2.PlacementGroupTableData",
        lambda: [
            _import("ray.core.generated.gcs_pb2").PlacementGroupTableData.DESCRIPTOR.fields_by_name[name]
            for name in ("placement_group_id", "state", "bundles", "name", "creator_job_id")
        ],
    ),
    ("ray._raylet.GcsClient.internal_kv_get", lambda: ray._raylet.GcsClient),
    ("ray._raylet.Config.initialize", lambda: ray._raylet.Config.initialize),
    ("ray._raylet.AuthenticationTokenLoader.reset_cache", lambda: ray._raylet.AuthenticationTokenLoader.reset_cache),
    ("ray._private.authentication", lambda: _import("ray._private.authentication.authentication_token_setup")),
    ("ray.experimental.internal_kv._internal_kv_put", lambda: internal_kv._internal_kv_put),
    ("ray.experimental.internal_kv._internal_kv_list", lambda: internal_kv._internal_kv_list),
    ("ray._raylet.InnerGcsClient.drain_node", lambda: ray._raylet.InnerGcsClient.drain_node),
    (
        "ray.core.generated.autoscaler_pb2.DrainNodeReason",
        lambda: _import("ray.core.generated.autoscaler_pb2").DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
    ),
    ("ray._private.state.GlobalState.get_draining_nodes", lambda: ray._private.state.GlobalState.get_draining_nodes),
    ("ray._raylet.InnerGcsClient.cluster_id", lambda: ray._raylet.InnerGcsClient.cluster_id),
    ("ray._raylet.InnerGcsClient.get_all_job_info", lambda: ray._raylet.InnerGcsClient.get_all_job_info),
    *PRIVATE_OF_GROUPS,
    *PRIVATE_OF_TRAIN,
    *PRIVATE_OF_WATCHER,
)


def _import(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def _constants() -> Any:
    return _import("ray._private.ray_constants").WORKER_PROCESS_SETUP_HOOK_ENV_VAR


def check_ray() -> None:
    """The start-up self-test.

    Raises:
        IncompatibleRay: names every part of this Ray that is not where it was.
    """
    moved = []
    for name, find in PRIVATE:
        try:
            find()
        except (AttributeError, ImportError, KeyError, OSError):
            moved.append(name)
    worker = ray._private.worker.Worker
    hook = getattr(worker, HOOK_ORIGINAL, None) or getattr(worker, HOOK_METHOD, None)  # a worker has our hook already
    if hook is not None and list(inspect.signature(hook).parameters) != ["self", "resource_name", "resource_regex"]:
        moved.append(f"the parameters of Worker.{HOOK_METHOD}")
    moved += moved_functions()
    if moved:
        raise IncompatibleRay(
            "This Ray moved private parts that pinning GPUs needs; install a Ray that ray-dra was made for.",
            place=f"ray {ray.__version__}",
            wanted="ray 2.59 or 2.60",
            available="moved: " + ", ".join(moved),
        )
