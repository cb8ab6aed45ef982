"""`ray.init("ray_dra://...")`: Ray imports the package and calls `ClientBuilder(address)`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray

from ray_dra.adapters.ray import check_ray
from ray_dra.adapters.ray_token import connection_token, forget_token
from ray_dra.adapters.reach import await_cluster
from ray_dra.errors import ClusterUnavailable
from ray_dra.processes.address import Embedded, Kubernetes, Target, parse_address
from ray_dra.processes.ordinary_groups import install
from ray_dra.processes.start_coordinator import greet
from ray_dra.processes.worker_hook import install_worker
from ray_dra.program.progress import StartLine
from ray_dra.simulated.cluster import LocalCluster, token_of
from ray_dra.simulated.profile import HEAD_ADDRESS
from ray_dra.translate.ray.ordinary import check_policies

HOOK = "worker_process_setup_hook"

_running: LocalCluster | None = None


def embedded_cluster() -> LocalCluster | None:
    """The embedded cluster of this program, to break its machines on purpose; None without one."""
    return _running


class ClientBuilder:
    """Ray asks the module named by an address's scheme for this class; `connect` does the work.

    Raises:
        InvalidAddress: already here, before anything starts.
    """

    def __init__(self, address: str | None) -> None:
        self._deprecation_warn_enabled = True  # Ray sets it
        self._arguments: dict[str, Any] = {}
        self._address = "" if address is None else address

    def _init_args(self, **arguments: Any) -> ClientBuilder:
        self._arguments = arguments
        return self

    def connect(self) -> Any:
        """Connect this program; what `ray.init` returns."""
        if ray.is_initialized():
            if self._arguments.get("ignore_reinit_error"):
                return ray.get_runtime_context()
            raise RuntimeError("Maybe you called ray.init twice by accident? Call ray.shutdown() first.")
        target = parse_address(self._address)
        self._check_policies()
        check_ray()
        if isinstance(target, Embedded):
            return self._start(target)
        await_cluster(target.address)
        with connection_token(target.address, token_of(target.address)):
            kubernetes = (
                target.model_copy(update={"locality": "", "on_fault": "", "queue": ""})
                if isinstance(target, Kubernetes)
                else None
            )
            # There, where workers are made for a group, it has to be asked for.
            default = "none" if kubernetes is not None else ""
            return self._join(target.address, kubernetes, forget_token, target, default)

    def _check_policies(self) -> None:
        """Those in the environment of the program, and in the one that its workers are to have."""
        variables = dict(self._arguments.get("runtime_env") or {}).get("env_vars") or {}
        for environment in (os.environ, variables):
            check_policies(environment)

    def _start(self, target: Embedded) -> Any:
        with StartLine() as line:
            cluster = LocalCluster.start(
                target.profile, nodes=target.nodes, cliques=target.cliques, cpus=target.cpus, waiting=line.waiting
            )
            line.up(len(cluster.nodes), cluster.address)

        def end() -> None:
            global _running
            _running = None
            forget_token()
            cluster.stop()

        try:
            with connection_token(cluster.address, cluster.token):
                context = self._join(cluster.address, None, end, target, embedded=True)
        except BaseException:
            cluster.stop()
            raise
        global _running
        _running = cluster
        return context

    def _join(
        self,
        address: str,
        kubernetes: Kubernetes | None,
        end: Callable[[], None],
        said: Target,
        default: str = "",
        *,
        embedded: bool = False,
    ) -> Any:
        """Connect, greet the coordinator, and have `end` called when Ray disconnects. `said`: what the address
        says of this job's ordinary placement groups, which are planned from here on, and of the queue of its gangs and
        groups; `default`: their locality where
        nobody says one, the cluster neither."""
        arguments = dict(self._arguments)
        # The embedded raylets have our hook in their environment; a runtime_env only makes workers slower to start.
        if not embedded or HOOK in dict(arguments.get("runtime_env") or {}):
            arguments["runtime_env"] = with_worker_hook(arguments.get("runtime_env"))
        if embedded:
            arguments["_node_ip_address"] = HEAD_ADDRESS
        try:
            # An explicit host:port: anything else would come back here through RAY_ADDRESS.
            context = _connect(address, arguments)
            greet(kubernetes, said.locality, default, said.on_fault, said.queue)
            install()
        except BaseException:
            ray.shutdown()
            raise
        _at_disconnect(end)
        return context


def _connect(address: str, arguments: dict[str, Any]) -> Any:
    """`ray.init`, with one type of error where the cluster fails meanwhile: Ray has no type of its own for it."""
    try:
        return ray.init(address=address, **arguments)
    except ray.exceptions.AuthenticationError:
        raise
    except (AssertionError, ConnectionError, ray.exceptions.RayError) as error:
        raise ClusterUnavailable(
            "The Ray cluster failed while this program connected to it; try again.",
            place=address,
            available=f"{type(error).__name__}: {error}",
        ) from error


def with_worker_hook(runtime_env: Any) -> dict[str, Any]:
    """The user's runtime_env with our worker hook in front of their own."""
    env = dict(runtime_env or {})
    theirs = env.get(HOOK)
    if theirs is None:
        env[HOOK] = install_worker
    elif theirs is not install_worker:
        env[HOOK] = _both(theirs)
    return env


def _both(theirs: str | Callable[[], None]) -> Callable[[], None]:
    def install_and_run_users_hook() -> None:
        from ray_dra.processes.worker_hook import install_worker as ours

        ours()
        if isinstance(theirs, str):
            from ray._common.utils import load_class

            load_class(theirs)()
        else:
            theirs()

    return install_and_run_users_hook


def _at_disconnect(end: Callable[[], None]) -> None:
    """Call `end` when Ray disconnects, by whatever name `ray.shutdown` was called, and at exit."""
    node = ray._private.worker._global_node
    disconnect = node.kill_all_processes

    def disconnect_and_end(*args: Any, **kwargs: Any) -> None:
        try:
            disconnect(*args, **kwargs)
        finally:
            end()

    node.kill_all_processes = disconnect_and_end
