"""Ray's words for a gang (bundles, strategy, selectors, topology_strategy) as a core GangRequest."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ray_dra.core.model.checked import many, number, table, text
from ray_dra.core.model.device_selector import ANY_DEVICE, DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.locality import ANYWHERE, Locality, no_locality
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import (
    MAX_AMOUNT,
    MAX_BUNDLES,
    MAX_DEVICES_PER_BUNDLE,
    MAX_ENTRIES,
    MIN_AMOUNT,
    WHOLE,
    Bundle,
    GangRequest,
    Strategy,
    check_request,
    check_text_length,
)
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import GPU_DOMAIN, MIG_PREFIX, RAY_NODE_ID
from ray_dra.translate.ray.confidential import confidential_request
from ray_dra.translate.ray.devices import check_part, check_sharing, criteria_from, mig, request_for
from ray_dra.translate.ray.labels import check_selector
from ray_dra.translate.vendors import part_resources

NODE_ID = re.compile(r"[0-9a-fA-F]{56}")  # Ray's


def request_from_bundles(
    bundles: Sequence[Mapping[str, float]],
    *,
    strategy: str | None = None,
    selectors: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
    locality: Locality | None = None,
    product: str | Sequence[str] | None = None,
    devices: DeviceCriteria | None = None,
    part: PartCriteria | None = None,
    sharing: GpuSharing | None = None,
    priority: int = 0,
    soft_node: str | None = None,
    confidential: bool | str = False,
    preemptible: bool = False,
    pool: str = "",
) -> GangRequest:
    """A request with an id of its own.

    Raises:
        InvalidRequest: what can never be right, whatever the cluster.
    """
    asked_for = many(bundles, "bundles", most=MAX_BUNDLES)
    if strategy is not None and topology_strategy is not None:
        raise InvalidRequest("strategy and topology_strategy exclude each other.", place="strategy")
    chosen = locality if locality is not None else ANYWHERE
    if not isinstance(chosen, Locality):
        raise no_locality(chosen)
    if topology_strategy is not None:
        strategy, asked = _topology_strategy(topology_strategy)
        chosen = chosen & asked if asked is not None else chosen
    meant = _strategy(strategy, "strategy")
    _check_soft_node(soft_node, meant)
    labels = None if selectors is None else many(selectors, "bundle_label_selector", most=MAX_BUNDLES)
    if labels is not None and len(labels) != len(asked_for):
        raise InvalidRequest(
            "bundle_label_selector needs one selector a bundle.",
            place="bundle_label_selector",
            wanted=str(len(asked_for)),
            available=str(len(labels)),
        )
    made = _bundles(asked_for, labels, criteria_from(devices, product), check_part(part), check_sharing(sharing), pool)
    if sharing is not None and not any(bundle.sharing for bundle in made):
        raise InvalidRequest(
            "No bundle has a GPU to share.", place="sharing", wanted=str(sharing), available='bundles with {"GPU": 0.5}'
        )
    request = check_request(
        GangRequest(uuid.uuid4().hex, made, chosen, meant, priority=priority, preemptible=preemptible, pool=pool)
    )
    return request if confidential is False else confidential_request(request, confidential)


def ray_bundles(request: GangRequest) -> list[dict[str, float]]:
    """The request's bundles as Ray takes them: Python's own numbers, nothing that is 0. A share is one of the GPUs that
    its raylet offers (`processes.start_hook`), so that Ray has nothing to pack."""
    made = {id(b): _ray_bundle(b) for b in request.bundles}
    return [dict(made[id(b)]) for b in request.bundles]


def _ray_bundle(bundle: Bundle) -> dict[str, float]:
    """A part that is asked for by its profile is a GPU and one of the profile's resource, as its raylet offers it."""
    profiles = (device.part.profile for device in bundle.devices if device.part is not None)
    gpus = {"GPU": float(bundle.count)} if bundle.count else {}
    return {**gpus, **part_resources(profiles), **bundle.resources}


