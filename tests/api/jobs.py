"""Jobs that the tests of the API start from."""

from __future__ import annotations

import copy
from typing import Any

from finetune_api import FieldError, FineTuneJob, InvalidJob, parse_job
from finetune_api.rules import SMALLEST_SPEC, merge_patch

TEXT = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: smallest
spec:
  model:
    source: owner/name
  dataset:
    source: s3://bucket/train.jsonl
    prompt: "{{ q }}"
    completion: "{{ a }}"
  output:
    uri: s3://bucket/prefix
"""
"""The smallest job as YAML: 13 lines, so that what a test adds begins on line 14."""


def document(**sections: Any) -> dict[str, Any]:
    """The smallest job as plain data, with merge patches on its sections."""
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "smallest"},
            "spec": merge_patch(copy.deepcopy(SMALLEST_SPEC), sections)}


def job(**sections: Any) -> FineTuneJob:
    """The smallest job with merge patches on its sections."""
    return parse_job(document(**sections))


def nested(path: str, value: Any) -> dict[str, Any]:
    """`value` at a dotted path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def errors_of(data: Any) -> list[FieldError]:
    """What is wrong with a job."""
    try:
        parse_job(data)
    except InvalidJob as error:
        return list(error.errors)
    return []
