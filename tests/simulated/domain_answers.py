"""What an API server says of ComputeDomains by NVIDIA's definition: yes or no, and by the simulated driver's where it
differs. From the same versions as `nvidia_answers.py`, and asked again by the same test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_dra.translate.names import COMPUTE_DOMAIN_API


@dataclass(frozen=True)
class Written:
    """A ComputeDomain that is written, and what is said of it.

    Attributes:
        old: what it is to replace; None: it is created.
        status: its status alone is written.
        ours: None: as NVIDIA's.
    """

    name: str
    thing: dict[str, Any]
    theirs: bool
    ours: bool | None = None
    why: str = ""
    old: dict[str, Any] | None = None
    status: bool = False

    @property
    def taken(self) -> bool:
        """By ours."""
        return self.theirs if self.ours is None else self.ours


def _domain(spec: dict[str, Any] | None, name: str = "d", **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "team"}
    made = {"apiVersion": COMPUTE_DOMAIN_API, "kind": "ComputeDomain", "metadata": meta, **more}
    return made if spec is None else {**made, "spec": spec}


def _spec(nodes: Any = 0, template: Any = "d-channel", **channel: Any) -> dict[str, Any]:
    return {"numNodes": nodes, "channel": {"resourceClaimTemplate": {"name": template}, **channel}}


_OLD = _domain(_spec(allocationMode="Single"))
_NODE = {"name": "n0", "ipAddress": "10.0.0.1", "cliqueID": "c.1", "index": 0, "status": "Ready"}


def _changed(name: str, spec: dict[str, Any], taken: bool) -> Written:
    return Written(name, _domain(spec), taken, old=_OLD)


def _told(name: str, status: dict[str, Any], taken: bool) -> Written:
    return Written(name, _domain(_spec(), status=status), taken, old=_OLD, status=True)


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in _NODE.items() if name != key}


_NAMELESS = "no claim template can be made of it"

DOMAINS = (
    Written("one channel", _OLD, True),
    Written("all channels", _domain(_spec(allocationMode="All")), True),
    Written("no mode", _domain(_spec()), True),
    Written("another mode", _domain(_spec(allocationMode="Some")), False),
    Written("two nodes", _domain(_spec(2)), True),
    Written("fewer nodes than none", _domain(_spec(-1)), False),
    Written("nodes as a word", _domain(_spec("2")), False),
    Written("half a node", _domain(_spec(0.5)), False),
    Written("no number of nodes", _domain({"channel": _spec()["channel"]}), True),
    Written("no channel", _domain({"numNodes": 0}), False),
    Written("no template", _domain({"numNodes": 0, "channel": {}}), False),
    Written("a template without a name", _domain({"channel": {"resourceClaimTemplate": {}}}), False),
    Written("a template with an empty name", _domain(_spec(template="")), True, False, _NAMELESS),
    Written("a template with a long name", _domain(_spec(template="x" * 254)), True, False, _NAMELESS),
    Written("a template whose name is a number", _domain(_spec(template=1)), False),
    Written("a field that nobody knows", _domain({**_spec(), "nodes": 2}), False),
    Written("a field of the channel", _domain(_spec(count=2)), False),
    Written("no spec", _domain(None), True, False, "theirs has no channel then"),
    Written("a name in capitals", _domain(_spec(), name="D"), False),
    Written("another version", {**_OLD, "apiVersion": "resource.nvidia.com/v1"}, False),
    Written("another kind", {**_OLD, "kind": "ComputeDomains"}, False),
    _changed("as it was", _spec(allocationMode="Single"), True),
    _changed("as it was, its mode by default", _spec(), True),
    _changed("another number of nodes", _spec(2, allocationMode="Single"), False),
    _changed("all channels, later", _spec(allocationMode="All"), False),
    _changed("another template", _spec(template="other"), False),
    Written("a label more", {**_OLD, "metadata": {**_OLD["metadata"], "labels": {"a": "b"}}}, True, old=_OLD),
    _told("ready", {"status": "Ready", "nodes": [_NODE]}, True),
    _told("ready, nobody there", {"status": "Ready"}, True),
    _told("nothing yet", {}, True),
    _told("another status", {"status": "Soon"}, False),
    _told("another status of a node", {"status": "Ready", "nodes": [{**_NODE, "status": "Soon"}]}, False),
    _told("a node twice", {"status": "Ready", "nodes": [_NODE, _NODE]}, False),
    _told("a node without a name", {"status": "Ready", "nodes": [_without("name")]}, False),
    _told("a node without an address", {"status": "Ready", "nodes": [_without("ipAddress")]}, False),
    _told("a node without a clique", {"status": "Ready", "nodes": [_without("cliqueID")]}, False),
    _told("a node without an index", {"status": "Ready", "nodes": [_without("index")]}, True),
    _told("a node without a status", {"status": "Ready", "nodes": [_without("status")]}, True),
    _told("a node that says more", {"status": "Ready", "nodes": [{**_NODE, "gpus": 4}]}, False),
)
