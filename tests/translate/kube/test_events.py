"""Events about gangs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.translate.kube.events import event_about
from tests.translate.kube.objects import CLUSTER


@given(st.text(max_size=1100, alphabet=st.characters(codec="utf-8")))
def test_an_events_message_is_cut_in_bytes_between_characters(text: str) -> None:
    event = event_about(CLUSTER, "GangQueued", text + "\u00e9\U0001f600" * 400)
    data = event["message"].encode()
    assert 1020 < len(data) <= 1024
    assert (text + "\u00e9\U0001f600" * 400).startswith(event["message"])
    assert event_about(CLUSTER, "GangQueued", "\ud800 bare")["message"] == "? bare"


def test_an_event_is_about_the_raycluster_and_of_ours() -> None:
    for warning, kind in ((False, "Normal"), (True, "Warning")):
        event = event_about(CLUSTER, "GangQueued", "waits", warning=warning)
        about = event["involvedObject"]
        assert about == {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "name": "c",
            "namespace": "team",
            "uid": "u-1",
        }
        assert (event["type"], event["reason"], event["message"], event["count"]) == (kind, "GangQueued", "waits", 1)
        assert event["metadata"]["namespace"] == "team"
        assert event["source"] == {"component": event["reportingComponent"]}
        assert event["firstTimestamp"] == event["lastTimestamp"]
    names = {event_about(CLUSTER, "A", "b")["metadata"]["name"] for _ in range(9)}
    assert len(names) == 9, "each is an event of its own"
