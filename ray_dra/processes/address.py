"""The address behind `ray_dra://`: what may be said, checked before anything starts.

embedded?profile=NAME&nodes=N&cliques=N&cpus=N    a simulated cluster on this machine
kubernetes?namespace=NAME&raycluster=NAME         the RayCluster of this pod (both are known there)
HOST:PORT                                         a Ray cluster that runs already
(nothing)                                         chosen from where the program runs

Each takes `locality=POLICY`, the policy of the job's ordinary placement groups (see `translate.ray.policy`), and
`on_fault=POLICY`, what is done about their faults (see `translate.fault_policy`); and `queue=NAME`, the queue of a team
for the job's gangs and groups that name none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ray_dra.core.gangs.team_queues import NAME
from ray_dra.errors import InvalidAddress, InvalidRequest, shown
from ray_dra.translate.fault_policy import parse_fault_rules
from ray_dra.translate.names import (
    CLUSTER_NAME_VARIABLE,
    CLUSTER_NAMESPACE_VARIABLE,
    GCS_ADDRESS_VARIABLE,
    HEAD_HOST_VARIABLES,
    HEAD_PORT_VARIABLE,
)
from ray_dra.translate.ray.policy import parse_rules

FORMS = "embedded?profile=NAME&nodes=N, kubernetes, HOST:PORT, or nothing"
MAX_ADDRESS = 2048
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
_OBJECT = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
"""A Kubernetes object's name; it becomes part of paths."""


class Embedded(BaseModel):
    """A simulated cluster on this machine. `cliques` splits rack-scale machines over so many racks; `cpus` is what
    each simulated node offers to Ray."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    profile: str = "gb200-nvl72"
    nodes: int | None = Field(default=None, ge=1, le=64)
    cliques: int | None = Field(default=None, ge=1, le=64)
    cpus: int | None = Field(default=None, ge=1, le=1024)
    locality: str = ""
    on_fault: str = ""
    queue: str = ""


class Running(BaseModel):
    """A Ray cluster that runs already, at `address` (host:port of its control store)."""

    model_config = ConfigDict(frozen=True)
    address: str
    locality: str = ""
    on_fault: str = ""
    queue: str = ""


class Kubernetes(BaseModel):
    """A KubeRay cluster to which gangs' workers are added; `address` is its control store's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    namespace: str = Field(pattern=_OBJECT)
    raycluster: str = Field(pattern=_OBJECT)
    address: str = ""
    locality: str = ""
    on_fault: str = ""
    queue: str = ""


Target = Embedded | Running | Kubernetes


def parse_address(address: str, environment: Mapping[str, str] = os.environ) -> Target:
    """What `ray_dra://<address>` means.

    Raises:
        InvalidAddress: lists what is allowed.
    """
    if not isinstance(address, str) or len(address) > MAX_ADDRESS or not address.isascii() or not address.isprintable():
        raise InvalidAddress(
            f"An address is text, at most {MAX_ADDRESS} ASCII characters.",
            place="address",
            wanted=shown(address),
            available=FORMS,
        )
    place, _, query = address.partition("?")
    place = place.strip("/")
    fields = _options(query)
    locality = _policy(fields.get("locality"), "locality", parse_rules)
    on_fault = _policy(fields.get("on_fault"), "on_fault", parse_fault_rules)
    queue = _policy(fields.get("queue"), "queue", _check_queue)
    if place == "embedded":
        return _embedded(fields)
    if place == "kubernetes":
        return _kubernetes(fields, environment)
    if fields.keys() - {"locality", "on_fault", "queue"}:
        raise InvalidAddress(
            "Only the embedded cluster and kubernetes take options besides locality, on_fault and queue.",
            place="address",
            wanted=f"ray_dra://{address}",
            available=FORMS,
        )
    found = _running(place, "address", f"ray_dra://{address}") if place else _from_here(environment)
    return found.model_copy(update={"locality": locality, "on_fault": on_fault, "queue": queue})


def _policy(said: str | None, option: str, parse: Callable[[object, str], object]) -> str:
    """The same policy, if it is one."""
    if said is None:
        return ""
    try:
        parse(said, f"option {option}")
    except InvalidRequest as error:
        raise InvalidAddress(
            error.reason, place=f"option {option}", wanted=shown(said), available=error.available
        ) from error
    return said


