"""Rules that join fields of `spec.dataset`."""

from __future__ import annotations

import re

from finetune_api.rule import Rule, Section
from finetune_api.values.json_schema import FORM, OBJECT_PATTERN

_CEL_HAS_SPLITS = "(self.source.startsWith('hf://') || self.source.endsWith('/'))"


def _has_splits(data: Section) -> bool:
    source: str = data["source"]
    return source.startswith("hf://") or source.endswith("/")


def has_schema(data: Section) -> bool:
    """Whether answers have a JSON Schema, as text or as an object."""
    return bool({"jsonSchema", "schema"} & set(data.get("answerFormat", {})))


RULES: tuple[Rule, ...] = (
    Rule(
        "spec.dataset", "prompt",
        lambda data: ("prompt" in data) != ("messages" in data),
        "has(self.prompt) != has(self.messages)",
        "exactly one of prompt and messages is needed: write prompt and completion, or messages",
        accepts={}, refuses={"messages": "chat"},
    ),
    Rule(
        "spec.dataset", "completion",
        lambda data: ("prompt" in data) == ("completion" in data),
        "has(self.prompt) == has(self.completion)",
        "prompt and completion need each other: write both, or messages instead",
        accepts={}, refuses={"completion": None},
    ),
    Rule(
        "spec.dataset", "evaluationFraction",
        lambda data: not ("evaluationSplit" in data and "evaluationFraction" in data),
        "!has(self.evaluationSplit) || !has(self.evaluationFraction)",
        "evaluationSplit and evaluationFraction exclude each other: remove one",
        accepts={"evaluationFraction": 0.1},
        refuses={"source": "s3://bucket/data/", "evaluationSplit": "test", "evaluationFraction": 0.1},
    ),
    Rule(
        "spec.dataset", "evaluationSplit",
        lambda data: "evaluationSplit" not in data or _has_splits(data),
        f"!has(self.evaluationSplit) || {_CEL_HAS_SPLITS}",
        "a single file has one split: write evaluationFraction instead, or a folder (with a slash at its end) whose "
        "files are named after their splits",
        accepts={"source": "s3://bucket/data/", "evaluationSplit": "test"}, refuses={"evaluationSplit": "test"},
    ),
    Rule(
        "spec.dataset", "sha256",
        lambda data: "sha256" not in data or not _has_splits(data),
        f"!has(self.sha256) || !{_CEL_HAS_SPLITS}",
        "sha256 is the digest of one file: for hf:// or a folder, write a revision or remove sha256",
        accepts={"sha256": "0" * 64}, refuses={"source": "hf://owner/name", "sha256": "0" * 64},
    ),
    Rule(
        "spec.dataset", "revision",
        lambda data: "revision" not in data or data["source"].startswith("hf://"),
        "!has(self.revision) || self.source.startsWith('hf://')",
        "only an hf:// data set has a revision: for a file, write its sha256 instead",
        accepts={"source": "hf://owner/name", "revision": "main"}, refuses={"revision": "main"},
    ),
    Rule(
        "spec.dataset", "answerFormat.jsonSchema",
        lambda data: not has_schema(data) or data["answerFormat"].get("type") == "json",
        "!has(self.answerFormat) || (!has(self.answerFormat.jsonSchema) && !has(self.answerFormat.schema)) || "
        "self.answerFormat.type == 'json'",
        "a JSON Schema needs answerFormat.type: json: set it, or remove the schema",
        accepts={"answerFormat": {"type": "json", "jsonSchema": '{"type": "object"}'}},
        refuses={"answerFormat": {"jsonSchema": '{"type": "object"}'}},
    ),
    Rule(
        "spec.dataset", "answerFormat.jsonSchema",
        lambda data: not isinstance(text := data.get("answerFormat", {}).get("jsonSchema"), str)
        or re.match(OBJECT_PATTERN, text) is not None,
        "!has(self.answerFormat) || !has(self.answerFormat.jsonSchema) || "
        rf"self.answerFormat.jsonSchema.matches(r'{OBJECT_PATTERN}')",
        FORM,
        accepts={"answerFormat": {"type": "json", "jsonSchema": '\n  {"type": "object"}\n'}},
        refuses={"answerFormat": {"type": "json", "jsonSchema": "type: object"}},
    ),
)
