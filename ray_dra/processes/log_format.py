"""How the lines of the coordinator's log are written: as text, or as JSON for whatever collects logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone

from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import LOG_FORMAT_VARIABLE

TEXT, JSON = "text", "json"
FIELDS = ("gang", "name", "was", "phase", "why")
"""What a line tells of a decision, besides its text: `extra` of the call that logs it."""


class JsonFormatter(logging.Formatter):
    """An object a line: `time` (RFC 3339), `level`, `message`; a decision's FIELDS, an error's `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        told: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        decision: Mapping[str, object] = getattr(record, "decision", {})
        told |= {field: value for field in FIELDS if (value := decision.get(field)) is not None}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


def formatter(environment: Mapping[str, str]) -> logging.Formatter:
    """As RAY_DRA_LOG_FORMAT says.

    Raises:
        InvalidRequest: it says neither.
    """
    said = environment.get(LOG_FORMAT_VARIABLE, "").strip() or TEXT
    if said == JSON:
        return JsonFormatter()
    if said != TEXT:
        raise InvalidRequest(
            "It is text or json.", place=LOG_FORMAT_VARIABLE, wanted=shown(said), available=f"{TEXT}, {JSON}"
        )
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s")
