"""Log lines for people or, one JSON object each, for machines; with job and attempt where they are known."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from finetune_api.printable import printable


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage(),
        }
        for name in ("job", "attempt"):
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable(json.dumps(line, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """A line for people: what a job's author wrote can't do anything to their terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return printable(super().format(record))


def set_up_logs(form: str, level: str) -> None:
    """Send every logger's lines to standard error, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else
                         TextFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
