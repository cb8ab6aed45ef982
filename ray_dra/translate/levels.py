"""Which labels of nodes name the levels above their cliques: topograph's, or those that an operator names. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import FABRIC_TIER_LABEL, LEVELS_VARIABLE

MOST_LEVELS = 8
TIERS = tuple(f"{FABRIC_TIER_LABEL}{tier}" for tier in range(MOST_LEVELS))
"""topograph's: tier 0 is the switch next to the node."""
_LABEL = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def levels_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The labels, the lowest level first; topograph's where nothing is set; none for `off`.

    Raises:
        InvalidRequest: it is no list of labels, or one of them comes twice.
    """
    said = environment.get(LEVELS_VARIABLE, "").strip()
    if not said:
        return TIERS
    if said == "off":
        return ()
    labels = tuple(each.strip() for each in said.split(","))
    if len(labels) > MOST_LEVELS or len(set(labels)) < len(labels) or not all(map(_LABEL.fullmatch, labels)):
        raise InvalidRequest(
            "The levels above cliques are labels of nodes, the lowest first, each once, or off.",
            place=LEVELS_VARIABLE,
            wanted=shown(said),
            available=f"{MOST_LEVELS} at most, such as example.com/leaf,example.com/spine",
        )
    return labels
