"""The lease: nothing that a server sends ends it, and it says what its holder cannot see."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_dra.adapters import lease
from ray_dra.adapters.lease import Lease
from tests.adapters.garbage import anything
from tests.adapters.memory_api import Api
from tests.adapters.servers import end, until


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    anything | st.fixed_dictionaries({"metadata": anything, "spec": anything}),
    anything | st.just("a word") | st.integers(min_value=10**300, max_value=10**310),
)
def test_nothing_that_a_server_sends_ends_a_lease(told: Any, duration: Any) -> None:
    spec = {"holderIdentity": "other", "leaseDurationSeconds": duration}
    for answer in (told, {"metadata": {"resourceVersion": "1"}, "spec": spec}):
        api: Any = Api(answer)
        made = Lease(api, "n", "gangs", "me")
        try:
            assert made.asked.wait(10)
            api.told = None
            until(lambda made=made: made.missing() == "")  # type: ignore[misc]
        finally:
            end(made)


def test_the_lease_says_what_its_holder_cannot_see() -> None:
    api: Any = Api({"metadata": {"resourceVersion": "1"}})
    written: list[Any] = []
    api.replace = written.append
    made = Lease(api, "n", "gangs", "me", problems=lambda: ["Nodes cannot be watched: \u00e9", "\ud800" * 9000])
    try:
        until(lambda: bool(written))
        said = written[0]["metadata"]["annotations"]["ray-dra.io/problems"]
        assert said.startswith("Nodes cannot be watched: \u00e9\n")
        assert len(said.encode()) <= lease.MOST_BYTES
    finally:
        end(made)
