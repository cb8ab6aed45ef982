"""The table of signs, row by row, and what a device's health is after several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.device import Health
from ray_dra.core.model.signs import SEVERITIES, Seen, Severity, Sign, health_of, severity_of, worst

INFORM, DRAIN, LOST = Severity.INFORM, Severity.DRAIN, Severity.LOST

ROWS = {
    "DEVICE_TAINT_TOLD": INFORM,
    "DEVICE_TAINT_NO_SCHEDULE": DRAIN,
    "DEVICE_TAINT_NO_EXECUTE": LOST,
    "NODE_CORDONED": DRAIN,
    "NODE_TAINT_PREFER": INFORM,
    "NODE_TAINT_NO_SCHEDULE": DRAIN,
    "NODE_TAINT_NO_EXECUTE": LOST,
    "NODE_NOT_READY": LOST,
    "NODE_NOT_CHOSEN": INFORM,
    "DEVICE_PLUGIN": LOST,
    "NVSENTINEL_STATE": DRAIN,
    "NVSENTINEL_CONDITION": DRAIN,
    "MAINTENANCE": DRAIN,
    "XID_OF_APPLICATION": INFORM,
    "XID_OF_HARDWARE": LOST,
    "RECOVERY_ACTION": DRAIN,
    "REMAP_FAILED": DRAIN,
    "SOME_LINKS_DOWN": INFORM,
    "ALL_LINKS_DOWN": DRAIN,
    "GPU_GONE": LOST,
    "MIG_ON": LOST,
    "DEVICE_GONE": LOST,
    "LEFT_CLIQUE": LOST,
    "NODE_GONE": LOST,
    "RAYLET_DRAINS": DRAIN,
    "NODE_SILENT": LOST,
    "WORKER_GONE": LOST,
    "NOT_PLACED": LOST,
    "ATTEMPT_FAILED": INFORM,
}


def test_every_sign_has_a_row() -> None:
    assert {sign.name for sign in Sign} == ROWS.keys() == {sign.name for sign in SEVERITIES}


@pytest.mark.parametrize("sign", list(Sign), ids=lambda sign: sign.name)
def test_each_sign_has_its_severity(sign: Sign) -> None:
    wanted = ROWS[sign.name]
    assert SEVERITIES[sign] is Seen(sign, "").severity is wanted
    health, said = health_of(Seen(sign, "why"))
    assert severity_of(health) is wanted
    assert said == ("" if wanted is INFORM else "why")
    assert (health is Health.GONE) is (sign is Sign.GPU_GONE)


@given(st.lists(st.sampled_from(Sign)))
def test_the_worst_sign_says_what_a_device_is(signs: list[Sign]) -> None:
    seen = [Seen(sign, str(at)) for at, sign in enumerate(signs)]
    found = worst(seen)
    health, said = health_of(found)
    severity = max((ROWS[sign.name] for sign in signs), default=INFORM)
    assert severity_of(health) is severity
    first = next((str(at) for at, sign in enumerate(signs) if ROWS[sign.name] is severity), "")
    assert said == (first if severity > INFORM else "")
