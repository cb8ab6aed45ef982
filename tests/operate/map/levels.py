"""Racks below leaves and spines."""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.model.node import Node
from tests.core.machines import rack

LEVELS = ("example.com/leaf", "example.com/spine")


def leafed(name: str, trays: int, *domains: str) -> list[Node]:
    """A rack with its domain of each level, the lowest first."""
    labels = dict(zip(LEVELS, domains, strict=True))
    return [replace(each, labels={**each.labels, **labels}) for each in rack(name, trays)]
