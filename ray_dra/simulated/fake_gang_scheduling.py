"""Kubernetes' own gang scheduling for `fake_kube.py`: PodGroups whose pods it binds all or none.

As the scheduler of 1.37 does it: a pod that names a PodGroup that is not there waits; the pods that wait are bound once
they and those that are bound already are as many as the minimum, and then all of them or none. The API server leaves
`schedulingGroup` out of pods where the feature gate is off, and keeps a PodGroup that is deleted while pods name it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_dra.translate.names import POD_GROUP_APIS

Raw = dict[str, Any]
ClaimsOf = Callable[[Raw], list[Raw | None]]


def group_of(pod: Mapping[str, Any]) -> str:
    """The PodGroup that it names; "" for none."""
    return str((pod["spec"].get("schedulingGroup") or {}).get("podGroupName", ""))


class FakeGangScheduling:
    """See the module. `api`: the version that is served; `gate`: GenericWorkload."""

    def __init__(self, api: str = POD_GROUP_APIS[0], *, gate: bool = True) -> None:
        self.api, self.gate = api, gate

    def step(
        self, groups: Sequence[Raw], pods: Sequence[Raw], claims_of: ClaimsOf, bind: Callable[[Raw], None]
    ) -> None:
        """Over the pods that name a PodGroup. `bind`: binds a pod, if it can."""
        for group in groups:
            members = [pod for pod in pods if group_of(pod) == group["metadata"]["name"]]
            bound = [pod for pod in members if "nodeName" in pod["spec"]]
            free = [pod for pod in members if is_free(pod)]
            if free and len(free) + len(bound) >= group["spec"]["schedulingPolicy"]["gang"]["minCount"]:
                bind_all_or_none(free, claims_of, bind)


def is_free(pod: Raw) -> bool:
    """Whether a scheduler may bind it, as far as it is concerned."""
    spec = pod["spec"]
    return not (spec.get("schedulingGates") or "nodeName" in spec or pod["metadata"].get("deletionTimestamp"))


def bind_all_or_none(pods: Sequence[Raw], claims_of: ClaimsOf, bind: Callable[[Raw], None]) -> None:
    claims = [claim for pod in pods for claim in claims_of(pod) if claim is not None]
    before = [(claim, copy.deepcopy(claim)) for claim in claims]
    for pod in pods:
        bind(pod)
    if any("nodeName" not in pod["spec"] for pod in pods):
        for pod in pods:
            pod["spec"].pop("nodeName", None)
        for claim, was in before:
            claim.clear()
            claim.update(was)
