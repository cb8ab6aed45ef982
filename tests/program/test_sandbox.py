"""The handle to a Sandbox: what is said where it cannot be made, waited for or found. The real thing runs by hand
(tests/cluster/test_sandboxes.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import yaml

import ray_dra
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.core.model.allocation import Allocation
from ray_dra.errors import GangGone, GangTimeout, InvalidRequest, KubernetesError, NotFound
from ray_dra.program import sandbox
from ray_dra.program.gang_handle import GangPlacementGroup
from ray_dra.program.sandbox import Place, Sandbox
from ray_dra.translate.kube.sandboxes import read_template
from tests.translate.kube.objects import BOXES, allocate, gang

EXAMPLE = Path(__file__).parents[2] / "examples" / "sandbox" / "sandbox.yaml"
TEMPLATE = next(yaml.safe_load_all(EXAMPLE.read_text()))


class Server:
    """Objects by kind and name."""

    server = "https://there"

    def __init__(self, *served: str) -> None:
        self.things: dict[tuple[str, str], dict[str, Any]] = {}
        self.served = served

    def serves(self, kind: str) -> bool:
        return kind in self.served

    def find(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        return self.things.get((kind, name))

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        if (kind, name) not in self.things:
            raise NotFound("It is not there.", place=name)
        return self.things[kind, name]

    def items(self, kind: str, namespace: str, *, fields: str) -> list[dict[str, Any]]:
        found = self.find(kind, fields.removeprefix("metadata.name="), namespace)
        return [] if found is None else [found]

    def create(self, thing: dict[str, Any], namespace: str) -> None:
        self.things[thing["kind"], thing["metadata"]["name"]] = thing

    def delete(self, kind: str, name: str, namespace: str) -> None:
        self.things.pop((kind, name), None)


class Gang:
    """A handle's part that a Sandbox uses."""

    id = "g"

    def __init__(self, allocation: Allocation | None) -> None:
        self._allocation, self.removed = allocation, False

    @property
    def allocation(self) -> Allocation | None:
        if self.removed:
            raise GangGone("It is gone.", place=self.id)
        return self._allocation

    def remove(self) -> None:
        self.removed = True


def place(server: Server) -> Place:
    return Place(cast(KubernetesApi, server), "team")


def test_it_is_made_of_the_gangs_worker_and_removed_with_the_gang() -> None:
    server, its = Server("Sandbox"), Gang(allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False))
    spec = read_template(TEMPLATE["spec"])
    handle = cast(GangPlacementGroup, its)
    with pytest.raises(KubernetesError, match="no pod of this namespace"):
        place(server).make(spec, handle)
    assert not server.things
    server.things["Pod", "rd-cd0aa985-0-0"] = {"metadata": {"uid": "u"}}
    with place(server).make(spec, handle) as box:
        assert (box.name, box.namespace) == ("rd-cd0aa985-0-0-sandbox", "team")
        assert len(box.devices) == 1
        server.things["Sandbox", box.name]["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
        box.wait(5)
    assert its.removed
    assert ("Sandbox", box.name) not in server.things
    assert not box.devices
    with pytest.raises(GangGone, match="no worker"):
        place(server).make(spec, cast(GangPlacementGroup, Gang(None)))


def test_to_wait_says_what_is_said_of_it() -> None:
    server = Server("Sandbox")
    box = Sandbox(cast(GangPlacementGroup, Gang(None)), "s", place(server))
    with pytest.raises(GangGone, match="has ended"):
        box.wait(5)
    server.things["Sandbox", "s"] = {}
    with pytest.raises(GangTimeout, match="does agent-sandbox's controller run"):
        box.wait(0)
    waits = {"type": "Ready", "status": "False", "message": "Pod is Pending"}
    server.things["Sandbox", "s"] = {"status": {"conditions": [waits]}}
    with pytest.raises(GangTimeout, match="Pod is Pending"):
        box.wait(0)


def test_a_template_is_named_or_given() -> None:
    server = Server("Sandbox")
    server.things["SandboxTemplate", "agent"] = TEMPLATE
    assert place(server).template("agent") == place(server).template(TEMPLATE["spec"])
    assert list(place(server).template("agent")) == ["podTemplate"]
    with pytest.raises(NotFound):
        place(server).template("other")


def test_without_kubernetes_or_agent_sandbox_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAMESPACE", raising=False)
    with pytest.raises(InvalidRequest, match="in which namespace"):
        Place.here(None)
    monkeypatch.setattr(sandbox, "KubernetesApi", lambda: Server("Pod"))
    with pytest.raises(InvalidRequest, match="no Sandboxes"):
        Place.here("team")
    monkeypatch.setattr(sandbox, "KubernetesApi", lambda: Server("Sandbox"))
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "ray")
    assert Place.here(None).namespace == "ray"
    assert Place.here("team").namespace == "team"
    for wrong in (5, ["team"], "a" * 300):
        with pytest.raises(InvalidRequest, match="namespace is"):
            Place.here(wrong)  # type: ignore[arg-type]


def test_what_is_no_time_is_refused_before_anything_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(namespace: str | None) -> Place:
        raise AssertionError("asked")

    monkeypatch.setattr("ray_dra.api.Place.here", here)
    with pytest.raises(InvalidRequest, match="timeout is a number"):
        ray_dra.sandbox(TEMPLATE["spec"], timeout="soon")  # type: ignore[arg-type]
