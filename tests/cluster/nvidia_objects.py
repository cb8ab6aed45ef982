"""What NVIDIA's driver is asked about: the objects of gangs of all kinds, and objects that are not quite right."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.gpu_sharing import INTERVALS
from ray_dra.core.model.imex import IMEX_LIMITS
from ray_dra.core.model.locality import Locality
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import gpu, mig, mps, time_slicing
from tests.translate.kube.objects import BOXES, CLUSTER, RACKS, read

_PARTED = [
    node_from_slices(
        KubeNode(machine.name, cpus=64, memory=512 << 30),
        read(slices(gpu_pool(machine, {}, frozenset({"DynamicMIG"})), machine.name, 1)),
    )
    for machine in simulated_nodes("hgx-h100", nodes=1)
]
_MEMORY = st.one_of(st.none(), st.integers(1 << 20, 80 << 30), st.sampled_from(["20Gi", "10G", "1Mi", "1.5Gi", "2e10"]))
_SHARING = st.one_of(
    st.builds(mps, memory=_MEMORY, threads=st.none() | st.integers(1, 100)),
    st.builds(time_slicing, st.sampled_from(INTERVALS)),
)
_AMOUNT = st.sampled_from([0.001, 0.1, 0.25, 0.5, 0.6, 0.999])


@st.composite
def gangs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The ComputeDomains and claims of a gang of whole GPUs, of parts or of shares; none of one that finds no place."""
    count = draw(st.integers(1, 12))
    name = draw(st.text(min_size=1, max_size=80))
    kind = draw(st.sampled_from(("racks", "boxes", "parts", "shares", "shares")))
    amounts = [1.0] * count if kind == "parts" else [float(draw(st.integers(1, 4)))] * count
    more: dict[str, Any] = {}
    if kind == "parts":
        more["part"] = mig(draw(st.sampled_from(("1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb"))))
    elif kind == "shares":
        amounts, more["sharing"] = draw(st.lists(_AMOUNT, min_size=1, max_size=12)), draw(_SHARING)
    elif draw(st.booleans()):
        more["devices"] = gpu(memory=">=40G", compute_capability=">=9.0")
    if kind == "racks" and draw(st.booleans()):
        more["locality"] = Locality(segment=draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0])))
    nodes = {"racks": RACKS, "parts": _PARTED}.get(kind, BOXES)
    request = request_from_bundles([{"GPU": each} for each in amounts], **more)
    answer = plan(Inventory(nodes, limits=IMEX_LIMITS), replace(request, gang=name))
    if not isinstance(answer, Allocation):
        return []
    made = attempt_of(answer, CLUSTER, compute_domains=True, asked=request.bundles)
    claims = [claim for slot in made.slots.values() for claim in made.claims(slot, "uid").values()]
    return [*made.domains.values(), *claims]


_WORDS = ("MPS", "TimeSlicing", *INTERVALS, "Single", "All", "1Gi", "x", "")
_VALUES = st.one_of(
    st.sampled_from(_WORDS), st.integers(-2, 101), st.booleans(), st.none(), st.floats(-1, 2), st.just({}), st.just([])
)
_CHANGES = st.lists(st.tuples(st.integers(0, 99), st.sampled_from(("set", "set", "drop", "add")), _VALUES), max_size=2)


def nearly(things: Sequence[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """One of them, where a field or two have another value, are left out, or have another beside them."""
    return st.builds(_changed, st.sampled_from(things), _CHANGES)


def _changed(thing: dict[str, Any], changes: list[tuple[int, str, Any]]) -> dict[str, Any]:
    made = copy.deepcopy(thing)
    for at, how, value in changes:
        places = list(_places(made))
        if not places:
            break
        inside, name = places[at % len(places)]
        if how == "drop":
            del inside[name]
        else:
            inside[name if how == "set" else "other"] = copy.deepcopy(value)
    return made


def _places(thing: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every field but its kind and version, with what it is in."""
    for name, value in thing.items():
        if name not in ("apiVersion", "kind", "metadata"):
            yield thing, name
            if isinstance(value, dict):
                yield from _places(value)


_SUFFIXES = ("", *"numkMGTPE", *(f"{each}i" for each in "KMGTPE"), "K", "ki", "e3", "E-2")


def quantities() -> st.SearchStrategy[str]:
    """Most of them are some."""
    number = st.from_regex(r"[+-]?([0-9]{1,17}\.?[0-9]{0,3}|\.[0-9]{1,3})", fullmatch=True)
    suffix = st.sampled_from(_SUFFIXES)
    return st.builds("{}{}".format, number, st.one_of(suffix, suffix, st.text("eE+-iKM.0", max_size=3)))
