"""Claims and ComputeDomains before those that admit them: NVIDIA's webhook, and an API server's library with NVIDIA's
definition and with the simulated driver's. By hand: the library has to be built, and NVIDIA's files are given by
whoever has them (`nvidia_driver.py`); without them their tests are skipped."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings

from ray_dra.simulated.dra.configs import BadConfig, decode
from ray_dra.simulated.dra.domains import channel_template, status_of
from ray_dra.simulated.dra.gates import GATES
from ray_dra.translate.quantity import quantity
from tests.cluster import nvidia_driver
from tests.cluster.custom_resources import SIMULATED, CustomResources, custom_resources
from tests.cluster.nvidia_driver import Webhook
from tests.cluster.nvidia_objects import gangs, nearly, quantities
from tests.simulated.domain_answers import DOMAINS, Written
from tests.simulated.nvidia_answers import CONFIGS, Said

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(3600)]
GOLDEN = Path(__file__).parents[1] / "translate" / "golden"
MANY = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def library() -> Iterator[CustomResources]:
    with custom_resources() as made:
        yield made


@pytest.fixture(scope="module")
def webhook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    with nvidia_driver.webhook(tmp_path_factory.mktemp("webhook")) as made:
        yield made


@pytest.fixture(scope="module", params=["the simulated driver's", "NVIDIA's"])
def definition(request: pytest.FixtureRequest) -> Path:
    return SIMULATED if request.param != "NVIDIA's" else nvidia_driver.given("computedomains.yaml")


@pytest.mark.parametrize("written", DOMAINS, ids=[each.name for each in DOMAINS])
def test_a_compute_domain_is_taken_as_noted(library: CustomResources, definition: Path, written: Written) -> None:
    why = library.refused(definition, written.thing, written.old, status=written.status)
    assert (not why) is (written.taken if definition == SIMULATED else written.theirs), why


def test_the_compute_domains_of_any_gang_are_taken(library: CustomResources, definition: Path) -> None:
    """And their status, as the simulated driver tells it; their spec stays as it is."""
    made = 0

    @MANY
    @given(gangs())
    def check(things: list[dict[str, Any]]) -> None:
        nonlocal made
        for thing in things:
            if thing["kind"] == "ComputeDomain":
                made += 1
                assert not library.refused(definition, thing)
                labels = {"nvidia.com/gpu.clique": "c.1"}
                node = {"metadata": {"name": "n0", "labels": labels}, "status": {"addresses": []}}
                for nodes in ([], [node]):
                    status = status_of(thing, nodes, joined={}, now=1.0, after=0.0)
                    assert not library.refused(definition, {**thing, "status": status}, thing, status=True)
                changed = copy.deepcopy(thing)
                changed["spec"]["numNodes"] += 1
                assert library.refused(definition, changed, thing)

    check()
    assert made > 50


def test_what_our_definition_takes_nvidias_takes(library: CustomResources) -> None:
    theirs = nvidia_driver.given("computedomains.yaml")
    taken = 0

    @MANY
    @given(nearly([written.thing for written in DOMAINS]))
    def check(thing: dict[str, Any]) -> None:
        nonlocal taken
        if not library.refused(SIMULATED, thing):
            taken += 1
            assert not library.refused(theirs, thing)

    check()
    assert taken > 50


@pytest.mark.parametrize("said", CONFIGS, ids=[each.name for each in CONFIGS])
def test_a_configuration_is_taken_as_noted(webhook: Webhook, tmp_path: Path, said: Said) -> None:
    if said.gates:
        why = webhook.refused_configs(said.thing)
    else:
        with nvidia_driver.webhook(tmp_path, ()) as plain:
            why = plain.refused_configs(said.thing)
    assert (not why) is said.theirs or any(said.since), why


def test_the_golden_claims_are_taken(webhook: Webhook) -> None:
    seen = 0
    for file in sorted(GOLDEN.glob("*.yaml")):
        for thing in yaml.safe_load_all(file.read_text()):
            for claim in _claims_in(thing):
                seen += 1
                assert not webhook.refused(claim), file.name
    assert seen > 20


def test_the_claims_of_any_gang_are_taken(webhook: Webhook) -> None:
    """And the claim templates of their channels, as the simulated driver makes them."""
    configured = 0

    @MANY
    @given(gangs())
    def check(things: list[dict[str, Any]]) -> None:
        nonlocal configured
        for thing in things:
            if thing["kind"] == "ComputeDomain":
                template = channel_template({**thing, "metadata": {**thing["metadata"], "uid": "u-1"}})
                (config,) = template["spec"]["spec"]["devices"]["config"]
                assert not webhook.refused(template)
                assert not webhook.refused_configs(config["opaque"]["parameters"])
            else:
                configured += bool(thing["spec"]["devices"].get("config"))
                assert not webhook.refused(thing)

    check()
    assert configured > 100


def test_what_the_simulated_driver_takes_nvidias_takes(webhook: Webhook) -> None:
    taken = 0

    @MANY
    @given(nearly([said.thing for said in CONFIGS if said.parts and not any(said.since)]))
    def check(parameters: dict[str, Any]) -> None:
        nonlocal taken
        try:
            decode(parameters, GATES)
        except BadConfig:
            return
        taken += 1
        assert not webhook.refused_configs(parameters)

    check()
    assert taken > 50


def test_a_quantity_is_one_to_both(webhook: Webhook) -> None:
    """But for less than nothing, which no node has; and a suffix alone, 0 to Kubernetes, is not asked."""

    @MANY
    @example("1E3")
    @example("+.5Mi")
    @given(quantities())
    def check(said: str) -> None:
        try:
            quantity(said.removeprefix("-"))
            ours = not said.startswith("--") and not said.startswith("-+")
        except ValueError:
            ours = False
        limits = {"defaultPinnedDeviceMemoryLimit": said}
        why = webhook.refused_configs({**CONFIGS[0].thing, "sharing": {"strategy": "MPS", "mpsConfig": limits}})
        assert (not why) is ours, why

    check()


def _claims_in(thing: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(thing, dict) and thing.get("kind") == "ResourceClaim":
        yield thing
    elif isinstance(thing, dict | list):
        for each in thing.values() if isinstance(thing, dict) else thing:
            yield from _claims_in(each)