def _check_soft_node(node: object, strategy: Strategy) -> None:
    """As in Ray, '' is none."""
    if node is None or (isinstance(node, str) and not node):
        return
    if strategy is not Strategy.STRICT_PACK:
        raise InvalidRequest("_soft_target_node_id works with STRICT_PACK only.", place="_soft_target_node_id")
    if not isinstance(node, str) or not NODE_ID.fullmatch(node):
        raise InvalidRequest(
            "_soft_target_node_id is a node's id in Ray.",
            place="_soft_target_node_id",
            wanted=shown(node),
            available="56 hexadecimal digits",
        )


def _bundles(
    bundles: Sequence[Any],
    selectors: Sequence[Any] | None,
    criteria: DeviceCriteria,
    part: PartCriteria | None,
    sharing: GpuSharing | None,
    pool: str,
) -> tuple[Bundle, ...]:
    """Equal bundles are one object: the planner folds them quickly."""
    made: dict[Any, Bundle] = {}
    same: dict[tuple[int, int], Bundle] = {}  # the very same dicts, as [{"GPU": 1}] * 1000 has them
    found = []
    length = 0
    for i, resources in enumerate(bundles):
        labels = selectors[i] if selectors is not None else {}
        both = (id(resources), id(labels) if selectors is not None else 0)
        bundle = same.get(both)
        if bundle is None:
            place = f"bundle_label_selector[{i}]"
            bundle = bundle_from_resources(
                resources,
                index=i,
                criteria=criteria,
                part=part,
                sharing=sharing,
                pool=pool,
                labels=check_selector(table(labels, place, most=MAX_ENTRIES), place),
            )
            key = (bundle.devices, tuple(sorted(bundle.resources.items())), tuple(sorted(bundle.labels.items())))
            if key not in made:
                made[key] = bundle
                check_text_length(length := length + bundle.check())
            bundle = same[both] = made[key]
        found.append(bundle)
    return tuple(found)


def _strategy(given: object, place: str) -> Strategy:
    if given is None:
        return Strategy.PACK
    if not isinstance(given, str) or given not in Strategy.__members__:
        raise InvalidRequest(
            "This strategy is not known.", place=place, wanted=shown(given), available=", ".join(Strategy.__members__)
        )
    return Strategy[given]


def _topology_strategy(given: object) -> tuple[str, Locality | None]:
    """Ray's topology_strategy in our words."""
    rest = dict(table(given, "topology_strategy", most=MAX_ENTRIES))
    strategy = _strategy(rest.pop(RAY_NODE_ID, None), f"topology_strategy[{RAY_NODE_ID!r}]")
    domain = rest.pop(GPU_DOMAIN, None)
    if rest or not (domain is None or (isinstance(domain, str) and domain == "STRICT_PACK")):
        raise InvalidRequest(
            "This topology_strategy is not known.",
            place="topology_strategy",
            wanted=shown(given),
            available=f'{{"{GPU_DOMAIN}": "STRICT_PACK", "{RAY_NODE_ID}": a strategy}}',
        )
    return strategy.value, Locality(cliques=1) if domain else None


def bundle_from_resources(
    resources: Mapping[str, float],
    *,
    index: int,
    criteria: DeviceCriteria = ANY_DEVICE,
    part: PartCriteria | None = None,
    sharing: GpuSharing | None = None,
    pool: str = "",
    labels: Mapping[str, str] | None = None,
) -> Bundle:
    """A Bundle from Ray's dict, e.g. {"GPU": 4, "CPU": 8}; `index` is for the message.

    Raises:
        InvalidRequest: empty, not numbers, less than Ray counts or more, or a GPU count that is zero, negative, or
            fractional where nothing says by what GPUs are shared.
    """
    place = f"bundles[{index}]"
    if not table(resources, place, most=MAX_ENTRIES):
        raise InvalidRequest("A bundle is a non-empty dict of resources.", place=place, wanted=shown(resources))
    rest: dict[str, float] = {}
    named: dict[str, float] = {}  # parts by their profiles
    gpus: int | float = 0
    for name, value in resources.items():
        at = f"{place}[{shown(name)}]"
        name = text(name, f"a resource of {place}")
        amount = number(value, at, least=-MAX_AMOUNT, most=MAX_AMOUNT)
        if name == "GPU" and not (amount == 0 and len(resources) > 1):  # 0 beside others asks for none
            gpus = (
                _share(amount, place, sharing, part, pool) if amount > 0 and amount % 1 else _gpu_count(amount, place)
            )
        elif name == "GPU":
            continue
        elif name.startswith(MIG_PREFIX):
            named[name] = amount
        elif amount < 0 or (amount == 0 and len(resources) == 1):
            raise InvalidRequest(f"{name} must be more than 0.", place=place, wanted=f"{name}: {amount:g}")
        elif 0 < amount < MIN_AMOUNT:
            raise InvalidRequest(
                f"{at} is less than Ray counts.", place=at, wanted=f"{amount:g}", available=f"at least {MIN_AMOUNT:g}"
            )
        elif amount > 0:
            rest[name] = amount
    if named:
        part, gpus = _named_part(named, gpus, part, place), 1
    devices = (request_for(gpus, criteria, part, sharing),) if gpus else ()
    return Bundle(devices, rest, dict(labels or {}))


