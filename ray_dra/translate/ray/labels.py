"""Ray's node labels and label selectors; `translate.names` has their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_dra.core.model.checked import text
from ray_dra.core.model.clique import label_value
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import MAX_SELECTOR
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import (
    ACCELERATOR_TYPE,
    DOMAIN_RESOURCE,
    GPU_DOMAIN,
    NODE_LABEL,
    TOPOLOGY_RESOURCE,
    TRAY_LABEL,
)


def node_labels(node: Node, *, accelerator_type: str | None = None) -> dict[str, str]:
    """The labels of the raylet on this node; `accelerator_type` as Ray spells it."""
    labels = {NODE_LABEL: label_value(node.name)}
    if node.clique is not None and not node.parted:  # parts of GPUs have no NVLink
        labels[GPU_DOMAIN] = label_value(node.clique)
    if node.order is not None:
        labels[TRAY_LABEL] = str(node.order)
    if accelerator_type:
        labels[ACCELERATOR_TYPE] = label_value(accelerator_type)
    return labels


def node_resources(labels: Mapping[str, str]) -> dict[str, float]:
    """Ray's resources of a node with these labels, by which NeMo-RL keeps segments in one NVLink domain and in order.
    Of a node that is in none of several nodes, nothing: NeMo-RL knows what to do with that."""
    found = _DOMAIN.fullmatch(labels.get(GPU_DOMAIN, ""))
    if found is None:
        return {}
    tray = labels.get(TRAY_LABEL, "")
    rank = {TOPOLOGY_RESOURCE: float(tray) + 1.0} if tray.isdigit() else {}
    return {DOMAIN_RESOURCE + found[1]: 1.0, **rank}


_DOMAIN = re.compile(r"([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\.\d+")
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?{_VALUE}")
_TERM = re.compile(rf"(?:!?{_VALUE}|!?(?:in)?\({_VALUE}(?:, ?{_VALUE})*\))?")


def check_selector(selector: Mapping[object, object], place: str) -> dict[str, str]:
    """One bundle's label selector by Ray's own rules: a label's key and value, `!v`, `in(a,b)`, `!in(a,b)`.

    Raises:
        InvalidRequest: Ray would not take it.
    """
    found = {}
    for name, term in selector.items():
        key = text(name, f"a label of {place}", most=253 + 64)
        value = text(term, f"{place}[{shown(name)}]", most=MAX_SELECTOR, empty=True)
        if not _KEY.fullmatch(key):
            raise InvalidRequest("This is no label's name.", place=place, wanted=shown(key), available="prefix/name")
        if not _TERM.fullmatch(value):
            raise InvalidRequest(
                "This is no label selector.",
                place=f"{place}[{shown(name)}]",
                wanted=shown(value),
                available="a value, !value, in(a,b) or !in(a,b); values of at most 63 of A-Z a-z 0-9 _ . -",
            )
        found[key] = value
    return found
