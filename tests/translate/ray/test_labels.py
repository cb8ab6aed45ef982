"""Ray's node labels, and label selectors by Ray's own rules: of what is taken here, Ray takes all."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray._private.label_utils import validate_label_key, validate_label_selector_value, validate_label_value

from ray_dra.errors import InvalidRequest
from ray_dra.translate.names import ACCELERATOR_TYPE, GPU_DOMAIN, NODE_LABEL, TRAY_LABEL
from ray_dra.translate.ray.labels import check_selector, node_labels
from tests.core.machines import node, rack

PIECES = st.sampled_from([*"aZ9_.-/!(), ", "in(", "!in(", "x" * 60, "ray.io/"])
TEXTS = st.lists(PIECES, max_size=5).map("".join)


def taken(key: str, value: str) -> bool:
    try:
        found = check_selector({key: value}, "bundle_label_selector[0]")
    except InvalidRequest as error:
        assert error.place.startswith(("bundle_label_selector[0]", "a label of bundle_label_selector[0]"))
        return False
    assert found == {key: value}
    return True


@given(TEXTS)
@settings(max_examples=500)
def test_a_key_that_is_taken_ray_takes(key: str) -> None:
    assert not taken(key, "a") or validate_label_key(key) is None


@given(TEXTS)
@settings(max_examples=500)
def test_a_value_that_is_taken_ray_takes(value: str) -> None:
    assert not taken("zone", value) or not value or validate_label_selector_value(value) is None


def test_a_selector_without_a_value_is_taken() -> None:
    """Ray's own: a label that is there with no value."""
    assert taken("zone", "")


@pytest.mark.parametrize("value", ["a", "!a", "in(a,b)", "!in(a, b)", "x" * 63])
@pytest.mark.parametrize("key", ["zone", "ray.io/zone", "a.b-c.d/e_f.g", "x" * 63 + "/" + "y" * 63])
def test_each_form_of_rays_selectors_is_taken(key: str, value: str) -> None:
    assert check_selector({key: value}, "here") == {key: value}
    assert validate_label_key(key) is None
    assert validate_label_selector_value(value) is None


@pytest.mark.parametrize(
    "key", ["", "/a", "-/a", "a-/b", "a..b/c", ".a/b", "a/b/c", "a/", "_", "x" * 64, "x" * 64 + "/a"]
)
def test_a_label_of_no_form_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest):
        check_selector({key: "a"}, "here")


def test_a_nodes_labels_say_its_name_clique_and_tray_in_rays_form() -> None:
    first = rack("r", 1)[0]
    labels = node_labels(first, accelerator_type="GB200")
    assert labels.keys() - {TRAY_LABEL} == {NODE_LABEL, GPU_DOMAIN, ACCELERATOR_TYPE}
    assert labels[NODE_LABEL] == first.name
    assert labels[GPU_DOMAIN] == first.clique
    assert node_labels(node("bare", 4)).keys() == {NODE_LABEL}


@given(st.text(string.printable, min_size=1, max_size=80))
def test_whatever_a_node_is_called_its_label_is_one_of_rays(name: str) -> None:
    (value,) = node_labels(node(name, 1)).values()
    validate_label_value(value)
    assert value
