"""Reading Kubernetes timestamps."""

from __future__ import annotations

from datetime import UTC, datetime

from finetune_api.status import usable_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for the creation time of an object whose own cannot be read."""


def time_of(text: str | None) -> datetime | None:
    """The time that a timestamp gives; None if there is no timestamp or it cannot be read."""
    try:
        return usable_time(datetime.fromisoformat(text)) if text else None
    except (ValueError, TypeError):
        return None
