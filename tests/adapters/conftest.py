"""Everything that waits before it tries again does so at once here."""

from __future__ import annotations

import pytest

from ray_dra.adapters import kube_watch, lease, mirror


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, seconds in (
        (mirror, "AGAIN_SECONDS", 0.001),
        (mirror, "MOST_AGAIN_SECONDS", 0.01),
        (kube_watch, "AGAIN_SECONDS", 0.001),
        (lease, "ASK_SECONDS", 0.002),
        (lease, "RENEW_SECONDS", 0.002),
    ):
        monkeypatch.setattr(module, name, seconds)