def _named_part(named: Mapping[str, float], gpus: int | float, part: PartCriteria | None, place: str) -> PartCriteria:
    """The part that a bundle asks for by its resource, e.g. {"MIG-1g.10gb": 1}, with or without {"GPU": 1}."""
    name, amount = next(iter(named.items()))
    asked = " and ".join(f"{name}: {amount:g}" for name, amount in named.items())
    if len(named) > 1 or amount != 1 or gpus > 1:
        raise InvalidRequest(
            "A bundle has one part of a GPU: CUDA shows a process one MIG device.",
            place=place,
            wanted=f"{asked}{f' and GPU: {gpus}' if gpus > 1 else ''}",
            available=f'{{"{name}": 1}} in each of as many bundles as parts are wanted',
        )
    found = mig(name.removeprefix(MIG_PREFIX))
    if part is not None and part != found:
        raise InvalidRequest(
            "The bundle names one part, and `part` another.",
            place=place,
            wanted=asked,
            available=f"{part}, or no part=",
        )
    return found


def _share(amount: float, place: str, sharing: GpuSharing | None, part: PartCriteria | None, pool: str) -> float:
    """The amount, if it is a share of one GPU, in thousandths, and somebody says by what the GPU is shared."""
    wanted = f"GPU: {amount:g}"
    if part is not None:
        raise InvalidRequest(
            "A part is no share: a bundle has all of its part.", place=place, wanted=wanted, available='{"GPU": 1}'
        )
    if amount > 1:
        raise InvalidRequest(
            "A bundle has whole GPUs, or a share of one.",
            place=place,
            wanted=wanted,
            available=f'{{"GPU": {int(amount)}}}, {{"GPU": {int(amount) + 1}}}, or more bundles with a share each',
        )
    thousandths = round(amount * WHOLE)
    if abs(thousandths / WHOLE - amount) > 1e-9 or not 0 < thousandths < WHOLE:
        raise InvalidRequest(
            "Shares are counted in thousandths of a GPU.",
            place=place,
            wanted=f"GPU: {amount!r}",
            available=f'{{"GPU": {min(max(int(amount * WHOLE), 1), WHOLE - 1) / WHOLE:g}}}',
        )
    if sharing is None and not pool:
        raise InvalidRequest(
            "Whoever has a share of a GPU says by what it is shared.",
            place=place,
            wanted=wanted,
            available="whole numbers, sharing=ray_dra.mps(...) or sharing=ray_dra.time_slicing(), or pool=",
        )
    return thousandths / WHOLE


def _gpu_count(amount: float, place: str) -> int:
    if amount <= 0:
        raise InvalidRequest(
            "A GPU count must be at least 1; leave GPU out of a bundle that needs none.",
            place=place,
            wanted=f"GPU: {amount:g}",
        )
    if amount > MAX_DEVICES_PER_BUNDLE:
        raise InvalidRequest(
            "No machine has that many GPUs.",
            place=place,
            wanted=f"GPU: {amount:g}",
            available=f"at most {MAX_DEVICES_PER_BUNDLE} in one bundle",
        )
    return int(amount)
