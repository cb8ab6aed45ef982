"""`ray-dra check`: what cannot be read, and what the coordinator says."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.adapters import lease
from ray_dra.adapters.lease import Lease
from ray_dra.operate import check
from tests.adapters.memory_api import Api
from tests.adapters.servers import end, node, until


def test_check_tells_what_cannot_be_read_and_what_the_coordinator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.002)

    class Some(Api):
        def items(self, kind: str, **more: Any) -> list[Any]:
            return [node("good"), node("bad", cpu="much")] if kind == "Node" else [{"metadata": {"name": "slice"}}]

    api: Any = Some({"metadata": {}, "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}})
    told = {finding.what: finding for finding in check._of_nodes(api, "GPUs")}
    assert told["node bad"].ok is told["ResourceSlice slice"].ok is False
    assert "much" in told["node bad"].said
    assert "node good" not in told
    (old,) = check._of_view(api, "n", "c", "view")
    assert (old.ok, "no coordinator runs" in old.said) == (None, True)
    written: list[Any] = []
    api.replace = written.append
    api.told = {"metadata": {"resourceVersion": "1"}}
    made = Lease(api, "n", "gangs", "me", problems=lambda: ("Pods cannot be watched", "Node bad is left out"))
    try:
        until(lambda: bool(written))
        api.told = written[0]
        assert [tuple(finding[::2]) for finding in check._of_view(api, "n", "c", "view")] == [
            (False, "Pods cannot be watched"),
            (False, "Node bad is left out"),
        ]
        written[0]["metadata"]["annotations"] = {}
        assert [finding.ok for finding in check._of_view(api, "n", "c", "view")] == [True]
    finally:
        end(made)
