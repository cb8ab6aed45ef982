"""Cliques: NVLink partitions, their ids, and their label values. Immutable values."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ray_dra.core.model.device import DomainId, FabricKind


@dataclass(frozen=True, slots=True)
class Clique:
    """An NVLink partition: devices of one box, or of many nodes of a rack."""

    id: DomainId
    nodes: tuple[str, ...]
    devices: int
    fabric_kind: FabricKind = FabricKind.MULTI_NODE

    @property
    def multi_node(self) -> bool:
        return self.fabric_kind is FabricKind.MULTI_NODE


LABEL_LIMIT = 63  # Kubernetes' and Ray's limit for a label value


def box_clique(node: str) -> DomainId:
    """The id of a single NVSwitch box, known by its node. Its devices say that it is one: `Device.fabric_kind`."""
    return "box." + node


def fabric_clique(cluster_uuid: str, clique_id: int) -> DomainId:
    """The multi-node clique as the label of its Nodes says it."""
    return f"{cluster_uuid}.{clique_id}"


def label_value(text: str) -> str:
    """`text` as a label value: at most 63 of [A-Za-z0-9._-], alphanumeric at both ends.

    Text that fits is kept as it is; other text is cut and gets a digest, so that two texts that
    differ never share a label.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", text)
    if safe == text and len(text) <= LABEL_LIMIT and re.fullmatch(r"[A-Za-z0-9].*[A-Za-z0-9]|[A-Za-z0-9]", text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    head = safe.strip("-._")[: LABEL_LIMIT - 9].rstrip("-._")
    return f"{head}-{digest}" if head else digest
