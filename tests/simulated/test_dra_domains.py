"""ComputeDomains without a cluster: who is in, in which place, who is ready, and how many may be."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.simulated.dra.configs import ComputeDomainChannelConfig, decode
from ray_dra.simulated.dra.domains import MOST_NODES, channel_template, status_of
from ray_dra.translate.vendors import NVIDIA


def domain(nodes: int = 0, status: dict[str, Any] | None = None) -> dict[str, Any]:
    channel = {"resourceClaimTemplate": {"name": "d-channel"}, "allocationMode": "All"}
    return {
        "metadata": {"name": "d", "namespace": "team", "uid": "u-1"},
        "spec": {"numNodes": nodes, "channel": channel},
        "status": status or {},
    }


def node(name: str, clique: str = "c.1") -> dict[str, Any]:
    addresses = [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": f"10.0.0.{len(name)}"}]
    return {"metadata": {"name": name, "labels": {NVIDIA.clique_label: clique}}, "status": {"addresses": addresses}}


def status(nodes: list[dict[str, Any]], of: dict[str, Any], *, now: float = 100.0) -> dict[str, Any]:
    joined = {n["metadata"]["name"]: 0.0 for n in nodes}
    return status_of(of, nodes, joined=joined, now=now, after=1.0)


def test_the_channels_template_names_its_domain_in_a_config_that_decodes() -> None:
    made = channel_template(domain())
    assert made["metadata"]["labels"] == {
        "resource.nvidia.com/computeDomain": "u-1",
        "resource.nvidia.com/computeDomainTarget": "Workload",
    }
    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == ("d-channel", "team")
    config = made["spec"]["spec"]["devices"]["config"][0]["opaque"]["parameters"]
    assert decode(config, frozenset()) == ComputeDomainChannelConfig(domainID="u-1", allocationMode="All")


def test_at_most_eighteen_nodes_of_a_clique_are_ready() -> None:
    made = status([*(node(f"a{i:02}") for i in range(20)), node("b", "c.2")], domain(20))
    ready = [entry["name"] for entry in made["nodes"] if entry["status"] == "Ready"]
    assert len([name for name in ready if name.startswith("a")]) == MOST_NODES
    assert "b" in ready
    assert made["status"] == "NotReady"
    assert status([node(f"a{i:02}") for i in range(18)], domain(18))["status"] == "Ready"


def test_nodes_without_a_clique_are_ready_however_many() -> None:
    bare = [{"metadata": {"name": f"n{at:02}"}} for at in range(MOST_NODES + 2)]
    made = status(bare, domain(0))
    assert made["status"] == "Ready"
    assert {entry["cliqueID"] for entry in made["nodes"]} == {""}


def test_a_daemon_takes_its_time() -> None:
    early = status_of(domain(1), [node("a")], joined={"a": 99.5}, now=100.0, after=1.0)
    assert (early["status"], early["nodes"][0]["status"]) == ("NotReady", "NotReady")
    late = status_of(domain(1), [node("a")], joined={"a": 99.5}, now=101.0, after=1.0)
    assert (late["status"], late["nodes"][0]["status"]) == ("Ready", "Ready")
    assert status_of(domain(0), [node("a")], joined={"a": 99.5}, now=100.0, after=1.0)["status"] == "NotReady"
    assert status([], domain(0)) == {"status": "Ready"}  # and no nodes: a fresh one has no such field
    assert status([], domain(1))["status"] == "NotReady"


@given(st.lists(st.sets(st.sampled_from("abcdefgh")), min_size=1, max_size=12))
def test_a_node_keeps_its_place_while_others_come_and_go(steps: list[set[str]]) -> None:
    before: dict[str, Any] = {}
    for names in steps:
        made = status([node(name) for name in sorted(names)], domain(0, before))
        places = {entry["name"]: entry["index"] for entry in made.get("nodes", ())}
        assert places.keys() == names
        assert len(set(places.values())) == len(places)
        for entry in before.get("nodes", ()):
            if entry["name"] in places:
                assert places[entry["name"]] == entry["index"]
        before = made
