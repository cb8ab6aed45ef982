"""The one place that talks to a Kubernetes API server: objects as plain dicts, by verb and kind.

The official client does connections, credentials and TLS; its models are left aside, because objects here are
translated (`ray_dra.translate`) or passed on, and a dict is what every server version agrees on. Errors are
wrapped here, once (`ray_dra.errors.KubernetesError`). Synchronous, and safe to use from several threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from ray_dra.errors import (
    AlreadyThere,
    ApiUnavailable,
    Conflict,
    KubernetesError,
    NotAllowed,
    NotFound,
    Rejected,
    WatchExpired,
)
from ray_dra.translate.names import COMPUTE_DOMAIN_API, KUBECONFIG_VARIABLE, RAY_API

Object = dict[str, Any]

# kind: (group and version, plural, namespaced)
KINDS: dict[str, tuple[str, str, bool]] = {
    "Namespace": ("v1", "namespaces", False),
    "Node": ("v1", "nodes", False),
    "Pod": ("v1", "pods", True),
    "Service": ("v1", "services", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "ConfigMap": ("v1", "configmaps", True),
    "Secret": ("v1", "secrets", True),
    "Event": ("v1", "events", True),
    "Endpoints": ("v1", "endpoints", True),
    "DaemonSet": ("apps/v1", "daemonsets", True),
    "Deployment": ("apps/v1", "deployments", True),
    "Job": ("batch/v1", "jobs", True),
    "Lease": ("coordination.k8s.io/v1", "leases", True),
    "Role": ("rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings", True),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "CustomResourceDefinition": ("apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "DeviceClass": ("resource.k8s.io/v1", "deviceclasses", False),
    "ResourceSlice": ("resource.k8s.io/v1", "resourceslices", False),
    "ResourceClaim": ("resource.k8s.io/v1", "resourceclaims", True),
    "ResourceClaimTemplate": ("resource.k8s.io/v1", "resourceclaimtemplates", True),
    "ComputeDomain": (COMPUTE_DOMAIN_API, "computedomains", True),
    "RayCluster": (RAY_API, "rayclusters", True),
    "RayJob": (RAY_API, "rayjobs", True),
    "PriorityClass": ("scheduling.k8s.io/v1", "priorityclasses", False),
}

# The server keeps the bytes of a driver's opaque parameters as they were sent, and compares them when it checks that a
# spec did not change. A later patch sends them sorted and without blanks; so must we, or nothing can be patched.
WITH_PARAMETERS = frozenset({"ResourceClaim", "ResourceClaimTemplate", "DeviceClass"})

PAGE = 250  # objects in one answer: a Node has some 20 KB, ten times as much when parsed
# A server may hang and not refuse. Whoever writes waits for the answer, the coordinator among them, which has others to
# answer; what it writes is looked at again and sent again, so one try of a write is enough.
CONNECT_SECONDS, READ_SECONDS, WRITE_SECONDS = 5.0, 30.0, 10.0
MOST_BYTES = 32 << 20  # of a watch's line; an object has at most some 3 MB
# Of reads: once where the connection breaks or the answer does not come, up to 5 times where the server says when.
RETRIES = Retry(total=5, connect=1, read=1, allowed_methods=["GET"])


class KubernetesApi:
    """One API server, one identity.

    Args:
        kubeconfig: path of a kubeconfig; None: $KUBECONFIG or the user's own, or else the pod's service account.
        context: which of its contexts.

    Raises:
        KubernetesError: from every method; the subclass says what to do about it.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        self.configuration = configuration = client.Configuration()
        try:
            kubeconfig = kubeconfig or os.environ.get(KUBECONFIG_VARIABLE)  # the client asks for it when it is imported
            if kubeconfig is not None or context is not None:
                config.load_kube_config(kubeconfig, context, client_configuration=configuration, persist_config=False)
            else:
                config.load_config(client_configuration=configuration)
        except Exception as error:  # a file of anything: the client raises whatever it stumbles over
            raise KubernetesError(
                "There is no way to the Kubernetes API: no kubeconfig that reads, and no service account of a pod.",
                place=kubeconfig or f"{KUBECONFIG_VARIABLE}, ~/.kube/config, or a pod's service account",
                available=str(error),
            ) from error
        configuration.client_go_retries = True
        configuration.retries = RETRIES
        configuration.connection_pool_maxsize = 32
        self._client = client.ApiClient(configuration)
        self.server = str(configuration.host)

    # -- reading

    def await_answer(self, seconds: float = 10.0) -> None:
        """Return as soon as the server answers at all, be it with a no.

        Raises:
            ApiUnavailable: it does not within `seconds`.
        """
        each = seconds / 2  # a read is tried twice
        try:
            self._send("GET", "/version", timeout=(each, each))
        except KubernetesError as error:
            if not error.status:
                raise

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        return self._ask("GET", path_of(kind, namespace, name))

    def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.get(kind, name, namespace)
        except NotFound:
            return None

    def pages(
        self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Iterator[tuple[list[Object], str]]:
        """The objects (of all namespaces where `namespace` is None) by the page, and the version to watch from.

        Raises:
            WatchExpired: in the middle, where it took too long; begin anew.
        """
        group, on = KINDS[kind][0], ""
        while True:
            query = {**_selectors(labels, fields), "limit": str(PAGE), **({"continue": on} if on else {})}
            place = path_of(kind, namespace)
            answer = self._ask("GET", place, query=query)
            found, meta = answer.get("items") or [], answer.get("metadata")
            if not isinstance(found, list) or not isinstance(meta, dict) or not isinstance(version_of(answer), str):
                raise _garbled(place, f"a list of {kind}s", answer)
            # What is no object becomes one without a name: whoever reads the list says so, and has the others.
            known = {"apiVersion": group, "kind": kind}
            yield [{**known, **item} if isinstance(item, dict) else known for item in found], meta["resourceVersion"]
            before, on = on, meta.get("continue") or ""
            if not on:
                return
            if not isinstance(on, str) or on == before:
                raise _garbled(place, "the next page", meta)

    def listed(
        self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        """All pages at once."""
        found, version = [], ""
        for page, at in self.pages(kind, namespace, labels=labels, fields=fields):
            found += page
            version = at
        return found, version

    def items(self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = "") -> list[Object]:
        return self.listed(kind, namespace, labels=labels, fields=fields)[0]

    def watch(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        version: str,
        labels: str = "",
        fields: str = "",
        seconds: float = 60.0,
        began: Callable[[Callable[[], None]], None] = lambda end: None,
    ) -> Iterator[tuple[str, Object]]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) from `version` on, for `seconds`; then it ends.

        Args:
            began: called when the server begins to answer, with what ends the watch at once, from any thread.

        Raises:
            WatchExpired: list again.
            ApiUnavailable: the connection broke; watch again from the last version seen. Where it is `garbled`, list
                again: the same line would come again.
        """
        query = {
            **_selectors(labels, fields),
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        place = path_of(kind, namespace)
        timeout = (CONNECT_SECONDS, seconds + READ_SECONDS)
        response = self._send("GET", place, query=query, timeout=timeout, whole=False)
        began(lambda: _end(response))
        rest = b""
        try:
            for block in response.stream(1 << 16, decode_content=False):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    if line:
                        yield _event(_object(line, place), place)
                if len(rest) > MOST_BYTES:
                    raise _garbled(place, "an event", rest)
        except HTTPError as error:
            raise ApiUnavailable("The watch broke.", place=place, available=str(error)) from error
        finally:
            response.close()
            response.release_conn()

    def raw(self, path: str) -> str:
        """What the server answers at a path, as text: logs, health, metrics, discovery."""
        return bytes(self._send("GET", path).data).decode(errors="replace")

    def serves(self, kind: str) -> bool:
        """Whether the cluster has this kind, by discovery."""
        group, plural, _ = KINDS[kind]
        try:
            found = self._ask("GET", _root(group))
        except NotFound:
            return False
        return any(resource["name"] == plural for resource in found.get("resources", ()))

    # -- writing

    def create(self, thing: Mapping[str, Any], namespace: str | None = None, *, dry_run: bool = False) -> Object:
        return self._ask("POST", _path_for(thing, namespace, named=False), thing, query=_dry(dry_run))

    def replace(self, thing: Mapping[str, Any], *, subresource: str = "") -> Object:
        """Put the whole object; Conflict where its resourceVersion is not the newest."""
        return self._ask("PUT", _path_for(thing, None) + (subresource and f"/{subresource}"), thing)

    def patch(
        self,
        kind: str,
        name: str,
        change: list[Any] | Mapping[str, Any],
        namespace: str | None = None,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """A list is a JSON patch (RFC 6902), a mapping a merge patch (RFC 7386)."""
        form = "json-patch" if isinstance(change, list) else "merge-patch"
        path = path_of(kind, namespace, name) + (subresource and f"/{subresource}")
        return self._ask("PATCH", path, change, query=_dry(dry_run), form=f"application/{form}+json")

    def apply(self, thing: Mapping[str, Any], *, owner: str = "ray-dra", namespace: str | None = None) -> Object:
        """Server-side apply: the named fields become these, and are ours."""
        query = {"fieldManager": owner, "force": "true"}
        return self._ask("PATCH", _path_for(thing, namespace), thing, query=query, form="application/apply-patch+yaml")

    def delete(
        self,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,
        uid: str | None = None,
        missing_ok: bool = True,
    ) -> None:
        """Delete one object, and what it owns in the background. `uid`: only where it is still that one."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._ask("DELETE", path_of(kind, namespace, name), body)
        except NotFound:
            if not missing_ok:
                raise

    def post(self, kind: str, name: str, subresource: str, body: Object, namespace: str | None = None) -> Object:
        """Create a subresource, such as a service account's token or a pod's binding."""
        return self._ask("POST", f"{path_of(kind, namespace, name)}/{subresource}", body)

    def review(self, thing: Object) -> Object:
        """Ask whether this identity may do something (SelfSubjectAccessReview)."""
        full = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", **thing}
        return self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", full)

    def close(self) -> None:
        self._client.rest_client.close()

    # -- one request

    def _ask(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        form: str = "application/json",
    ) -> Object:
        return _object(self._send(verb, path, body, query=query, form=form).data, f"{verb} {path}")

    def _send(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        form: str = "application/json",
        timeout: tuple[float, float] | None = None,
        whole: bool = True,
    ) -> Any:
        """The answer; `whole`: its body has come, too."""
        timeout = timeout or (CONNECT_SECONDS, READ_SECONDS if verb == "GET" else WRITE_SECONDS)
        if form == "application/json" and isinstance(body, Mapping) and body.get("kind") in WITH_PARAMETERS:
            form = "application/yaml"  # as text: the client would write JSON with blanks
        if form.endswith("yaml"):
            body = json.dumps(body, sort_keys=True, separators=(",", ":"))  # JSON is YAML
        headers = {"Accept": "application/json", "Content-Type": form}
        method, url, headers, body, _ = self._client.param_serialize(
            method=verb,
            resource_path=path,
            query_params=[*(query or {}).items()],
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(method, url, headers, body, _request_timeout=timeout).response
            body = response.data if whole or response.status >= 400 else b""  # read here, where it may break
            if response.status >= 400:
                raise _wrapped(response.status, body, f"{verb} {path}")
            return response
        except ApiException as error:
            raise _wrapped(error.status or 0, (error.body or "").encode(), f"{verb} {path}") from error
        except (HTTPError, OSError) as error:
            raise ApiUnavailable(
                "The Kubernetes API did not answer.", place=f"{verb} {self.server}{path}", available=str(error)
            ) from error


def path_of(kind: str, namespace: str | None = None, name: str | None = None) -> str:
    """The URL path of a kind's collection or of one object. KeyError for a kind that KINDS lacks."""
    group, plural, namespaced = KINDS[kind]
    parts = [_root(group)]
    if namespaced and namespace is not None:
        parts.append(f"namespaces/{namespace}")
    parts.append(plural)
    if name is not None:
        parts.append(name)
    return "/".join(parts)


def _root(group: str) -> str:
    return f"/apis/{group}" if "/" in group else f"/api/{group}"


def _path_for(thing: Mapping[str, Any], namespace: str | None, *, named: bool = True) -> str:
    meta = thing["metadata"]
    return path_of(thing["kind"], namespace or meta.get("namespace") or "default", meta["name"] if named else None)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def version_of(thing: Mapping[str, Any]) -> Any:
    """The version of an object or a list; None where it has none."""
    meta = thing.get("metadata")
    return meta.get("resourceVersion") if isinstance(meta, dict) else None


def _object(data: bytes, place: str) -> Object:
    """The JSON object that the server sent. Raises ApiUnavailable for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _garbled(place, "JSON", data) from error
    if not isinstance(found, dict):
        raise _garbled(place, "a JSON object", data)
    return found


def _garbled(place: str, wanted: str, said: object) -> ApiUnavailable:
    text = said[:200].decode(errors="replace") if isinstance(said, bytes) else repr(said)[:200]
    error = ApiUnavailable(
        "The answer is none of Kubernetes': is a proxy in between?", place=place, wanted=wanted, available=text
    )
    error.status = 200
    return error


def _event(event: Object, place: str) -> tuple[str, Object]:
    kind, thing = event.get("type"), event.get("object")
    if not isinstance(thing, dict) or kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"):
        raise _garbled(place, "an event", event)
    if kind == "ERROR":
        code = thing.get("code")
        raise _wrapped(code if isinstance(code, int) else 500, json.dumps(thing).encode(), f"watch {place}")
    if not isinstance(version_of(thing), str):
        raise _garbled(place, "an object with a version", event)
    return kind, thing


def _end(response: Any) -> None:
    """Wakes whoever reads it. An older urllib3 has no `shutdown`; the reader then ends with the server's answer."""
    with suppress(Exception):
        response.shutdown()


# The answer, with 422, when a JSON patch's `test` does not hold; an invalid object is named in its message.
_TEST_FAILED = "the server rejected our request due to an error in our request"


def _wrapped(status: int, body: bytes, place: str) -> KubernetesError:
    """The typed error for an answer of the API server's."""
    try:
        said = json.loads(body)
        message, reason = str(said.get("message", "")), str(said.get("reason", ""))
    except (ValueError, RecursionError, AttributeError):  # the last: it is no object
        message, reason = body.decode(errors="replace")[:500], ""
    error: KubernetesError
    if status == 404:
        error = NotFound("There is no such object.", place=place, available=message)
    elif status == 409 and reason == "AlreadyExists":
        error = AlreadyThere("An object of this name exists.", place=place, available=message)
    elif status == 409 or (status == 422 and message == _TEST_FAILED):
        error = Conflict("The object changed in between; read it again.", place=place, available=message)
    elif status == 410:
        error = WatchExpired("The watch is too old to go on; list again.", place=place, available=message)
    elif status == 403 and "violates PodSecurity" in message:
        error = Rejected("Pod Security of the namespace refuses the pod.", place=place, available=message)
    elif status in (401, 403):
        error = NotAllowed("This identity may not do that; see the roles under kube/.", wanted=place, available=message)
    elif status in (400, 422):
        error = Rejected("The API server refuses the object.", place=place, available=message)
    elif status == 429 or status >= 500 or status == 0:
        error = ApiUnavailable("The Kubernetes API cannot answer now.", place=place, available=message)
    else:
        error = KubernetesError("The Kubernetes API said no.", place=place, available=message)
    error.status = status
    return error
