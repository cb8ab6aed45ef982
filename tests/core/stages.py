"""How near a gang over several cliques lies by levels above them, told from the labels alone: for tests that look for
something nearer than the planner's answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ray_dra.core.model.node import Node

Path = tuple[str | None, ...]
"""The domain of each level that a clique is in, the lowest first; None: in none."""


class Stage(NamedTuple):
    """At most `most` domains of `level`, all in one domain of the level `above` them; None: wherever they are."""

    level: int
    most: int = 1
    above: int | None = None

    def domains(self, paths: Collection[Path]) -> int | None:
        """How many domains cliques with these paths are in; None where they do not lie as the stage says."""
        names = {path[self.level] for path in paths}
        if None in names or len(names) > self.most:
            return None
        if self.above is not None:
            over = {path[self.above] for path in paths}
            if None in over or len(over) > 1:
                return None
        return len(names)


def stages(levels: int, limited: int | None = None, most: int = 1) -> list[Stage]:
    """Nearest first: one domain of a level, and of the limited one up to `most` before the next level."""
    found = []
    for level in range(levels):
        found.append(Stage(level))
        if level == limited and most > 1:
            found += [Stage(level, most, above) for above in range(level + 1, levels)] + [Stage(level, most)]
    return found


def paths_of(nodes: Sequence[Node], labels: Sequence[str]) -> dict[str, Path]:
    """Of each clique. It is in a domain where all its nodes are."""
    found: dict[str, list[Path]] = {}
    for node in nodes:
        found.setdefault(node.clique or "", []).append(tuple(node.labels.get(label) for label in labels))
    return {
        clique: tuple(names[0] if len(set(names)) == 1 else None for names in zip(*paths, strict=True))
        for clique, paths in found.items()
    }


def nearness(paths: Collection[Path], order: Sequence[Stage]) -> tuple[int, int]:
    """(the first stage that they lie by, in how many domains): the less, the nearer. Past the last one: by none."""
    for at, stage in enumerate(order):
        if (domains := stage.domains(paths)) is not None:
            return at, domains
    return len(order), 0