def _check_queue(said: object, place: str) -> None:
    if not isinstance(said, str) or NAME.fullmatch(said) is None:
        raise InvalidRequest(
            "This is no name of a queue.",
            place=place,
            wanted=shown(said),
            available="at most 63 letters, digits, - and _",
        )


def _running(endpoint: str, place: str, wanted: str) -> Running:
    """A host and a port; `place` and `wanted` are for the message."""
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not 0 < int(found[2]) < 65536:
        raise InvalidAddress("This address is not known.", place=place, wanted=wanted, available=FORMS)
    return Running(address=endpoint)


def _kubernetes(fields: dict[str, Any], environment: Mapping[str, str]) -> Kubernetes:
    """Inside a pod that KubeRay made everything is in its environment; options name another RayCluster."""
    found = {
        "namespace": environment.get(CLUSTER_NAMESPACE_VARIABLE),
        "raycluster": environment.get(CLUSTER_NAME_VARIABLE),
    } | fields
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise InvalidAddress(
            "This is no KubeRay pod, so the RayCluster has to be named.",
            place="address",
            wanted="ray_dra://kubernetes?namespace=NAME&raycluster=NAME",
            available=f"missing: {', '.join(missing)}",
        )
    try:
        return Kubernetes(**{"address": _head(environment)} | found)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        if problem["type"] == "extra_forbidden":
            raise InvalidAddress(
                f"There is no option {name!r}.",
                place="address",
                wanted=name,
                available="namespace, raycluster, locality, on_fault, queue",
            ) from error
        raise InvalidAddress(
            f"{name} is no name in Kubernetes.",
            place=f"option {name}",
            wanted=shown(problem["input"]),
            available="small letters, digits, - and .",
        ) from error


def _head(environment: Mapping[str, str]) -> str:
    """host:port of the head's control store, as KubeRay's operator says it in its pods."""
    host = next(filter(None, map(environment.get, HEAD_HOST_VARIABLES)), "127.0.0.1")
    found = f"{host}:{environment.get(HEAD_PORT_VARIABLE) or '6379'}"
    place = f"the environment: {', '.join((*HEAD_HOST_VARIABLES, HEAD_PORT_VARIABLE))}"
    return _running(found, place, found).address


def _options(query: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    try:
        for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
            if name in fields:
                raise InvalidAddress(f"{name} is given twice.", place="address", wanted=query)
            fields[name] = value
    except InvalidAddress:
        raise
    except ValueError as error:
        raise InvalidAddress(
            "The options do not read.",
            place="address",
            wanted=query,
            available="name=value&name=value; within a policy, .and. instead of &",
        ) from error
    return fields


def _embedded(fields: dict[str, Any]) -> Embedded:
    try:
        return Embedded(**fields)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        known = ", ".join(Embedded.model_fields)
        if problem["type"] == "extra_forbidden":
            raise InvalidAddress(
                f"There is no option {name!r}.", place="address", wanted=name, available=known
            ) from error
        raise InvalidAddress(
            f"{name} is not right: {problem['msg'].lower()}.",
            place=f"option {name}",
            wanted=shown(problem["input"]),
            available="a whole number from 1" if name != "profile" else "a profile's name",
        ) from error


def _from_here(environment: Mapping[str, str]) -> Running:
    """`ray_dra://` alone: inside a KubeRay pod, or beside a running Ray."""
    head = any(map(environment.get, HEAD_HOST_VARIABLES))
    if environment.get(CLUSTER_NAME_VARIABLE) or head:  # set by KubeRay's operator in its pods
        return Running(address=_head(environment))
    local = environment.get(GCS_ADDRESS_VARIABLE) or _beside()
    if local:
        return _running(local, f"the environment: {GCS_ADDRESS_VARIABLE}", local)
    raise InvalidAddress(
        "ray_dra:// alone needs a Ray to choose, and there is none here: this is no KubeRay pod, and no Ray runs on"
        " this machine.",
        place="address",
        wanted="ray_dra://",
        available=FORMS,
    )


def _beside() -> str | None:
    """The Ray that was last started on this machine, where it still runs."""
    from ray._private import services

    found = services.find_gcs_addresses()
    return sorted(found)[0] if found else None
