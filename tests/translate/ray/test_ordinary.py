"""What of Ray's own calls is planned, by which policy, and what is left to Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ray_dra.core.gangs.gang import GroupSet
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.errors import InvalidRequest
from ray_dra.translate.names import LOCALITY_LABEL, ON_FAULT_LABEL
from ray_dra.translate.ray.ordinary import Call, group_set, policy_of, request_of, without_on_fault, without_policy
from ray_dra.translate.ray.policy import NEAREST

ONE = Locality(cliques=1)
GROUP = "0" * 36
WHOLE = [{"GPU": 4, "CPU": 1}] * 2


def asked(call: Call, policies: Sequence[str] = (), name: str = "") -> GangRequest | None:
    return request_of(call, GROUP, policy_of(call, name, policies))


@pytest.mark.parametrize(
    "call",
    [
        Call([{"CPU": 1}] * 2),
        Call([{"CPU": 1, "GPU": 0}]),
        Call([{"GPU": 0.5}]),
        Call([{"GPU": 1}, {"GPU": 1.5}]),
        Call([{"GPU": 1}], "STRICT_PACK", soft_node="a" * 56),
        Call(WHOLE, topology_strategy={"rack": "STRICT_PACK"}),
        Call([{"GPU": 2000}]),
        Call([{"GPU": 1, "CPU": 1e-9}]),
        Call(WHOLE, policy="none"),
    ],
)
def test_left_to_ray(call: Call) -> None:
    assert asked(call) is None


@pytest.mark.parametrize(
    ("call", "policies", "expected"),
    [
        (Call(WHOLE), (), NEAREST.locality),
        (Call(WHOLE), ("", "", "same_clique"), ONE),
        (Call(WHOLE), ("", "at_most_cliques(2)", "same_clique"), Locality(cliques=2)),
        (Call(WHOLE), ("same_clique", "at_most_cliques(2)"), ONE),
        (Call(WHOLE, policy="at_most_cliques.2"), ("same_clique",), Locality(cliques=2)),
        (Call(WHOLE, topology_strategy={"ray.io/gpu-domain": "STRICT_PACK"}), ("prefer:same_clique",), ONE),
        (Call(WHOLE, topology_strategy={"ray.io/node-id": "STRICT_SPREAD"}), ("same_clique",), ONE),
        (Call(WHOLE, selectors=[{"ray.io/accelerator-type": "GB200"}] * 2), (), ONE),
        (Call(WHOLE, selectors=[{"ray.io/accelerator-type": "in(H100, GB300)"}] * 2), (), ONE),
        (Call(WHOLE, selectors=[{"ray.io/accelerator-type": "H100"}] * 2), (), NEAREST.locality),
        (Call([{"GPU": 1}] * 4), ("same_clique(segment=2)",), Locality(segment=2)),
        (Call([{"GPU": 1}]), ("same_clique(segment=2)",), ONE),
    ],
)
def test_the_first_that_speaks_says_the_policy(call: Call, policies: tuple[str, ...], expected: Locality) -> None:
    request = asked(call, policies)
    assert request is not None
    assert request.locality == expected
    assert request.gang == GROUP


def test_the_rest_of_the_call_is_asked_for_as_it_is() -> None:
    labels = [{"zone": "a"}, {"zone": "!b"}]
    request = asked(Call([{"GPU": 2, "node:10.0.0.1": 0.001}, {"CPU": 1, "GPU": 0}], "SPREAD", labels))
    assert request is not None
    assert [bundle.count for bundle in request.bundles] == [2, 0]
    assert [dict(bundle.resources) for bundle in request.bundles] == [{"node:10.0.0.1": 0.001}, {"CPU": 1.0}]
    assert [dict(bundle.labels) for bundle in request.bundles] == labels
    assert request.strategy is Strategy.SPREAD
    spread = asked(Call(WHOLE, topology_strategy={"ray.io/node-id": "STRICT_SPREAD"}))
    assert spread is not None
    assert spread.strategy is Strategy.STRICT_SPREAD


def test_a_policy_that_cannot_be_for_this_group_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="do not divide"):
        asked(Call([{"GPU": 1}] * 3), ("same_clique(segment=2)",))


@pytest.mark.parametrize(
    ("selectors", "policy", "rest"),
    [
        (None, "", None),
        ([{}, {}], "", [{}, {}]),
        ([{LOCALITY_LABEL: "none"}] * 2, "none", None),
        ([{LOCALITY_LABEL: "same_clique(segment=2)", "zone": "a"}, {}], "same_clique(segment=2)", [{"zone": "a"}, {}]),
        ("no list", "", "no list"),
        ([7], "", [7]),
    ],
)
def test_our_key_is_taken_out_of_the_selectors(selectors: Any, policy: str, rest: Any) -> None:
    assert without_policy(selectors) == (policy, rest)


@pytest.mark.parametrize("said", [["none", "same_clique"], ["somewhere"], [7], [["none"]], ["none", {}]])
def test_our_key_says_one_policy(said: list[Any]) -> None:
    with pytest.raises(InvalidRequest):
        without_policy([{LOCALITY_LABEL: policy} for policy in said])


def test_what_a_call_says_of_faults_is_taken_out_too() -> None:
    selectors = [{ON_FAULT_LABEL: "replace.grace-60", LOCALITY_LABEL: "same_clique", "zone": "a"}, {}]
    said, rest = without_on_fault(selectors)
    assert said == on_fault("replace", 60.0)
    assert without_policy(rest) == ("same_clique", [{"zone": "a"}, {}])
    assert without_on_fault([{ON_FAULT_LABEL: "restart"}]) == (on_fault("restart"), None)
    for selectors in (None, "no list", [7], [{"zone": "a"}]):  # type: ignore[assignment]
        assert without_on_fault(selectors) == (None, selectors)
    for wrong in (["replace", "restart"], ["mend"], [7], [""]):
        with pytest.raises(InvalidRequest) as refused:
            without_on_fault([{ON_FAULT_LABEL: said} for said in wrong])
        assert ON_FAULT_LABEL in str(refused.value)


def test_a_rule_by_name_comes_before_the_address_and_after_the_call() -> None:
    texts = ("same_clique", "train*=none")
    assert asked(Call(WHOLE), texts, "other") is not None
    assert asked(Call(WHOLE), texts, "train-1") is None
    assert asked(Call(WHOLE, policy="same_clique"), texts, "train-1") is not None


def test_the_set_of_a_group() -> None:
    alone = policy_of(Call(WHOLE), "dp_1", ("same_clique",))
    pulled = policy_of(Call(WHOLE, policy="same_clique.scope-job"), "dp_1", ())
    whole = policy_of(Call(WHOLE), "dp_1", ("dp_*=same_clique(set=16)",))
    assert alone is not None
    assert pulled is not None
    assert whole is not None
    assert group_set(alone, "job", "", "dp_1") is None
    assert group_set(pulled, "job", "", "dp_1") == GroupSet("job")
    assert group_set(whole, "job", "", "dp_1") == GroupSet("job//dp", 16)
