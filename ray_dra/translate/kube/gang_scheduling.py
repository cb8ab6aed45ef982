"""An attempt at a gang as a PodGroup of Kubernetes' own, whose pods its scheduler binds all or none. Pure.

A second belt: gates, affinity and claims place a gang whole without it, but a scheduler that has taken one pod may fail
at the next. Of the pods only those of an attempt's first making are in the PodGroup: its minimum is all of them, so one
that takes a lost one's place would wait for as long as others are lost, too. Neighbours: `workers.py` writes the field
into the pods, `adapters.gang_scheduling` asks whether an API server keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_dra.ports.kube_objects import PodGroup, RayCluster
from ray_dra.translate.kube.idle_pod import idle_pod
from ray_dra.translate.kube.raycluster import worker_template
from ray_dra.translate.kube.shapes import Raw, kind_in, meta_of
from ray_dra.translate.names import ATTEMPT_LABEL, GANG_SCHEDULING_ANNOTATION

_NOBODY = "0" * 12


def asks_for_gang_scheduling(cluster: RayCluster) -> bool:
    return cluster.settings.get(GANG_SCHEDULING_ANNOTATION) == "true"


def gang_pod_group(api: str, meta: Mapping[str, Any], members: int, priority_class: str | None) -> dict[str, Any]:
    """Of an attempt that has so many workers. `priority_class`: of all its pods; the scheduler takes none of a group of
    another priority than theirs."""
    ranked = {} if priority_class is None else {"priorityClassName": priority_class}
    return {
        "apiVersion": api,
        "kind": "PodGroup",
        "metadata": dict(meta),
        "spec": {"schedulingPolicy": {"gang": {"minCount": members}}, **ranked},
    }


def put_into_group(spec: dict[str, Any], name: str) -> None:
    """Say in a pod's spec that it is of the PodGroup of this name."""
    spec["schedulingGroup"] = {"podGroupName": name}


def keeps_group(pod: Raw) -> bool:
    """Whether an API server that was given a pod of a PodGroup knows of that."""
    return bool(pod["spec"].get("schedulingGroup"))


def read_gang_pod_group(thing: Raw) -> PodGroup:
    return PodGroup(*meta_of(thing), kind=kind_in(thing["apiVersion"], "PodGroup"))


def version_of(group: PodGroup) -> str:
    """By which it was read."""
    return group.kind.rpartition(" ")[0]


def grouped_probe(cluster: RayCluster) -> dict[str, Any]:
    """A pod of the RayCluster's that names a PodGroup, to be given to an API server that is only to say what it would
    make of it.

    Raises:
        InvalidRequest: there is no worker group to copy.
    """
    made, nowhere = idle_pod(cluster, worker_template(cluster)["template"], _NOBODY, _NOBODY), "rd-00000000-0"
    made["metadata"]["labels"][ATTEMPT_LABEL] = nowhere
    put_into_group(made["spec"], nowhere)
    return made
