"""Names of container images: two that mean one image are written alike. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ray_dra.translate.kube.shapes import Raw, text

_DOCKER = "docker.io"


def full_name(image: str) -> str:
    """An image's name as nodes list it: with its registry and its tag, or with its digest alone."""
    name, _, digest = image.partition("@")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"{_DOCKER}/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"{_DOCKER}/{name}"
    path, colon, tag = name.rpartition(":")
    tagged = bool(colon) and "/" not in tag
    if digest:
        return f"{path if tagged else name}@{digest}"
    return name if tagged else f"{name}:latest"


def images_on(listed: Iterable[Raw]) -> tuple[str, ...]:
    """The names that a Node lists of its images; each text is kept once, as thousands of nodes have the same."""
    return tuple(sorted(sys.intern(full_name(text(name))) for each in listed for name in each.get("names") or ()))
