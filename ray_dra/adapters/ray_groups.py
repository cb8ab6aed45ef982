"""Ray's private parts that ordinary placement groups need, all of them: minted ids, Ray's own calls caught, and a group
registered with the control store under an id that a program has already.

Ray's public functions are caught by their code, not by their name: whoever imported one, at whatever time, gets there.
`PRIVATE_OF_GROUPS` lists every part; `adapters.ray.check_ray` tests them before anything starts.
"""

from __future__ import annotations

import inspect
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import PlacementGroup

from ray_dra.errors import RayDraError
from ray_dra.ports.ray import GroupAnswer, NewGroup

ASK_SECONDS = 10.0  # for the control store's answer
PREPARE_SECONDS = 1.0  # until Ray has reserved a group's bundles, or has seen that it cannot; most often milliseconds
PARAMETERS = {
    "placement_group": (
        "bundles",
        "strategy",
        "name",
        "lifetime",
        "_soft_target_node_id",
        "bundle_label_selector",
        "topology_strategy",
    ),
    "remove_placement_group": ("placement_group",),
    "get_placement_group": ("placement_group_name",),
    "placement_group_table": ("placement_group",),
}
"""Ray's functions that are caught, and their parameters."""


def _module() -> Any:
    """Not `ray.util.placement_group`, by which name the package has the function."""
    import ray.util.placement_group  # noqa: F401

    return sys.modules["ray.util.placement_group"]


# -- caught


def _caught_placement_group(  # type: ignore[no-untyped-def]  # its code becomes that of Ray's own
    bundles,
    strategy=None,
    name="",
    lifetime=None,
    _soft_target_node_id=None,
    bundle_label_selector=None,
    topology_strategy=None,
):
    from ray_dra.adapters.ray_groups import handled

    return handled("placement_group")(
        bundles, strategy, name, lifetime, _soft_target_node_id, bundle_label_selector, topology_strategy
    )


def _caught_remove_placement_group(placement_group):  # type: ignore[no-untyped-def]
    from ray_dra.adapters.ray_groups import handled

    return handled("remove_placement_group")(placement_group)


def _caught_get_placement_group(placement_group_name):  # type: ignore[no-untyped-def]
    from ray_dra.adapters.ray_groups import handled

    return handled("get_placement_group")(placement_group_name)


def _caught_placement_group_table(placement_group=None):  # type: ignore[no-untyped-def]
    from ray_dra.adapters.ray_groups import handled

    return handled("placement_group_table")(placement_group)


_CODE: Mapping[str, types.CodeType] = {
    "placement_group": _caught_placement_group.__code__,
    "remove_placement_group": _caught_remove_placement_group.__code__,
    "get_placement_group": _caught_get_placement_group.__code__,
    "placement_group_table": _caught_placement_group_table.__code__,
}
_plain: dict[str, Callable[..., Any]] = {}  # Ray's own, as functions of their own
_handlers: dict[str, Callable[..., Any]] = {}
_lock = threading.Lock()
_aside = threading.local()


def plain(name: str) -> Callable[..., Any]:
    """Ray's own function, caught or not."""
    found: Callable[..., Any] = _plain.get(name) or getattr(_module(), name)
    return found


def handled(name: str) -> Callable[..., Any]:
    """What a caught call is to run."""
    return _plain[name] if getattr(_aside, "uncaught", False) else _handlers[name]


@contextmanager
def uncaught() -> Iterator[None]:
    """This thread's calls are Ray's own: those of ray-dra itself, that have been planned already."""
    before = getattr(_aside, "uncaught", False)
    _aside.uncaught = True
    try:
        yield
    finally:
        _aside.uncaught = before


