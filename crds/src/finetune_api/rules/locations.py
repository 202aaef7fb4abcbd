"""Rules of the locations that a job in a cluster may read and write."""

from __future__ import annotations

import re

from finetune_api.rule import Rule
from finetune_api.values.json_schema import FORM
from finetune_api.values.uris import HTTPS_PATTERN


def _location_rules(section: str, field: str, forms: str, stored: str, inside: str, outside: str) -> tuple[Rule, Rule]:
    """The rules of a location in a cluster: it is not on this machine, and it holds no `..`.

    Args:
        section: where the location is.
        field: the location's field.
        forms: what can be written instead of file://.
        stored: a location that keeps the first rule.
        inside: one that keeps the second.
        outside: one that breaks the second.
    """
    return (
        Rule(
            section, field,
            lambda data: not data[field].startswith("file://"),
            f"!self.{field}.startsWith('file://')",
            f"file:// is for `finetune run` alone; in a cluster write {forms}",
            accepts={field: stored}, refuses={field: "file:///data/here"},
        ),
        Rule(
            section, field,
            lambda data: ".." not in data[field].split("/"),
            f"!self.{field}.matches('(^|/)[.][.](/|$)')",
            "a location holds no '..': write the path without it",
            accepts={field: inside}, refuses={field: outside},
        ),
    )


STORED_RULES: tuple[Rule, ...] = (
    *_location_rules("spec.model", "source", "owner/name of the hub, s3://bucket/folder or pvc://claim/folder",
                     "pvc://models/mistral", "pvc://models/a..b", "pvc://models/../secrets"),
    *_location_rules("spec.dataset", "source",
                     "hf://owner/name, s3://bucket/key, https://host/path or pvc://claim/path",
                     "https://host/rows.jsonl", "pvc://data/a..b.jsonl", "pvc://data/../rows.jsonl"),
    *_location_rules("spec.output", "uri", "s3://bucket/prefix or pvc://claim/folder",
                     "pvc://results/runs", "pvc://results/a..b", "pvc://results/.."),
    Rule(
        "spec.dataset", "answerFormat.schema",
        lambda data: "schema" not in data.get("answerFormat", {}),
        "!has(self.answerFormat) || !has(self.answerFormat.schema) || (oldSelf.hasValue() && "
        "has(oldSelf.value().answerFormat) && has(oldSelf.value().answerFormat.schema))",
        FORM,
        accepts={"answerFormat": {"type": "json", "jsonSchema": '{"type": "object"}'}},
        refuses={"answerFormat": {"type": "json", "schema": {"type": "object"}}},
    ),
    Rule(
        "spec.dataset", "source",
        lambda data: not data["source"].startswith("https://") or bool(re.match(HTTPS_PATTERN, data["source"])),
        f"!self.source.startsWith('https://') || self.source.matches(r'{HTTPS_PATTERN}')",
        "write https://host/path or https://host:port/path, with a port from 1 to 65535",
        accepts={"source": "https://host:8443/rows.jsonl"}, refuses={"source": "https://host:65536/rows.jsonl"},
    ),
)
"""What holds of a job in a cluster beside the rules of every job. A file for `finetune run` may break the first kind;
the second is part of the locations' own type there, which CEL does not have."""
