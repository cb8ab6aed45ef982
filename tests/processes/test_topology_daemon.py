"""What the topology agent writes and counts, by the probe's own answers."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import Any

import pytest

from ray_dra.errors import ApiUnavailable
from ray_dra.ports.metrics import AGENT_ANSWERED, AGENT_GPUS, AGENT_PUBLISHED, AGENT_READINGS
from ray_dra.ports.nvml import NodeReading
from ray_dra.processes import topology_daemon
from ray_dra.processes.topology_daemon import Publisher
from tests.coordinator.world import tray
from tests.ports.counted import Counted


def line(reading: NodeReading) -> bytes:
    return json.dumps(asdict(reading)).encode()


def test_what_is_read_is_written_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology_daemon, "AGAIN_SECONDS", 0.001)
    written: list[dict[str, Any]] = []
    refusals = [ApiUnavailable("not now"), ApiUnavailable("not yet")]
    metrics, times = Counted(), iter(range(100, 200))

    def apply(made: dict[str, Any]) -> None:
        if refusals:
            raise refusals.pop()
        written.append(made)

    owner = {"kind": "Pod", "name": "p", "uid": "u"}
    publisher = Publisher("t0", "ray", owner, apply, metrics, threading.Event(), lambda: float(next(times)))
    for reading in (line(tray("t0")), None, line(NodeReading(error="NVML did not answer within 3 s")), None):
        publisher.publish(reading)
    assert [each["metadata"]["name"] for each in written] == ["ray-dra-topology-t0"]
    assert {labels[0]: value for (name, labels), value in metrics.values.items() if name == AGENT_READINGS.name} == {
        "changed": 1,
        "same": 2,
        "failed": 1,
    }
    assert metrics.values[AGENT_GPUS.name, ()] == 4
    assert metrics.values[AGENT_PUBLISHED.name, ()] == 101
    assert metrics.values[AGENT_ANSWERED.name, ()] == 103, "a failed reading is no answer"


def test_a_write_that_is_refused_does_not_hold_up_the_end() -> None:
    ended = threading.Event()

    def apply(made: dict[str, Any]) -> None:
        ended.set()
        raise ApiUnavailable("not now")

    Publisher("t0", "ray", {}, apply, Counted(), ended).publish(line(tray("t0")))
    assert ended.is_set()
