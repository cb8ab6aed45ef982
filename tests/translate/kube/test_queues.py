"""The queue outside that pays, as the RayCluster's annotation names it."""

from __future__ import annotations

import pytest

from ray_dra.errors import InvalidRequest
from ray_dra.translate.kube.queues import kind_of, name_of, queue_of
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.names import QUEUE_ANNOTATION
from tests.translate.kube.objects import cluster


def test_a_queue_has_an_owner_and_a_name() -> None:
    assert (kind_of("kai/team-a"), name_of("kai/team-a")) == ("kai", "team-a")


@pytest.mark.parametrize(
    ("said", "queue"),
    [("kueue/team-a", "kueue/team-a"), ("", ""), (None, ""), ("kueue/t.x", "kueue/t.x"), ("kai/team-a", "kai/team-a")],
)
def test_the_annotation_names_a_queue(said: str | None, queue: str) -> None:
    raycluster = cluster()
    raycluster["metadata"]["annotations"] = {} if said is None else {QUEUE_ANNOTATION: said}
    assert queue_of(read_raycluster(raycluster)) == queue


@pytest.mark.parametrize(
    "said", ["kueue", "kueue/", "kai/", "volcano/x", "kueue/A", "kai/A", "kueue/a/b", "kueue/a b", "kueue/a\n"]
)
def test_anything_else_is_refused_with_its_place(said: str) -> None:
    raycluster = cluster()
    raycluster["metadata"]["annotations"] = {QUEUE_ANNOTATION: said}
    with pytest.raises(InvalidRequest, match="annotation ray-dra"):
        queue_of(read_raycluster(raycluster))
