"""What a cluster could serve now, as a table for people and as plain values."""

from __future__ import annotations

from typing import Any

from ray_dra.core.explain.capacity import ClusterCapacity
from ray_dra.core.model.parts import profile_text
from ray_dra.translate.lines import several, table


def capacity_table(found: ClusterCapacity) -> str:
    """A line a shape; what one gang could have at most, each line alone."""
    cliques = ", ".join(f"{count:,} of {several(size, 'GPU')}" for size, count in found.cliques)
    largest = found.cliques[0][0] if found.cliques else 0
    rows = [
        ("GPU", f"{found.gpus:,}", f"on one node {found.node:,}, in one clique {found.clique:,}"),
        ("whole clique", f"{largest:,}", cliques or "none that nobody has anything of"),
        *(
            ("segment", f"{s.nodes:,}", f"nodes of {several(s.cliques, 'clique')}, beside {several(s.spares, 'spare')}")
            for s in found.segments
        ),
        *(
            (profile_text(p.profile), f"{p.most:,}", f"{p.unbroken:,} without breaking a whole GPU")
            for p in found.parts
        ),
    ]
    return "\n".join(table(("SHAPE", "MOST", "OF WHICH"), rows))


def plain_capacity(found: ClusterCapacity) -> dict[str, Any]:
    return {
        "gpus": found.gpus,
        "on_one_node": found.node,
        "in_one_clique": found.clique,
        "whole_cliques": [{"gpus": size, "cliques": count} for size, count in found.cliques],
        "segments": [each._asdict() for each in found.segments],
        "parts": [{"profile": p.profile, "most": p.most, "unbroken": p.unbroken} for p in found.parts],
    }
