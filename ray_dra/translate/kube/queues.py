"""The queue outside that a RayCluster's gangs are paid from, as its annotation names it. Pure."""

from __future__ import annotations

import re

from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate.names import QUEUE_ANNOTATION

KUEUE, KAI = "kueue", "kai"
_QUEUE = re.compile(rf"(?:{KUEUE}|{KAI})/[a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?")
FORMS = "kueue/NAME, of a LocalQueue, or kai/NAME, of a queue of KAI Scheduler's"


def queue_of(cluster: RayCluster) -> str:
    """The queue that the RayCluster's gangs are paid from: kueue/NAME, kai/NAME, or "" for none.

    Raises:
        InvalidRequest: the annotation says anything else.
    """
    said = cluster.settings.get(QUEUE_ANNOTATION, "")
    if said and not is_queue(said):
        raise InvalidRequest(
            "The RayCluster names no queue that is known.",
            place=f"RayCluster {cluster.namespace}/{cluster.name}, annotation {QUEUE_ANNOTATION}",
            wanted=shown(said),
            available=FORMS,
        )
    return said


def is_queue(said: str) -> bool:
    """Whether it names a queue in a form that is known."""
    return _QUEUE.fullmatch(said) is not None


def kind_of(queue: str) -> str:
    """Whose queue it is."""
    return queue.partition("/")[0]


def name_of(queue: str) -> str:
    """What its owner calls it."""
    return queue.partition("/")[2]
