"""Cliques' label values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.clique import label_value


@given(st.text(min_size=1, max_size=200))
def test_label_values_are_labels(text: str) -> None:
    value = label_value(text)
    assert 1 <= len(value) <= 63
    assert all(c.isascii() and (c.isalnum() or c in "-._") for c in value)
    assert value[0].isalnum()
    assert value[-1].isalnum()
    assert label_value(value) == value
