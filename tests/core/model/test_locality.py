"""Localities in words, as the command line and errors have them."""

from __future__ import annotations

import pytest

from ray_dra.core.model.locality import Connect, Locality


@pytest.mark.parametrize(
    ("locality", "said"),
    [
        (Locality(), "anywhere"),
        (Locality(cliques=1, exclusive=True), "one clique, whole cliques exclusively"),
        (Locality(cliques=1, connect=Connect.REQUIRED), "one clique, linked devices"),
        (Locality(cliques=1, required=False, patience=9.0), "one clique (preferred, waited for 9 s)"),
        (
            Locality(cliques=2, segment=4, required=False, connect=Connect.REQUIRED),
            "segments of 4 bundles in one clique each, at most 2 cliques (preferred), linked devices",
        ),
    ],
)
def test_a_locality_in_words(locality: Locality, said: str) -> None:
    assert str(locality) == said
