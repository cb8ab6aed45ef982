"""The coordinator's log as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime

import pytest

from ray_dra.coordinator.executor import _log
from ray_dra.core.gangs.actions import Note
from ray_dra.core.gangs.gang import Change
from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import InvalidRequest
from ray_dra.processes.log_format import formatter
from ray_dra.translate.names import LOG_FORMAT_VARIABLE

NOTES = (
    Note("id", "tr\nain", Change(1.0, None, Phase.QUEUED, 'waits for "room"\nand more')),
    Note("id", "", Change(2.0, Phase.QUEUED, Phase.HELD, "its turn")),
)


def logged(said: str) -> list[str]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter({LOG_FORMAT_VARIABLE: said}))
    logger = logging.getLogger("ray_dra")
    before, logger.handlers = logger.handlers, [handler]
    level, logger.level = logger.level, logging.INFO
    try:
        for note in NOTES:
            _log(note)
        try:
            raise ValueError("odd")
        except ValueError:
            logger.warning("could not", exc_info=True)
    finally:
        logger.handlers, logger.level = before, level
    return stream.getvalue().splitlines()


def test_as_json_a_decision_is_one_line_with_its_parts() -> None:
    first, second, failed = map(json.loads, logged(" json "))
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    message = 'gang tr ain: queued: waits for "room" and more'
    assert {**first, "message": " ".join(first["message"].replace("\\n", " ").split())} == {
        "level": "INFO",
        "message": message,
        "gang": "id",
        "name": first["name"],
        "phase": "queued",
        "why": first["why"],
    }
    assert first["name"]
    assert (second["was"], second["phase"], second["why"], second["gang"]) == ("queued", "held", "its turn", "id")
    assert "name" not in second
    assert failed["level"] == "WARNING"
    assert "ValueError: odd" in failed["traceback"]


def test_as_text_a_decision_is_a_line_for_people() -> None:
    first, second, *_ = logged("")
    assert first.split(" INFO ")[1].startswith("gang tr")
    assert second.endswith(" INFO gang id: queued -> held: its turn")
    assert logged("text")[1].endswith(" INFO gang id: queued -> held: its turn")


def test_another_format_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        formatter({LOG_FORMAT_VARIABLE: "xml"})
    assert refused.value.place == LOG_FORMAT_VARIABLE
