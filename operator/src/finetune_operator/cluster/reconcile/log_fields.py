"""The fields of a log line about a job."""

from __future__ import annotations

from finetune_api.status import FineTuneJobStatus

from finetune_operator.cluster.cache.keys import Key


def log_fields(key: Key, status: FineTuneJobStatus | None = None) -> dict[str, object]:
    """Job and, if the status has one, attempt, for `extra` of a log call."""
    attempt = status.attempts[-1].number if status and status.attempts else None
    return {"job": f"{key[0]}/{key[1]}", "attempt": attempt}
