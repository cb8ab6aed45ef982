"""The one place that talks to a Kubernetes API server: objects as plain dicts, by verb and kind.

The official client does connections, credentials and TLS; its models are left aside, because objects here are
translated (`ray_dra.translate`) or passed on, and a dict is what every server version agrees on. Synchronous, and safe
to use from several threads. Neighbours: `kube_kinds.py` has the kinds and their paths, `kube_answers.py` reads what
comes back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from ray_dra.adapters.kube_answers import Object, error_of, event_of, garbled, object_of, version_of
from ray_dra.adapters.kube_kinds import KINDS, kind_of, path_for, path_of, root_of
from ray_dra.errors import ApiUnavailable, KubernetesError, NotFound
from ray_dra.ports.metrics import NO_METRICS, REQUESTS, Metrics
from ray_dra.translate.names import KUBECONFIG_VARIABLE

# The server keeps the bytes of a driver's opaque parameters as they were sent, and compares them when it checks that a
# spec did not change. A later patch sends them sorted and without blanks; so must we, or nothing can be patched.
WITH_PARAMETERS = frozenset({"ResourceClaim", "ResourceClaimTemplate", "DeviceClass"})

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
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
        metrics: where requests are counted.

    Raises:
        KubernetesError: from every method; the subclass says what to do about it.
    """

    def __init__(
        self, kubeconfig: str | None = None, context: str | None = None, *, metrics: Metrics = NO_METRICS
    ) -> None:
        self._metrics = metrics
        self._kubeconfig, self._context = kubeconfig, context
        self.configuration = configuration = client.Configuration()
        try:
            # The client asks for it when it is imported.
            kubeconfig = self._kubeconfig = kubeconfig or os.environ.get(KUBECONFIG_VARIABLE)
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

    @property
    def namespace(self) -> str:
        """That of the kubeconfig's context, or of the pod that this is; else `default`."""
        with suppress(Exception):  # no kubeconfig, or one without contexts
            contexts, active = config.list_kube_config_contexts(self._kubeconfig)
            chosen = next((each for each in contexts if each["name"] == self._context), active)
            return str(chosen["context"].get("namespace") or "default")
        with suppress(OSError):
            return OWN_NAMESPACE.read_text().strip() or "default"
        return "default"

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
                raise garbled(place, f"a list of {kind}s", answer)
            # What is no object becomes one without a name: whoever reads the list says so, and has the others.
            known = {"apiVersion": group, "kind": kind.split()[-1]}
            yield [{**known, **item} if isinstance(item, dict) else known for item in found], meta["resourceVersion"]
            before, on = on, meta.get("continue") or ""
            if not on:
                return
            if not isinstance(on, str) or on == before:
                raise garbled(place, "the next page", meta)

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
                        yield event_of(object_of(line, place), place)
                if len(rest) > MOST_BYTES:
                    raise garbled(place, "an event", rest)
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
            found = self._ask("GET", root_of(group))
        except NotFound:
            return False
        return any(resource["name"] == plural for resource in found.get("resources", ()))

    # -- writing

    def create(self, thing: Mapping[str, Any], namespace: str | None = None, *, dry_run: bool = False) -> Object:
        return self._ask("POST", path_for(thing, namespace, named=False), thing, query=_dry(dry_run))

    def replace(self, thing: Mapping[str, Any], *, subresource: str = "") -> Object:
        """Put the whole object; Conflict where its resourceVersion is not the newest."""
        return self._ask("PUT", path_for(thing, None) + (subresource and f"/{subresource}"), thing)

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
        return self._ask("PATCH", path_for(thing, namespace), thing, query=query, form="application/apply-patch+yaml")

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
        return object_of(self._send(verb, path, body, query=query, form=form).data, f"{verb} {path}")

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
            self._count(verb, path, response.status)
            body = response.data if whole or response.status >= 400 else b""  # read here, where it may break
            if response.status >= 400:
                raise error_of(response.status, body, f"{verb} {path}")
            return response
        except ApiException as error:
            self._count(verb, path, error.status or 0)
            raise error_of(error.status or 0, (error.body or "").encode(), f"{verb} {path}") from error
        except (HTTPError, OSError) as error:
            self._count(verb, path, 0)
            raise ApiUnavailable(
                "The Kubernetes API did not answer.", place=f"{verb} {self.server}{path}", available=str(error)
            ) from error

    def _count(self, verb: str, path: str, status: int) -> None:
        """`status` 0: no answer came."""
        kind = kind_of(path)
        if kind:
            self._metrics.count(REQUESTS, verb, kind, str(status))


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _end(response: Any) -> None:
    """Wakes whoever reads it. An older urllib3 has no `shutdown`; the reader then ends with the server's answer."""
    with suppress(Exception):
        response.shutdown()
