"""What may stand behind `ray_dra://`; whatever else is refused before anything starts."""

from __future__ import annotations

import pytest

from ray_dra.errors import InvalidAddress
from ray_dra.processes import address as settings
from ray_dra.processes.address import Embedded, Running, parse_address
from ray_dra.simulated.cluster import LocalCluster

BAD_ADDRESSES = [
    ("embeded", "HOST:PORT"),
    ("embedded?profile=gb300", "gb300-nvl72"),
    ("embedded?node=4", "nodes"),
    ("embedded?nodes=four", "whole number"),
    ("embedded?nodes=0", "whole number"),
    ("embedded?nodes=1000", "whole number"),
    ("embedded?nodes=4&nodes=5", ""),
    ("embedded?nodes", "name=value"),
    ("h:1?locality=same_clique&linked_devices", ".and. instead of &"),
    ("embedded?profile=hgx-h100&cliques=2", "leave it out"),
    ("embedded?nodes=4&cliques=9", "1 to 18"),
    ("embedded?profile=mixed&nodes=3", "leave them out"),
    ("host:port", "HOST:PORT"),
    ("host:99999", "HOST:PORT"),
    ("host:6379?nodes=1", "HOST:PORT"),
    ("host:6379?locality=somewhere", "same_clique"),
    ("embedded?locality=", "same_clique"),
    ("host:6379?queue=", "63 letters"),
    ("embedded?queue=a.b", "63 letters"),
    ("host:6379?on_fault=mend", "degrade"),
    ("embedded?on_fault=", "degrade"),
    ("kubernetes?on_fault=train*=restart,grace=x", "grace"),
    ("?locality=prefer:none", "same_clique"),
]


@pytest.mark.parametrize(("address", "allowed"), BAD_ADDRESSES)
def test_a_bad_address_lists_what_is_allowed_before_anything_starts(address: str, allowed: str) -> None:
    def start() -> None:
        target = parse_address(address)
        assert isinstance(target, Embedded)
        LocalCluster.start(target.profile, nodes=target.nodes, cliques=target.cliques)

    with pytest.raises(InvalidAddress) as caught:
        start()
    assert allowed in caught.value.available
    assert caught.value.reason


def test_good_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_address("embedded") == Embedded()
    assert parse_address("10.0.0.1:6379") == Running(address="10.0.0.1:6379")
    assert parse_address("", {"RAY_CLUSTER_NAME": "c", "FQ_RAY_IP": "head.ns.svc"}) == Running(
        address="head.ns.svc:6379"
    )
    assert parse_address("", {"RAY_GCS_ADDRESS": "10.0.0.2:6379"}) == Running(address="10.0.0.2:6379")
    policy = "prefer:same_clique(patience=600)"
    for address in (f"embedded?locality={policy}&nodes=2", f"10.0.0.1:6379?locality={policy}"):
        assert parse_address(address).locality == policy
        assert parse_address(address).on_fault == ""
        assert parse_address(f"{address}&on_fault=train*=replace,grace=60;degrade").locality == policy
    head = {"RAY_CLUSTER_NAME": "c", "FQ_RAY_IP": "head", "RAY_CLUSTER_NAMESPACE": "n"}
    for address in ("?locality=none", "kubernetes?locality=none"):
        assert parse_address(address, head).locality == "none"
        assert parse_address(address.replace("locality=none", "on_fault=replace"), head).on_fault == "replace"
    for address in ("?queue=team-a", "kubernetes?queue=team-a", "10.0.0.1:6379?locality=none&queue=team-a"):
        assert parse_address(address, head).queue == "team-a"
    assert parse_address("embedded?queue=team-a") == Embedded(queue="team-a")
    monkeypatch.setattr(settings, "_beside", lambda: None)  # whatever Ray runs on this machine
    with pytest.raises(InvalidAddress, match="there is none here"):
        parse_address("", {})
