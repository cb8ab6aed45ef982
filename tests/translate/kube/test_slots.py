"""Names of attempts and slots."""

from __future__ import annotations

from ray_dra.core.model.locality import Locality
from ray_dra.translate.kube.slots import attempt_name, attempt_of_slot, slot_labels, slots_of
from tests.translate.kube.objects import RACKS, allocate, gang


def test_names_are_short_stable_and_new_for_each_attempt() -> None:
    assert attempt_name("g", 0) == attempt_name("g", 0) != attempt_name("g", 1)
    assert len(attempt_name("x" * 200, 12)) <= 20


def test_a_slots_label_names_its_place_in_the_gang_and_not_the_node() -> None:
    """So a slot that is given another node keeps it: the bundles keep their order."""
    answer = allocate(RACKS, gang([{"GPU": 2}] * 6, locality=Locality(segment=6)))
    attempt = attempt_name("g", 0)
    labels = slot_labels(answer)
    assert list(labels.values()) == [f"{attempt}.{number}" for number in range(len(labels))]
    moved = {node: f"other-{at}" for at, node in enumerate(labels)}
    bundles = tuple(placed._replace(node=moved[placed.node]) for placed in answer.bundles)
    assert list(slot_labels(answer._replace(bundles=bundles)).values()) == list(labels.values())
    for node, slot in slots_of(answer).items():
        assert slot.label == labels[node]
        assert slot.name == slot.label.replace(".", "-")
        assert attempt_of_slot(slot.label) == attempt
