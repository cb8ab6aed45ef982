"""Names of attempts and slots."""

from __future__ import annotations

from ray_dra.translate.kube.slots import attempt_name, slot_label


def test_names_are_short_stable_and_new_for_each_attempt() -> None:
    assert attempt_name("g", 0) == attempt_name("g", 0) != attempt_name("g", 1)
    assert len(slot_label(attempt_name("x" * 200, 12), "n" * 250)) <= 63
