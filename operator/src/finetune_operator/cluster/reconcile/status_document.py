"""A status in the form that the apiserver accepts, and what can be written of one that it refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.definition.fitting_status import fitting_status
from finetune_api.status import ConditionType, FineTuneJobStatus

StatusDocument = dict[str, Any]
"""A status as plain JSON data."""

_SUMMARY_FIELDS = ("phase", "conditions", "observedGeneration")
_LONGEST_MESSAGE = 4096


def dump_status(status: FineTuneJobStatus) -> StatusDocument:
    """A status as plain data that fits this release's CustomResourceDefinition."""
    return fitting_status(status.model_dump(mode="json", exclude_none=True))


def repaired(refused: Mapping[str, Any], stored: Mapping[str, Any], fields: Iterable[str], message: str
             ) -> StatusDocument:
    """What to write instead of a refused status: the refused parts stay as they are stored.

    Args:
        refused: the status that the apiserver refused.
        stored: the status that the apiserver has.
        fields: paths of the refused fields, such as `status.cost.spent`; none if the apiserver named none.
        message: the apiserver's. The conditions quote it.
    """
    names = {path.split(".")[1].partition("[")[0] for path in fields if path.startswith("status.")}
    starts = "startTime" in refused and "startTime" not in stored
    if starts or not names:  # A start is recorded as a whole, before anything that costs money is created.
        status = {**stored, **{name: refused[name] for name in _SUMMARY_FIELDS if name in refused}}
    else:
        status = {name: value for name, value in refused.items() if name not in names}
        status |= {name: stored[name] for name in names if name in stored}
    note = f" (a part of the status could not be written: {message})"
    status["conditions"] = [_with_note(one, note) for one in status.get("conditions", ())]
    return status


def _with_note(condition: Mapping[str, Any], note: str) -> StatusDocument:
    if condition["type"] != ConditionType.PROGRESSING or condition["message"].endswith(note):
        return dict(condition)
    room = max(_LONGEST_MESSAGE - len(note), 0)
    return {**condition, "message": condition["message"][:room] + note[:_LONGEST_MESSAGE]}
