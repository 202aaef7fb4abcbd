"""The generated files, and the generated sections of files that people write."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from finetune_api.definition.crd import PLURAL, crd, editor_schema
from finetune_api.definition.experiment_crd import EXPERIMENT_PLURAL, experiment_crd
from finetune_api.definition.experiment_editor_schema import experiment_editor_schema
from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_api.generate.api_page import experiment_reference, reference
from finetune_api.generate.enums import exit_codes_module, reasons_module
from finetune_api.generate.reason_tables import alert_table, exit_code_table, failed_job_alerts, reason_tables
from finetune_api.job import KIND
from finetune_api.values.api_model import GROUP

_HEADER = "# Generated from finetune_api by `make generate`; edit the models instead.\n"
_SOURCE = "crds/src/finetune_api"
_JOB_SCHEMA, _EXPERIMENT_SCHEMA = "crds/finetunejob.schema.json", "crds/finetuneexperiment.schema.json"


def generated_files() -> dict[str, str]:
    """Every file that is generated as a whole: its path in the repository and its content."""
    return {
        f"crds/{GROUP}_{PLURAL}.yaml": _yaml(crd()),
        f"crds/{GROUP}_{EXPERIMENT_PLURAL}.yaml": _yaml(experiment_crd()),
        _JOB_SCHEMA: _json(editor_schema()),
        _EXPERIMENT_SCHEMA: _json(experiment_editor_schema()),
        "crds/finetune.schema.json": _json(_schema_by_kind()),
        "docs/reference/api.md": reference(),
        "docs/reference/experiment.md": experiment_reference(),
        f"{_SOURCE}/generated/reasons.py": reasons_module(),
        f"{_SOURCE}/generated/exit_codes.py": exit_codes_module(),
    }


def _schema_by_kind() -> dict[str, Any]:
    """The JSON Schema of files with jobs, experiments and objects of other kinds."""
    kinds = {KIND: _JOB_SCHEMA, EXPERIMENT_KIND: _EXPERIMENT_SCHEMA}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "allOf": [
        {"if": {"required": ["kind"], "properties": {"kind": {"const": kind}}},
         "then": {"$ref": file.rpartition("/")[2]}} for kind, file in kinds.items()]}


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _yaml(document: Any) -> str:
    return _HEADER + yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)


def generated_sections() -> dict[str, str]:
    """What stands between the marks `generated: begin` and `generated: end` of a file, by the file's path."""
    return {
        "docs/reference/conditions.md": reason_tables(),
        "docs/reference/output.md": exit_code_table(),
        "docs/reference/alerts.md": alert_table(),
        "charts/finetune-operator/files/alerts.yaml": failed_job_alerts(),
    }


def with_section(text: str, section: str) -> str:
    """A file's text with its generated section replaced.

    Raises:
        ValueError: the text has no such section.
    """
    pattern = re.compile(r"(^[^\n]*generated: begin[^\n]*\n).*?(^[^\n]*generated: end)", re.DOTALL | re.MULTILINE)
    replaced, count = pattern.subn(lambda found: f"{found[1]}{section}{found[2]}", text)
    if count != 1:
        raise ValueError(f"has {count} generated sections; it must have one, between `generated: begin` and "
                         "`generated: end`")
    return replaced
