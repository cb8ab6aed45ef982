"""Policies as text: one grammar, two spellings, and an error for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private.label_utils import validate_label_selector

from ray_dra.core.model.locality import Connect, Locality
from ray_dra.errors import InvalidRequest
from ray_dra.translate.names import LOCALITY_LABEL
from ray_dra.translate.ray.policy import fitted, parse_policy

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
    ("at_most_cliques(2)", "at_most_cliques.2", Locality(cliques=2)),
    ("prefer:at_most_cliques(3)", "prefer.at_most_cliques.3", Locality(cliques=3, required=False)),
    ("linked_devices", "linked_devices", Locality(connect=Connect.REQUIRED)),
    ("same_clique & linked_devices", "same_clique.and.linked_devices", ONE & Locality(connect=Connect.REQUIRED)),
    ("none", "none", None),
]


@pytest.mark.parametrize(("usual", "label", "meant"), POLICIES)
def test_both_spellings_mean_the_same_and_one_is_a_label(usual: str, label: str, meant: Locality | None) -> None:
    assert parse_policy(usual) == parse_policy(label) == meant
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
        "at_most_cliques",
        "at_most_cliques(0)",
        "at_most_cliques(2, segment=2)",
        "linked_devices(2)",
        "prefer:none",
        "none & same_clique",
        "same_clique & prefer:at_most_cliques(2)",
        "SAME_CLIQUE",
        "same_clique(segment=4",
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


@given(st.text(alphabet="same_cliquprfnotkdv:.()=-&,0123456789 ", max_size=60))
def test_no_text_is_a_fault(text: str) -> None:
    try:
        found = parse_policy(text)
    except InvalidRequest:
        return
    if found is not None:
        found.check()


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
