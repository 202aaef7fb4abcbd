"""The run configuration that a job keeps from its first attempt on, whatever release makes the next. Pure.

A job's image stays what it was at its start. An operator of another release would resolve the spec otherwise, and write
fields that this image's trainer never heard of: so an attempt gets what the one before it got.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from finetune_api.layout import RUN_FILE
from finetune_api.messages import RunConfig
from pydantic import ValidationError

from finetune_operator.names import ATTEMPT_LABEL, run_name
from finetune_operator.observed.objects import JobView

Object = dict[str, Any]


def earlier_run(job: JobView, maps: Iterable[Object]) -> Object:
    """The newest run configuration that an attempt of a job got, as it stands there; empty where there is none.

    Args:
        job: the job.
        maps: ConfigMaps with its uid; those of other kinds, or of somebody else, are passed over.
    """
    found: dict[int, Object] = {}
    for one in maps:
        metadata = one["metadata"]
        number = metadata.get("labels", {}).get(ATTEMPT_LABEL, "")
        owners = {owner["uid"] for owner in metadata.get("ownerReferences", ())}
        if not number.isdecimal() or metadata["name"] != run_name(job.name, job.uid, int(number)):
            continue
        text = one.get("data", {}).get(RUN_FILE, "")
        if job.uid in owners and _is_of(job, text):
            found[int(number)] = json.loads(text)
    return found[max(found)] if found else {}


def _is_of(job: JobView, text: str) -> bool:
    try:
        config = RunConfig.read(text)
    except ValidationError:
        return False
    return (config.uid, config.spec_hash) == (job.uid, job.status.spec_hash)


def run_text(config: RunConfig, earlier: Object, smallest: bool) -> str:
    """The text of an attempt's run.json.

    Args:
        config: what this release would give the attempt.
        earlier: what the one before it got; empty for the first one, and where that can't be read any more.
        smallest: whether it is to take as little of the accelerator's memory as it can.
    """
    made: Object = json.loads(config.model_dump_json(exclude_none=True))
    if earlier:
        # What belongs to this attempt's pod alone, in fields that every release has.
        accelerator = _changed(earlier["accelerator"], made["accelerator"], "hostMemoryBytes")
        kept = _changed({**earlier, "accelerator": accelerator}, made, "attempt", "image")
        if "allowedPlugins" in kept:  # Not what the administrator allowed once.
            kept["allowedPlugins"] = made.get("allowedPlugins", [])
        if smallest:
            training = _changed(earlier["spec"]["training"], made["spec"]["training"], "microBatchSize",
                                "gradientCheckpointing")
            kept["spec"] = {**earlier["spec"], "training": training}
        made = kept
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def _changed(kept: Object, made: Object, *names: str) -> Object:
    return {**kept, **{name: made[name] for name in names if name in made}}