def catch(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """From now on every call of these functions in this process goes to `handlers`, whoever imported which name when.
    Harmless when repeated."""
    with _lock:
        _handlers.update(handlers)
        for name in handlers:
            if name in _plain:
                continue
            inner = getattr(_module(), name).__wrapped__
            own = types.FunctionType(
                inner.__code__, inner.__globals__, inner.__name__, inner.__defaults__, inner.__closure__
            )
            own.__kwdefaults__ = inner.__kwdefaults__
            _plain[name] = own
            inner.__code__ = _CODE[name]


# -- who makes a group, and its id


class Creator(NamedTuple):
    """Who makes a placement group. `actor`: "" for the program itself and for tasks; see `OrdinaryGroup`."""

    job: str
    namespace: str
    actor: str
    outlives_job: bool


def creator() -> Creator:
    worker = ray._private.worker.global_worker
    worker.check_connected()
    core = worker.core_worker
    actor = core.get_actor_id()
    detached = not actor.is_nil() and core.get_current_root_detached_actor_id() == actor
    return Creator(worker.current_job_id.hex(), worker.namespace, "" if actor.is_nil() else actor.hex(), bool(detached))


def mint(job: str) -> str:
    """The id of a placement group that nobody has yet."""
    return str(ray._raylet.PlacementGroupID.of(ray.JobID(bytes.fromhex(job))).hex())


def handle(group: str, bundles: list[dict[str, float]] | None) -> PlacementGroup:
    """Ray's handle to a placement group, registered or not."""
    made = PlacementGroup(ray._raylet.PlacementGroupID(bytes.fromhex(group)), bundle_cache=bundles)
    return made


def connection() -> Any:
    """Of this process to Ray; another one after `ray.shutdown`."""
    return ray._private.worker.global_worker.core_worker


def validate(
    bundles: Any, strategy: Any, lifetime: Any, soft_node: Any, selectors: Any, topology_strategy: Any
) -> None:
    """Ray's own checks, which raise its own errors."""
    _module().validate_placement_group(
        bundles=bundles,
        strategy=strategy,
        lifetime=lifetime,
        _soft_target_node_id=soft_node,
        bundle_label_selector=selectors,
        topology_strategy=topology_strategy,
    )


def name_taken(group: str, name: str) -> Exception:
    """The error that Ray raises where another placement group of the namespace has the name."""
    found: Exception = ray.exceptions.RaySystemError(
        f"Failed to create placement group '{group}' because name '{name}' already exists."
    )
    return found


def named_group(name: str, namespace: str) -> str | None:
    """The placement group that Ray has by a name."""
    found = ray._private.state.state.get_placement_group_by_name(name, namespace)
    return None if found is None else str(found["placement_group_id"])


def known(group: str) -> bool:
    """Whether Ray has, or had, such a placement group."""
    return _record(group) is not None


def remove(group: PlacementGroup) -> None:
    """Ray's own removal, once Ray is not about to reserve the group's bundles.

    Where it comes in between, Ray 2.60 may lose a bundle's resources for good: one GPU in 900 groups on a busy machine
    (ray-project/ray, issue 64693).
    """
    until = time.monotonic() + PREPARE_SECONDS
    while _reserves(_record(group.id.hex())) and time.monotonic() < until:
        time.sleep(0.005)
    plain("remove_placement_group")(group)


def _reserves(record: Any) -> bool:
    """Whether Ray reserves bundles for a group of this record, or will next."""
    if record is None or record.state in (record.CREATED, record.REMOVED):
        return False
    stats = record.stats
    return record.state == record.PREPARED or stats.scheduling_state in (stats.QUEUED, stats.SCHEDULING_STARTED)


def row(group: str, name: str, bundles: list[dict[str, float]], strategy: str) -> dict[str, Any]:
    """A placement group of which Ray has not been told yet, as a row of its table."""
    table = _pb("gcs_pb2").PlacementGroupTableData()
    _fill(table, group, name, bundles, strategy)
    table.state = table.PENDING
    found: dict[str, Any] = ray._private.state.state._gen_placement_group_info(table)
    return found


# -- registered


class Groups:
    """Ray's control store, as far as placement groups are made there."""

    def __init__(self) -> None:
        self._stub: tuple[str, Any] | None = None

    def make(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        """See the port `Ray`."""
        record = _record(new.id) if again else None
        if record is not None:
            return GroupAnswer(removed=record.state == record.REMOVED)
        spec = _pb("common_pb2").PlacementGroupSpec(
            creator_job_id=bytes.fromhex(new.job),
            creator_job_dead=new.outlives_job,
            creator_actor_id=bytes.fromhex(new.actor) if new.actor else ray.ActorID.nil().binary(),
            creator_actor_dead=not new.actor,
            is_detached=new.detached,
        )
        _fill(spec, new.id, new.name, new.bundles, new.strategy)
        for bundle, labels in zip(spec.bundles, new.selectors, strict=True):
            bundle.label_selector.update(labels)
        request = _pb("gcs_service_pb2").CreatePlacementGroupRequest(placement_group_spec=spec)
        try:
            status = self._service().CreatePlacementGroup(request, timeout=ASK_SECONDS).status
        except Exception as error:  # grpc's own errors
            self._stub = None
            raise RayDraError("Ray's control store did not take a placement group.", place=new.id) from error
        return GroupAnswer(refused=status.message or f"code {status.code}") if status.code else GroupAnswer()

    def actor_ended(self, actor: str) -> bool:
        """See the port `Ray`."""
        try:
            data = ray._private.state.state._connect_and_get_accessor().get_actor_info(
                ray.ActorID(bytes.fromhex(actor))
            )
        except (ray.exceptions.RayError, RuntimeError, OSError) as error:
            raise RayDraError("Ray's control store did not answer.", place=actor) from error
        table = _pb("gcs_pb2").ActorTableData
        return data is None or table.FromString(data).state == table.DEAD

    def has_actors(self, job: str) -> bool:
        """See the port `Ray`."""
        try:
            identity = ray.JobID(bytes.fromhex(job))
            found = ray._private.state.state._connect_and_get_accessor().get_actor_table(identity, None)
        except ValueError:  # a key that somebody else has written
            return False
        except (ray.exceptions.RayError, RuntimeError, OSError) as error:
            raise RayDraError("Ray's control store did not answer.", place=job) from error
        table = _pb("gcs_pb2").ActorTableData
        return any(table.FromString(data).state != table.DEAD for data in found)

    def _service(self) -> Any:
        """The stub; its channel is kept, as a new one takes longer than the answer."""
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import gcs_service_pb2_grpc

        address = ray.get_runtime_context().gcs_address
        if self._stub is None or self._stub[0] != address:
            channel = init_grpc_channel(address)
            self._stub = (address, gcs_service_pb2_grpc.PlacementGroupInfoGcsServiceStub(channel))
        return self._stub[1]


def _fill(message: Any, group: str, name: str, bundles: Any, strategy: str) -> None:
    """What a placement group's spec and its record in Ray's table have in common."""
    message.placement_group_id = bytes.fromhex(group)
    message.name = name
    message.strategy = _pb("common_pb2").PlacementStrategy.Value(strategy)
    for index, resources in enumerate(bundles):
        bundle = message.bundles.add()
        bundle.bundle_id.placement_group_id = message.placement_group_id
        bundle.bundle_id.bundle_index = index
        bundle.unit_resources.update({resource: float(amount) for resource, amount in resources.items() if amount})


def _record(group: str) -> Any:
    """Ray's record of a placement group, of a removed one, too; None where it has none."""
    identity = ray._raylet.PlacementGroupID(bytes.fromhex(group))
    data = ray._private.state.state._connect_and_get_accessor().get_placement_group_info(identity)
    return None if data is None else _pb("gcs_pb2").PlacementGroupTableData.FromString(data)


def _pb(name: str) -> Any:
    import importlib

    return importlib.import_module(f"ray.core.generated.{name}")


# -- the self-test


def _fields(message: str, *names: str) -> Callable[[], Any]:
    """A test that one of Ray's messages has these fields."""
    module, _, kind = message.partition(".")
    return lambda: [getattr(_pb(module), kind).DESCRIPTOR.fields_by_name[name] for name in names]


PRIVATE_OF_GROUPS: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("ray.util.placement_group.validate_placement_group", lambda: _module().validate_placement_group),
    ("ray._raylet.PlacementGroupID.of", lambda: ray._raylet.PlacementGroupID.of),
    ("ray._raylet.CoreWorker.get_actor_id", lambda: ray._raylet.CoreWorker.get_actor_id),
    (
        "ray._raylet.CoreWorker.get_current_root_detached_actor_id",
        lambda: ray._raylet.CoreWorker.get_current_root_detached_actor_id,
    ),
    (
        "ray._private.state.GlobalState.get_placement_group_by_name",
        lambda: ray._private.state.GlobalState.get_placement_group_by_name,
    ),
    (
        "ray._private.state.GlobalState._gen_placement_group_info",
        lambda: ray._private.state.GlobalState._gen_placement_group_info,
    ),
    (
        "ray._raylet.GlobalStateAccessor.get_placement_group_info",
        lambda: ray._raylet.GlobalStateAccessor.get_placement_group_info,
    ),
    ("ray._raylet.GlobalStateAccessor.get_actor_table", lambda: ray._raylet.GlobalStateAccessor.get_actor_table),
    ("ray._raylet.GlobalStateAccessor.get_actor_info", lambda: ray._raylet.GlobalStateAccessor.get_actor_info),
    (
        "ray.core.generated.gcs_service_pb2_grpc.PlacementGroupInfoGcsServiceStub",
        lambda: _pb("gcs_service_pb2_grpc").PlacementGroupInfoGcsServiceStub,
    ),
    (
        "ray.core.generated.common_pb2.PlacementGroupSpec",
        _fields(
            "common_pb2.PlacementGroupSpec",
            "placement_group_id",
            "name",
            "bundles",
            "strategy",
            "creator_job_id",
            "creator_job_dead",
            "creator_actor_id",
            "creator_actor_dead",
            "is_detached",
        ),
    ),
    (
        "ray.core.generated.common_pb2.Bundle",
        _fields("common_pb2.Bundle", "bundle_id", "unit_resources", "label_selector"),
    ),
    (
        "ray.core.generated.gcs_pb2.PlacementGroupTableData.stats",
        _fields("gcs_pb2.PlacementGroupTableData", "state", "stats"),
    ),
    (
        "ray.core.generated.gcs_pb2.PlacementGroupStats.SchedulingState",
        lambda: [getattr(_pb("gcs_pb2").PlacementGroupStats, name) for name in ("QUEUED", "SCHEDULING_STARTED")],
    ),
    ("ray.core.generated.gcs_pb2.ActorTableData", lambda: _pb("gcs_pb2").ActorTableData.DEAD),
)
"""Each part by its name, and how it is found; KeyError, AttributeError or ImportError where it is not there."""


def moved_functions() -> list[str]:
    """What of Ray's functions is not so that they can be caught."""
    found = []
    for name, parameters in PARAMETERS.items():
        function = getattr(_module(), name, None)
        inner = getattr(function, "__wrapped__", None)
        if not isinstance(inner, types.FunctionType):
            found.append(f"ray.util.{name}.__wrapped__")
        elif tuple(inspect.signature(inner).parameters) != parameters:
            found.append(f"the parameters of ray.util.{name}")
        elif inner.__code__.co_freevars:
            found.append(f"ray.util.{name} (it is a closure)")
    return found
