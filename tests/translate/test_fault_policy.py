"""What is done about faults, as text, from wherever it is carried."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.gangs.repair import FaultRule, OnFault, Way, on_fault
from ray_dra.errors import InvalidRequest
from ray_dra.translate.fault_policy import fault_rules_of, parse_fault_rules, parse_on_fault, said_of_faults
from ray_dra.translate.names import DEFAULT_ON_FAULT_VARIABLE

WAYS = st.permutations([way.value for way in Way if way not in (Way.DEGRADE, Way.SHRINK)]).flatmap(
    lambda ways: st.tuples(st.integers(1, len(ways)), st.booleans()).map(
        lambda cut: (*ways[: cut[0]], *(["degrade"] if cut[1] else []))
    )
)
GRACES = st.one_of(st.none(), st.integers(0, 86_400), st.sampled_from([0.5, 2.25, 3600.125]))


@given(ways=WAYS, grace=GRACES)
def test_both_forms_say_the_same(ways: tuple[str, ...], grace: float | None) -> None:
    said = on_fault(ways) if grace is None else on_fault(ways, grace)
    text = ",".join([*ways, *([] if grace is None else [f"grace={grace}"])])
    assert parse_on_fault(text) == parse_on_fault(text.replace(",", " , ")) == said
    assert parse_on_fault(text.replace(",", ".").replace("=", "-")) == said, "as a label's value"
    assert parse_fault_rules(text) == (FaultRule("", said),)
    assert parse_fault_rules(f"train*={text};degrade") == (FaultRule("train*", said), FaultRule("", OnFault()))


@pytest.mark.parametrize(
    "said",
    [
        "mend",
        "shrink",  # no policy says of how many bundles it may consist
        "restart,",
        "grace=5",
        "restart,grace=",
        "restart,grace=x",
        "restart,grace=1_0",
        "restart,wait=5",
        "restart.grace-x",
        "degrade,restart",
        "restart,restart",
        "=restart",
        "train*=",
        "train*=mend",
        "restart;",
        "restart,grace=nan",
        "restart,grace=-1",
        "\u0663",
        "x" * 5000,
        "",
        7,
        None,
        ["restart"],
    ],
)
def test_what_cannot_be_done_is_refused_and_says_where(said: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_fault_rules(said, "here")
    assert refused.value.place in ("here", "grace")


def test_a_rule_that_is_missing_is_told_so() -> None:
    for said in ("restart,grace=60;", ";", "restart;;degrade"):
        with pytest.raises(InvalidRequest, match="between two rules"):
            parse_fault_rules(said)


@given(st.text(max_size=40))
def test_any_other_text_is_refused_or_read(said: str) -> None:
    for parse in (parse_on_fault, parse_fault_rules):
        try:
            parse(said)
        except InvalidRequest:
            pass


def test_a_rule_for_the_name_comes_before_what_is_said_of_all_and_the_first_speaks() -> None:
    texts = {"address": "replace", "environment": "train*=restart;degrade", "nobody": ""}
    assert said_of_faults("train-1", texts) == on_fault("restart")
    assert said_of_faults("Train-1", texts) == on_fault("replace"), "as names of files"
    assert said_of_faults("", texts) == on_fault("replace")
    assert said_of_faults("serve", {"address": "train*=restart"}) is None
    assert said_of_faults("serve", {}) is None


def test_a_variable_that_is_not_set_says_nothing() -> None:
    assert fault_rules_of({}, "V") == fault_rules_of({"V": " "}, "V") == ()
    assert fault_rules_of({"V": " restart "}, "V") == (FaultRule("", on_fault("restart")),)
    with pytest.raises(InvalidRequest) as refused:
        fault_rules_of({DEFAULT_ON_FAULT_VARIABLE: "mend"}, DEFAULT_ON_FAULT_VARIABLE)
    assert refused.value.place == DEFAULT_ON_FAULT_VARIABLE
