"""Ray's words for a gang (bundles, strategy, selectors, topology_strategy) as a core GangRequest."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from ray_dra.core.request import ANYWHERE, Bundle, GangRequest, Locality, Strategy, bundle_from_resources
from ray_dra.errors import InvalidRequest
from ray_dra.translate.labels import GPU_DOMAIN, RAY_NODE_ID


def request_from_bundles(
    bundles: Sequence[Mapping[str, float]],
    *,
    strategy: str | None = None,
    selectors: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
    locality: Locality | None = None,
    product: str | Sequence[str] | None = None,
    priority: int = 0,
    soft_node: str | None = None,
) -> GangRequest:
    """A request with an id of its own.

    Raises:
        InvalidRequest: what can never be right, whatever the cluster.
    """
    if not isinstance(bundles, Sequence) or isinstance(bundles, (str, bytes)):
        raise InvalidRequest("bundles is a list of dicts.", place="bundles", wanted=repr(bundles)[:200])
    if strategy is not None and topology_strategy is not None:
        raise InvalidRequest("strategy and topology_strategy exclude each other.", place="strategy")
    chosen = locality if locality is not None else ANYWHERE
    if not isinstance(chosen, Locality):
        raise InvalidRequest("locality is made by same_clique() and its like.", place="locality", wanted=repr(locality))
    if topology_strategy is not None:
        strategy, asked = _topology_strategy(topology_strategy)
        chosen = chosen & asked if asked is not None else chosen
    if strategy is not None and strategy not in Strategy.__members__:
        raise InvalidRequest(
            "This strategy is not known.",
            place="strategy",
            wanted=repr(strategy),
            available=", ".join(Strategy.__members__),
        )
    if soft_node is not None and strategy != "STRICT_PACK":
        raise InvalidRequest("_soft_target_node_id works with STRICT_PACK only.", place="_soft_target_node_id")
    if selectors is not None and len(selectors) != len(bundles):
        raise InvalidRequest(
            "bundle_label_selector needs one selector a bundle.",
            place="bundle_label_selector",
            wanted=str(len(bundles)),
            available=str(len(selectors)),
        )
    products = (product,) if isinstance(product, str) else tuple(product or ())
    made: dict[str, Bundle] = {}
    asked_for = []
    for i, resources in enumerate(bundles):
        labels = selectors[i] if selectors is not None else {}
        key = repr((sorted(resources.items()) if isinstance(resources, Mapping) else resources, sorted(labels.items())))
        if key not in made:  # equal bundles are one object: the planner folds them quickly
            made[key] = bundle_from_resources(resources, index=i, products=products, labels=labels)
        asked_for.append(made[key])
    request = GangRequest(
        uuid.uuid4().hex, tuple(asked_for), chosen, Strategy(strategy or "PACK"), priority=int(priority)
    )
    if request.device_count == 0:
        raise InvalidRequest(
            "No bundle asks for a GPU; use ray.util.placement_group for gangs without GPUs.", place="bundles"
        )
    return request


def _topology_strategy(given: Mapping[str, str]) -> tuple[str, Locality | None]:
    """Ray's topology_strategy in our words."""
    rest = dict(given)
    strategy = rest.pop(RAY_NODE_ID, "PACK")
    domain = rest.pop(GPU_DOMAIN, None)
    if rest or domain not in (None, "STRICT_PACK"):
        raise InvalidRequest(
            "This topology_strategy is not known.",
            place="topology_strategy",
            wanted=repr(dict(given)),
            available=f'{{"{GPU_DOMAIN}": "STRICT_PACK", "{RAY_NODE_ID}": a strategy}}',
        )
    return strategy, Locality(cliques=1) if domain else None
