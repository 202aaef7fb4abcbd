"""A status as the apiserver takes it, and what can still be written of one that it did not take. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.fitting import fitting_status
from finetune_api.status import ConditionType, FineTuneJobStatus

Object = dict[str, Any]
_TOLD = ("phase", "conditions", "observedGeneration")
_LONGEST = 4096


def dump_status(status: FineTuneJobStatus) -> Object:
    """A status as plain data that keeps the CustomResourceDefinition of this release."""
    return fitting_status(status.model_dump(mode="json", exclude_none=True))


def mended(wanted: Mapping[str, Any], stored: Mapping[str, Any], fields: Iterable[str], words: str) -> Object:
    """What to write in the place of a status that was refused: the refused parts stay as they are stored.

    Args:
        wanted: what was refused.
        stored: what the apiserver has.
        fields: paths that it named, such as `status.cost.spent`; none where it named none.
        words: what it said; told in the conditions.
    """
    refused = {path.split(".")[1].partition("[")[0] for path in fields if path.startswith("status.")}
    starts = "startTime" in wanted and "startTime" not in stored
    if starts or not refused:  # A start is recorded as a whole, before anything that costs is made.
        kept = {**stored, **{name: wanted[name] for name in _TOLD if name in wanted}}
    else:
        kept = {name: value for name, value in wanted.items() if name not in refused}
        kept |= {name: stored[name] for name in refused if name in stored}
    note = f" (a part of the status could not be written: {words})"
    kept["conditions"] = [_with_note(one, note) for one in kept.get("conditions", ())]
    return kept


def _with_note(condition: Mapping[str, Any], note: str) -> Object:
    if condition["type"] != ConditionType.PROGRESSING or condition["message"].endswith(note):
        return dict(condition)
    return {**condition, "message": condition["message"][:max(_LONGEST - len(note), 0)] + note[:_LONGEST]}
