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
