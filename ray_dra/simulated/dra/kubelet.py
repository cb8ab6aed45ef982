"""What the kubelet sees of a driver: registration, and readying claims, over gRPC on unix sockets.

The sockets stay through the kubelet's restarts: it looks for them when it starts. Neighbour: `prepare` does the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from ray_dra.errors import KubernetesError
from ray_dra.ports.metrics import DRIVER_CALLS, DRIVER_CLAIMS, NO_METRICS, Metrics
from ray_dra.simulated.dra.prepare import PrepareError, Preparer
from ray_dra.simulated.dra.proto import dra_pb2 as dra
from ray_dra.simulated.dra.proto import registration_pb2 as registration

FetchClaim = Callable[[str, str], dict[str, Any]]  # (namespace, name)
THREADS = 8


class Plugin:
    """One driver's two sockets under the kubelet's folder.

    Args:
        kubelet: the kubelet's root folder, by the same path that the kubelet uses.
        fetch: reads a ResourceClaim from the API server.
    """

    def __init__(self, preparer: Preparer, *, kubelet: Path, fetch: FetchClaim, metrics: Metrics = NO_METRICS) -> None:
        self._preparer, self._fetch, self._metrics = preparer, fetch, metrics
        self.registered = threading.Event()  # the kubelet knows this driver, and will call it
        driver = preparer.driver
        self._socket = kubelet / "plugins" / driver / "dra.sock"
        self._registration = kubelet / "plugins_registry" / f"{driver}-reg.sock"
        self._service = _server(
            self._socket,
            "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin",
            NodePrepareResources=(
                self._prepare,
                dra.NodePrepareResourcesRequest,
                dra.NodePrepareResourcesResponse,
            ),
            NodeUnprepareResources=(
                self._unprepare,
                dra.NodeUnprepareResourcesRequest,
                dra.NodeUnprepareResourcesResponse,
            ),
        )
        self._registrar = _server(
            self._registration,
            "pluginregistration.Registration",
            GetInfo=(self._info, registration.InfoRequest, registration.PluginInfo),
            NotifyRegistrationStatus=(
                self._registered,
                registration.RegistrationStatus,
                registration.RegistrationStatusResponse,
            ),
        )

    def start(self) -> None:
        """The registration last: from then on the kubelet may call."""
        self._service.start()
        self._registrar.start()

    def stop(self) -> None:
        """Calls that run are finished first."""
        for path, server in ((self._registration, self._registrar), (self._socket, self._service)):
            server.stop(grace=5).wait()
            path.unlink(missing_ok=True)

    # -- the calls

    def _info(self, request: registration.InfoRequest, context: Any) -> registration.PluginInfo:
        return registration.PluginInfo(
            type="DRAPlugin",
            name=self._preparer.driver,
            endpoint=str(self._socket),
            supported_versions=["v1.DRAPlugin"],
        )

    def _registered(
        self, request: registration.RegistrationStatus, context: Any
    ) -> registration.RegistrationStatusResponse:
        if request.plugin_registered:
            self.registered.set()
        said = "registered" if request.plugin_registered else f"refused: {request.error}"
        print(f"{self._preparer.driver}: the kubelet says {said}", flush=True)
        return registration.RegistrationStatusResponse()

    def _prepare(self, request: dra.NodePrepareResourcesRequest, context: Any) -> dra.NodePrepareResourcesResponse:
        answer = dra.NodePrepareResourcesResponse()
        for claim in request.claims:
            entry = answer.claims[claim.uid]
            try:
                with self._clocked("prepare"):
                    found = self._fetch(claim.namespace, claim.name)
                    if found["metadata"]["uid"] != claim.uid:
                        named = f"{claim.namespace}/{claim.name}"
                        raise PrepareError(f"{named} is another claim now (uid {claim.uid} is gone)")
                    for device in self._preparer.prepare(found):
                        entry.devices.add(
                            request_names=[device.request],
                            pool_name=device.pool,
                            device_name=device.device,
                            cdi_device_ids=[device.cdi] if device.cdi else [],
                            share_id=device.share,
                        )
            except (PrepareError, KubernetesError) as error:
                text = " ".join(str(error).split())
                entry.error = f"error preparing devices for claim {claim.namespace}/{claim.name}: {text}"
                print(entry.error, flush=True)
        return answer

    def _unprepare(
        self, request: dra.NodeUnprepareResourcesRequest, context: Any
    ) -> dra.NodeUnprepareResourcesResponse:
        answer = dra.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            entry = answer.claims[claim.uid]
            try:
                with self._clocked("unprepare"):
                    self._preparer.unprepare(claim.uid)
            except (PrepareError, KubernetesError) as error:
                entry.error = f"error unpreparing claim {claim.uid}: {' '.join(str(error).split())}"
        return answer

    @contextmanager
    def _clocked(self, call: str) -> Iterator[None]:
        began, driver, result = time.monotonic(), self._preparer.driver, "failed"
        try:
            yield
            result = "ok"
        finally:
            self._metrics.observe(DRIVER_CALLS, time.monotonic() - began, driver, call, result)
            self._metrics.put(DRIVER_CLAIMS, len(self._preparer.claims()), driver)


def _server(socket: Path, service: str, **methods: tuple[Any, Any, Any]) -> grpc.Server:
    """A gRPC server on a unix socket; each method is (function, request type, answer type)."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)  # of a predecessor that was killed
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            function, request_deserializer=asked.FromString, response_serializer=answer.SerializeToString
        )
        for name, (function, asked, answer) in methods.items()
    }
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix://{socket}")
    return server
