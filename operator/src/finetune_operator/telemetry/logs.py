"""Log lines: text for people, or one JSON object a line for machines. A line about a job names job and attempt."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

from finetune_api.values.printable import printable
from pythonjsonlogger.json import JsonFormatter

_NAMES = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}
"""The fields of a JSON line that have another name than in `logging`."""

_FIELDS = ("time", "level", "logger", "message", "job", "attempt", "exception")
"""The fields of a JSON line. Other libraries' extra fields are left out: they may hold anything."""


class JsonLines(JsonFormatter):
    """One JSON object a line, in which no character can harm a terminal."""

    def __init__(self) -> None:
        super().__init__(("asctime", "levelname", "name", "message"), rename_fields=_NAMES, json_ensure_ascii=False)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The time in UTC, as in RFC 3339."""
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        """The known fields that have a value."""
        log_data["level"] = str(log_data["level"]).lower()
        return {name: log_data[name] for name in _FIELDS if log_data.get(name) is not None}

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return printable(super().format(record))


class TextLines(logging.Formatter):
    """A line of text, in which no character can harm a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return printable(super().format(record))


def set_up_logs(form: str, level: str) -> None:
    """Send the lines of all loggers to standard error.

    Args:
        form: `text` or `json`.
        level: `debug`, `info` or `warning`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
