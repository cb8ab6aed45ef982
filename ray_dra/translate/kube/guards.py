"""Guards: DeviceTaintRules that keep others' claims off the GPUs of a gang whose claims change. Pure.

Between the end of one claim and the allocation of the next no claim has the GPUs, and Kubernetes' scheduler would give
them to whoever asks first. So each device that is all of such a GPU, or a part of it, has a taint meanwhile which the
gang's own claims tolerate. The taint says whose it is, so that whoever meets a rule knows without asking.
Neighbour: `taint_rules.py` reads rules, these included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from ray_dra.core.model.clique import label_value
from ray_dra.translate.kube.parts import Parts
from ray_dra.translate.kube.slots import stem_of
from ray_dra.translate.names import CLUSTER_LABEL, GUARD_TAINT, NAMESPACE_LABEL

EFFECT = "NoSchedule"  # what has a device keeps it


def owner_of(namespace: str, raycluster: str) -> str:
    """How the taints of a RayCluster's guards begin."""
    return _short(f"{namespace}/{raycluster}")


def taint_for(namespace: str, raycluster: str, gang: str) -> dict[str, str]:
    """The taint of a gang's GPUs."""
    value = f"{owner_of(namespace, raycluster)}.{stem_of(gang)}"
    return {"key": GUARD_TAINT, "value": value, "effect": EFFECT}


def toleration_of(taint: dict[str, str]) -> dict[str, str]:
    return {**taint, "operator": "Equal"}


def devices_to_guard(pool: Parts | None, gpus: Collection[str]) -> frozenset[str]:
    """The devices of a pool that are all of one of these GPUs, or something of it. None named where these are all of
    its GPUs, or where there is no pool (None), which says what their parts are called."""
    return frozenset() if pool is None or pool.gpus <= set(gpus) else pool.devices_of(gpus)


def guards_for(
    taint: dict[str, str], whose: tuple[str, str], driver: str, node: str, devices: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Rules by name that taint these devices of a node's pool; none named: one rule for all of them. `whose`: the
    namespace and name of the RayCluster."""
    labels = {NAMESPACE_LABEL: label_value(whose[0]), CLUSTER_LABEL: label_value(whose[1])}
    found = {}
    for device in sorted(devices) or [""]:
        selector = {"driver": driver, "pool": node, **({"device": device} if device else {})}
        name = f"ray-dra-{taint['value'].replace('.', '-')}-{_short(f'{node}/{device}')}"
        found[name] = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": name, "labels": dict(labels)},
            "spec": {"deviceSelector": selector, "taint": dict(taint)},
        }
    return found


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
