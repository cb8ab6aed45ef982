"""Objects of any shape: each reader makes a type of one, or says in a known way that it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from hypothesis import given

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import Claim, ComputeDomain, KubeNode, Pod, RayCluster, ResourceSlice
from ray_dra.translate.kube.claims import claim_of, read_claim
from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.parts import parts_of
from ray_dra.translate.kube.pods import gate_opened, imex_readiness, read_pod, signs
from ray_dra.translate.kube.published_links import read_topology
from ray_dra.translate.kube.raycluster import read_raycluster, worker_template
from ray_dra.translate.kube.shapes import UNREADABLE, read_domain, read_template, why_unreadable
from ray_dra.translate.kube.slices import node_from_slices, read_node, read_slice
from tests.adapters.garbage import anything

READERS: tuple[Callable[[Any], Any], ...] = (
    read_claim,
    read_domain,
    read_node,
    read_pod,
    read_raycluster,
    read_slice,
    read_template,
    read_topology,
)

PLAIN: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": float, "str | None": (str, type(None))}


def has_its_types(made: Any) -> None:
    for field in fields(made):
        value = getattr(made, field.name)
        wanted = PLAIN.get(str(field.type))
        assert wanted is None or isinstance(value, wanted), field
        if str(field.type) == "tuple[str, ...]":
            assert all(isinstance(each, str) for each in value)
        if isinstance(value, tuple):
            for each in filter(is_dataclass, value):
                has_its_types(each)


def use(made: Any) -> None:
    """As the coordinator does with each kind in a look."""
    if isinstance(made, Pod):
        signs([made])
        gate_opened(made)
        assert made.no_image in (True, False)
    elif isinstance(made, Claim):
        assert made.age <= made.age
        claim_of(made)
    elif isinstance(made, ComputeDomain):
        imex_readiness([made])
    elif isinstance(made, ResourceSlice):
        node_from_slices(KubeNode("n"), [made, made])
        parts_of([made])
    elif isinstance(made, RayCluster):
        with suppress(InvalidRequest):
            json.dumps(worker_pod(made, worker_template(made), "x"))
        node_from_slices(KubeNode("n", taints=(("a", "b", "NoSchedule"),)), [], made.placing)


@given(anything)
def test_whatever_a_reader_stumbles_over_is_unreadable(thing: Any) -> None:
    """Every error of a reader is one that the mirror knows; what it passes has the types it says, and can be used."""
    full = {"metadata": {"name": "x", "uid": "u", "resourceVersion": "1", "labels": {"ray-dra.io/attempt": "a"}}}
    tried = [thing, {**full, "spec": thing, "status": thing}, {**full, "spec": {"devices": thing, "pool": thing}}]
    for each in tried:
        for reader in READERS:
            try:
                made = reader(each)
            except UNREADABLE:
                continue
            assert reader(each) == made
            has_its_types(made)
            use(made)


def test_why_an_object_cannot_be_read_is_said_in_short() -> None:
    assert why_unreadable(ValueError("much")) == "ValueError: much"
    assert len(why_unreadable(KeyError("x" * 999))) == 200
