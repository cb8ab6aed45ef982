"""Policies as text: one grammar, two spellings, and an error for everything else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private.label_utils import validate_label_selector

from ray_dra.core.model.locality import Connect, Locality, fitted
from ray_dra.errors import InvalidRequest
from ray_dra.translate.names import LOCALITY_LABEL
from ray_dra.translate.ray.policy import (
    NEAREST,
    Policy,
    Rule,
    parse_policy,
    parse_rules,
    policy_for,
    policy_label,
    set_of,
)

ONE = Locality(cliques=1)
POLICIES: list[tuple[str, str, Locality | None]] = [
    ("same_clique", "same_clique", ONE),
    ("same_clique(segment=4)", "same_clique.segment-4", Locality(segment=4)),
    ("prefer:same_clique", "prefer.same_clique", Locality(cliques=1, required=False)),
    (
        "prefer:same_clique(patience=600)",
        "prefer.same_clique.patience-600",
        Locality(cliques=1, required=False, patience=600.0),
    ),
    (
        "prefer:same_clique(segment=2, patience=5)",
        "prefer.same_clique.segment-2.patience-5",
        Locality(segment=2, required=False, patience=5.0),
    ),
    (
        "prefer : same_clique ( patience = 0.5 )",
        "prefer.same_clique.patience-0.5",
        Locality(cliques=1, required=False, patience=0.5),
    ),
    (
        "prefer:same_clique(speed=0.5)",
        "prefer.same_clique.speed-0.5",
        Locality(cliques=1, required=False, outside_speed=0.5),
    ),
    (
        "prefer:same_clique(patience=0)",
        "prefer.same_clique.patience-0",
        Locality(cliques=1, required=False, patience=0.0),
    ),
    ("at_most_cliques(2)", "at_most_cliques.2", Locality(cliques=2)),
    ("prefer:at_most_cliques(3)", "prefer.at_most_cliques.3", Locality(cliques=3, required=False)),
    ("linked_devices", "linked_devices", Locality(connect=Connect.REQUIRED)),
    ("same_clique & linked_devices", "same_clique.and.linked_devices", ONE & Locality(connect=Connect.REQUIRED)),
    ("none", "none", None),
]


@pytest.mark.parametrize(("usual", "label", "meant"), POLICIES)
def test_both_spellings_mean_the_same_and_one_is_a_label(usual: str, label: str, meant: Locality | None) -> None:
    assert parse_policy(usual) == parse_policy(label) == (None if meant is None else Policy(meant))
    assert validate_label_selector({LOCALITY_LABEL: label}) is None


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "same",
        "same_clique()x",
        "same_clique(4)",
        "same_clique(segment=0)",
        "same_clique(segment=1.5)",
        "same_clique(segment=2,segment=4)",
        "same_clique(patience=600)",
        "prefer:same_clique(patience=-1)",
        "prefer:same_clique(patience=1e9)",
        "prefer:same_clique(runs_for=0)",
        "prefer:same_clique(runs_for=1e9)",
        "prefer:same_clique(speed=0)",
        "prefer:same_clique(speed=1.5)",
        "same_clique(speed=0.5)",
        "linked_devices(speed=0.5)",
        "none(runs_for=60)",
        "none(queue=a)",
        "same_clique(queue=)",
        "same_clique(queue=a, queue=a)",
        "same_clique(queue=a) & linked_devices(queue=b)",
        "same_clique(queue=a b)",
        "linked_devices(runs_for=60) & same_clique(runs_for=61)",
        "at_most_cliques",
        "at_most_cliques(0)",
        "at_most_cliques(2, segment=2)",
        "linked_devices(2)",
        "prefer:none",
        "none & same_clique",
        "same_clique & prefer:at_most_cliques(2)",
        "SAME_CLIQUE",
        "same_clique(segment=4",
        "same_clique(segment=1 6)",  # which is not 16
        "at_most_cliques(1 2)",
        "prefer.at_most_cliques.patience-1.5",  # nor 5 cliques
        "x" * 300,
        "same_cliqué",
        7,
        None,
    ],
)
def test_anything_else_is_refused_and_says_what_a_policy_is(bad: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_policy(bad, "there")
    assert caught.value.place == "there"
    assert "same_clique(segment=4)" in caught.value.available


@pytest.mark.parametrize(
    ("usual", "label", "meant"),
    [
        ("same_clique(scope=job)", "same_clique.scope-job", Policy(ONE, "job")),
        ("same_clique(set=16)", "same_clique.set-16", Policy(ONE, "name", 16)),
        (
            "prefer:at_most_cliques(2, scope=application, set=3)",
            "prefer.at_most_cliques.2.scope-application.set-3",
            Policy(Locality(cliques=2, required=False), "application", 3),
        ),
        ("same_clique(segment=2, scope=name)", "same_clique.segment-2.scope-name", Policy(Locality(segment=2), "name")),
        ("same_clique(queue=team-a)", "same_clique.queue-team-a", Policy(ONE, queue="team-a")),
        (
            "prefer:same_clique(scope=job, queue=5_G, patience=1.5)",
            "prefer.same_clique.scope-job.queue-5_G.patience-1.5",
            Policy(Locality(cliques=1, required=False, patience=1.5), "job", queue="5_G"),
        ),
        (
            "linked_devices(queue=a) & same_clique(queue=a)",
            "linked_devices.queue-a.and.same_clique",
            Policy(ONE & Locality(connect=Connect.REQUIRED), queue="a"),
        ),
        (
            "prefer:same_clique(runs_for=3600)",
            "prefer.same_clique.runs_for-3600",
            Policy(Locality(cliques=1, required=False), runs_for=3600.0),
        ),
        (
            "linked_devices(runs_for=1.5) & same_clique",
            "linked_devices.runs_for-1.5.and.same_clique",
            Policy(ONE & Locality(connect=Connect.REQUIRED), runs_for=1.5),
        ),
        (
            "linked_devices & same_clique(set=2)",
            "linked_devices.and.same_clique.set-2",
            Policy(ONE & Locality(connect=Connect.REQUIRED), "name", 2),
        ),
        (
            "same_clique(scope=job) & same_clique(set=4)",
            "same_clique.scope-job.and.same_clique.set-4",
            Policy(ONE, "job", 4),
        ),
    ],
)
def test_a_policy_has_a_scope_and_the_number_of_groups_in_it(usual: str, label: str, meant: Policy) -> None:
    assert parse_policy(usual) == parse_policy(label) == meant
    assert validate_label_selector({LOCALITY_LABEL: label}) is None


@pytest.mark.parametrize(
    "bad",
    [
        "same_clique(scope=rack)",
        "same_clique(scope=job, scope=name)",
        "same_clique(set=0)",
        "same_clique(set=2.5)",
        "same_clique(set=100000)",
        "same_clique(segment=2, set=4)",
        "same_clique(segment=2) & same_clique(set=4)",
        "same_clique(scope=job) & same_clique(scope=name)",
        "same_clique(set=2) & same_clique(set=4)",
        "linked_devices(scope=job)",
        "none(scope=job)",
        "none(set=2)",
    ],
)
def test_a_set_that_cannot_be_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_policy(bad)


VERL = Policy(ONE, "name", 4)
RULES = "*verl_group_*=same_clique(set=4); dp_?=none ;prefer:same_clique.patience-5"


def test_a_text_may_have_rules_by_name() -> None:
    rest = Policy(Locality(cliques=1, required=False, patience=5.0))
    assert parse_rules(RULES) == (Rule("*verl_group_*", VERL), Rule("dp_?", None), Rule("", rest))
    assert parse_rules("same_clique(segment=4)") == (Rule("", Policy(Locality(segment=4))),)
    assert parse_rules("none") == (Rule("", None),)
    for bad in ("", "a=;none", "=none", "a=b=none", "same_clique;", "x" * 3000, None, "a=nearby"):
        with pytest.raises(InvalidRequest):
            parse_rules(bad)


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("", (), NEAREST),
        ("actor_rolloutverl_group_4_4:0", (RULES,), VERL),
        ("dp_0", (RULES,), None),
        ("dp_0", ("same_clique", "", RULES), None),  # a rule by name comes before what is said of all
        ("dp_0", ("dp*=linked_devices", RULES), Policy(Locality(connect=Connect.REQUIRED))),
        ("other", ("dp_*=none", "same_clique"), Policy(ONE)),
        ("other", ("dp_*=none",), NEAREST),
        ("", ("*=none", "same_clique"), None),
    ],
)
def test_the_policy_for_a_name(name: str, texts: tuple[str, ...], expected: Policy | None) -> None:
    assert policy_for(name, texts) == expected


@pytest.mark.parametrize(
    ("scope", "one", "other", "same"),
    [
        ("job", "a", "b", True),
        ("name", "actor_rolloutverl_group_4_4:0", "actor_rolloutverl_group_4_4:11", True),
        ("name", "actor_rolloutverl_group_4_4:0", "criticverl_group_4_4:0", False),
        ("name", "dp_1", "dp-2", True),
        ("name", "dp_1", "dp2_1", False),
        ("name", "", "", True),
        ("name", "SERVE_REPLICA::app#llm#x7", "SERVE_REPLICA::app#llm#y8", True),
        ("name", "SERVE_REPLICA::app#llm#x7", "SERVE_REPLICA::app#embed#y8", False),
        ("name", "SERVE_GANG::app_llm_0_aa", "SERVE_GANG::app_llm_1_bb", True),
        ("application", "SERVE_REPLICA::app#llm#x7", "SERVE_REPLICA::app#embed#y8", True),
        ("application", "SERVE_REPLICA::app#llm#x7", "SERVE_REPLICA::other#llm#x7", False),
        ("application", "train", "", True),
    ],
)
def test_groups_are_a_set_by_the_scope(scope: str, one: str, other: str, same: bool) -> None:
    assert (set_of(scope, "job", "here", one) == set_of(scope, "job", "here", other)) is same
    assert set_of(scope, "job", "here", one) != set_of(scope, "another", "here", one)


@given(st.text(alphabet="same_cliquprfnotkdvjb:.()=-&,;*0123456789 ", max_size=60))
def test_no_text_is_a_fault(text: str) -> None:
    try:
        found = parse_policy(text)
        parse_rules(text)
    except InvalidRequest:
        return
    if found is not None:
        found.locality.check()


@pytest.mark.parametrize(
    ("policy", "bundles", "one_node", "expected"),
    [
        (Locality(segment=4), 8, False, Locality(segment=4)),
        (Locality(segment=4), 4, False, ONE),
        (Locality(segment=4), 1, False, ONE),
        (Locality(segment=4), 8, True, ONE),
        (Locality(cliques=2), 1, True, Locality(cliques=2)),
        (
            Locality(segment=4, required=False, patience=3.0),
            2,
            False,
            Locality(cliques=1, required=False, patience=3.0),
        ),
    ],
)
def test_a_policy_for_many_groups_fits_small_ones(
    policy: Locality, bundles: int, one_node: bool, expected: Locality
) -> None:
    assert fitted(policy, bundles, one_node=one_node) == expected


@given(
    st.builds(
        Locality,
        cliques=st.none() | st.integers(1, 5),
        segment=st.none() | st.integers(1, 5),
        required=st.booleans(),
        patience=st.none() | st.sampled_from([0.0, 0.5, 600.0]),
        exclusive=st.booleans(),
        connect=st.sampled_from(Connect),
        outside_speed=st.none() | st.sampled_from([0.25, 1.0]),
    )
)
def test_a_locality_as_a_label_says_the_same_or_is_refused(locality: Locality) -> None:
    try:
        label = policy_label(locality)
    except InvalidRequest:
        waits = locality.patience is not None or locality.outside_speed is not None
        plain = locality.required and not waits and not locality.exclusive
        sayable = locality.cliques is not None or locality.segment is not None
        assert not (plain and sayable and locality.connect is not Connect.ANY), locality
        return
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", label)
    assert parse_policy(label) == Policy(locality)


@pytest.mark.parametrize(
    ("locality", "label"),
    [
        (Locality(cliques=1), "same_clique"),
        (Locality(segment=4), "same_clique.segment-4"),
        (Locality(cliques=1, required=False, patience=600.0), "prefer.same_clique.patience-600"),
        (Locality(cliques=2, segment=4), "same_clique.segment-4.and.at_most_cliques.2"),
        (Locality(cliques=1, connect=Connect.REQUIRED), "same_clique.and.linked_devices"),
    ],
)
def test_labels_are_what_one_would_write(locality: Locality, label: str) -> None:
    assert policy_label(locality) == label
