"""Every rule that joins several fields, declared once: what holds, what to say, and one case for and against.

A rule judges the object as the user wrote it (camelCase keys, only what is there), here in Python and in the cluster
as CEL; the apiserver has filled in the defaults of the CustomResourceDefinition by then. Rules of one field alone are
in its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Section = Mapping[str, Any]

_JSON_METRICS = {"jsonValid", "schemaValid", "fieldsMatch", "fieldAccuracy", "fieldF1Macro", "fieldF1Micro"}
_TRAINED = {"LoRA", "DoRA"}
_CEL_HAS_SPLITS = "(self.source.startsWith('hf://') || self.source.endsWith('/'))"
_CEL_JSON = "(has(self.dataset.answerFormat) && self.dataset.answerFormat.type == 'json')"
_CEL_SCHEMA = "(has(self.dataset.answerFormat) && has(self.dataset.answerFormat.schema))"
_CEL_PROCESSES = ("(has(self.compute) ? self.compute.nodes * "
                  "(self.compute.accelerator == 'cpu' ? 1 : self.compute.gpusPerNode) : 1)")
_SMALLEST_DATA = {"source": "s3://bucket/train.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}"}


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        section: the part of the job that it judges, such as `spec.dataset`.
        field: the field, below the section, that an error points at.
        holds: whether a section keeps the rule.
        cel: the same in CEL, where `self` is the section.
        message: what is wrong and what to write instead.
        accepts: a section that keeps it, given as a merge patch on the smallest job's section.
        refuses: a section that breaks it.
    """

    section: str
    field: str
    holds: Callable[[Section], bool]
    cel: str
    message: str
    accepts: Section
    refuses: Section

    @property
    def path(self) -> str:
        """The field that an error points at, from the root of the job."""
        return f"{self.section}.{self.field}"


@dataclass(frozen=True)
class Violation:
    """A broken rule: the path and the value of the field, and the rule's message."""

    path: str
    value: Any
    message: str


def _has_splits(data: Section) -> bool:
    source: str = data["source"]
    return source.startswith("hf://") or source.endswith("/")


def _method_type(method: Section) -> str:
    written: str = method.get("type", "LoRA")
    return written


def _metrics(spec: Section) -> set[str]:
    return set(spec.get("evaluation", {}).get("metrics", ()))


def _answers(spec: Section) -> Section:
    answer_format: Section = spec.get("dataset", {}).get("answerFormat", {})
    return answer_format


def _gate_metric(evaluation: Section) -> str | None:
    metric: str | None = evaluation.get("gate", {}).get("metric")
    return metric


def _processes(spec: Section) -> int:
    compute = spec.get("compute", {})
    gpus: int = 1 if compute.get("accelerator") == "cpu" else compute.get("gpusPerNode", 1)
    nodes: int = compute.get("nodes", 1)
    return nodes * gpus or 1  # Nought has an error of its own.


RULES: tuple[Rule, ...] = (
    Rule(
        "spec.dataset", "prompt",
        lambda data: ("prompt" in data) != ("messages" in data),
        "has(self.prompt) != has(self.messages)",
        "write either prompt and completion, or messages",
        accepts={}, refuses={"messages": "chat"},
    ),
    Rule(
        "spec.dataset", "completion",
        lambda data: ("prompt" in data) == ("completion" in data),
        "has(self.prompt) == has(self.completion)",
        "prompt and completion go together: write both, or neither and messages",
        accepts={}, refuses={"completion": None},
    ),
    Rule(
        "spec.dataset", "evaluationFraction",
        lambda data: not ("evaluationSplit" in data and "evaluationFraction" in data),
        "!has(self.evaluationSplit) || !has(self.evaluationFraction)",
        "write evaluationSplit or evaluationFraction, not both",
        accepts={"evaluationFraction": 0.1},
        refuses={"source": "s3://bucket/data/", "evaluationSplit": "test", "evaluationFraction": 0.1},
    ),
    Rule(
        "spec.dataset", "evaluationSplit",
        lambda data: "evaluationSplit" not in data or _has_splits(data),
        f"!has(self.evaluationSplit) || {_CEL_HAS_SPLITS}",
        "a single file has one split: write evaluationFraction, or give a folder (with a slash at its end) whose files "
        "are named after their splits",
        accepts={"source": "s3://bucket/data/", "evaluationSplit": "test"}, refuses={"evaluationSplit": "test"},
    ),
    Rule(
        "spec.dataset", "sha256",
        lambda data: "sha256" not in data or not _has_splits(data),
        f"!has(self.sha256) || !{_CEL_HAS_SPLITS}",
        "sha256 is the digest of one file; for hf:// write a revision instead",
        accepts={"sha256": "0" * 64}, refuses={"source": "hf://owner/name", "sha256": "0" * 64},
    ),
    Rule(
        "spec.dataset", "revision",
        lambda data: "revision" not in data or data["source"].startswith("hf://"),
        "!has(self.revision) || self.source.startsWith('hf://')",
        "only an hf:// data set has a revision; for a file write its sha256",
        accepts={"source": "hf://owner/name", "revision": "main"}, refuses={"revision": "main"},
    ),
    Rule(
        "spec.dataset", "answerFormat.schema",
        lambda data: "schema" not in data.get("answerFormat", {}) or data["answerFormat"].get("type") == "json",
        "!has(self.answerFormat) || !has(self.answerFormat.schema) || self.answerFormat.type == 'json'",
        "a schema needs answerFormat.type: json",
        accepts={"answerFormat": {"type": "json", "schema": {"type": "object"}}},
        refuses={"answerFormat": {"schema": {"type": "object"}}},
    ),
    Rule(
        "spec.method", "type",
        lambda method: _method_type(method) in _TRAINED,
        "!has(self.type) || self.type in ['LoRA', 'DoRA']",
        "this version trains LoRA and DoRA; write one of them",
        accepts={"type": "DoRA"}, refuses={"type": "Full"},
    ),
    Rule(
        "spec.method", "lora",
        lambda method: "lora" not in method or _method_type(method) != "DoRA",
        "!has(self.lora) || self.type != 'DoRA'",
        "the block lora belongs to type LoRA: change the type, or name the block after it",
        accepts={"lora": {"rank": 4}}, refuses={"type": "DoRA", "lora": {"rank": 4}},
    ),
    Rule(
        "spec.method", "dora",
        lambda method: "dora" not in method or _method_type(method) != "LoRA",
        "!has(self.dora) || self.type != 'LoRA'",
        "the block dora belongs to type DoRA: change the type, or name the block after it",
        accepts={"type": "DoRA", "dora": {"rank": 4}}, refuses={"type": "LoRA", "dora": {"rank": 4}},
    ),
    Rule(
        "spec", "engine",
        lambda spec: spec.get("engine", "native") == "native",
        "!has(self.engine) || self.engine == 'native'",
        "this version has the native engine only; leave engine out",
        accepts={"engine": "native"}, refuses={"engine": "unsloth"},
    ),
    Rule(
        "spec.training", "maxSteps",
        lambda training: not ("epochs" in training and "maxSteps" in training),
        "!has(self.epochs) || !has(self.maxSteps)",
        "write epochs or maxSteps, not both",
        accepts={"maxSteps": 10}, refuses={"epochs": 1, "maxSteps": 10},
    ),
    Rule(
        "spec.training", "microBatchSize",
        lambda training: training.get("microBatchSize", 1) <= training.get("batchSize", 16),
        "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
        "microBatchSize is a part of batchSize: write a number no larger than batchSize (16 by default)",
        accepts={"batchSize": 8, "microBatchSize": 8}, refuses={"batchSize": 8, "microBatchSize": 9},
    ),
    Rule(
        "spec", "training.batchSize",
        lambda spec: spec.get("training", {}).get("batchSize", 16) % _processes(spec) == 0,
        f"(has(self.training) ? self.training.batchSize : 16) % {_CEL_PROCESSES} == 0",
        "the rows of a step are shared equally among all GPUs: write a multiple of compute.nodes × compute.gpusPerNode "
        "(batchSize is 16 by default)",
        accepts={"training": {"batchSize": 24}, "compute": {"nodes": 3, "gpusPerNode": 4}},
        refuses={"compute": {"nodes": 3, "gpusPerNode": 4}},
    ),
    Rule(
        "spec", "evaluation.metrics",
        lambda spec: not _metrics(spec) & _JSON_METRICS or _answers(spec).get("type") == "json",
        f"!has(self.evaluation) || !has(self.evaluation.metrics) || {_CEL_JSON} || "
        f"!self.evaluation.metrics.exists(m, m in {sorted(_JSON_METRICS)})",
        "JSON metrics need dataset.answerFormat.type: json",
        accepts={"dataset": {"answerFormat": {"type": "json"}}, "evaluation": {"metrics": ["jsonValid"]}},
        refuses={"evaluation": {"metrics": ["jsonValid"]}},
    ),
    Rule(
        "spec", "evaluation.metrics",
        lambda spec: "schemaValid" not in _metrics(spec) or "schema" in _answers(spec),
        f"!has(self.evaluation) || !has(self.evaluation.metrics) || {_CEL_SCHEMA} || "
        "!self.evaluation.metrics.exists(m, m == 'schemaValid')",
        "schemaValid needs dataset.answerFormat.schema",
        accepts={"dataset": {"answerFormat": {"type": "json", "schema": {"type": "object"}}},
                 "evaluation": {"metrics": ["schemaValid"]}},
        refuses={"dataset": {"answerFormat": {"type": "json"}}, "evaluation": {"metrics": ["schemaValid"]}},
    ),
    Rule(
        "spec", "evaluation.constrained",
        lambda spec: not spec.get("evaluation", {}).get("constrained") or "schema" in _answers(spec),
        f"!has(self.evaluation) || !has(self.evaluation.constrained) || !self.evaluation.constrained || {_CEL_SCHEMA}",
        "constrained decoding needs dataset.answerFormat.schema",
        accepts={"dataset": {"answerFormat": {"type": "json", "schema": {"type": "object"}}},
                 "evaluation": {"constrained": True}},
        refuses={"evaluation": {"constrained": True}},
    ),
    Rule(
        "spec.evaluation", "gate.metric",
        lambda evaluation: "gate" not in evaluation or "metrics" not in evaluation
        or _gate_metric(evaluation) in evaluation["metrics"],
        "!has(self.gate) || !has(self.metrics) || self.metrics.exists(m, m == self.gate.metric)",
        "the gate's metric must be one of evaluation.metrics: add it there, or leave metrics out",
        accepts={"metrics": ["loss"], "gate": {"metric": "loss"}},
        refuses={"metrics": ["loss"], "gate": {"metric": "exactMatch"}},
    ),
    Rule(
        "spec", "evaluation.gate.metric",
        lambda spec: _gate_metric(spec.get("evaluation", {})) not in _JSON_METRICS
        or _answers(spec).get("type") == "json",
        f"!has(self.evaluation) || !has(self.evaluation.gate) || {_CEL_JSON} || "
        f"!(self.evaluation.gate.metric in {sorted(_JSON_METRICS)})",
        "a JSON metric as gate needs dataset.answerFormat.type: json",
        accepts={"dataset": {"answerFormat": {"type": "json"}}, "evaluation": {"gate": {"metric": "fieldsMatch"}}},
        refuses={"evaluation": {"gate": {"metric": "fieldsMatch"}}},
    ),
    Rule(
        "spec.evaluation", "baseline",
        lambda evaluation: "gate" not in evaluation or evaluation.get("baseline", True),
        "!has(self.gate) || !has(self.baseline) || self.baseline",
        "a gate compares with the model before training: leave baseline true, or the gate out",
        accepts={"gate": {"metric": "loss"}}, refuses={"gate": {"metric": "loss"}, "baseline": False},
    ),
)


def _location_rules(section: str, field: str, forms: str, stored: str, inside: str, outside: str) -> tuple[Rule, Rule]:
    """What holds of a location in a cluster: it is not this machine's, and it holds no `..`.

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
            "a location holds no '..': write the path without",
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
)
"""What holds of a job in a cluster beside `RULES`. A file for `finetune run` may break the first kind; the second is
part of the locations' own type there, which CEL does not have."""

FIXED_SECTIONS = ("model", "dataset", "output", "method", "engine", "training", "evaluation", "compute")
"""The sections of a spec that can't change once the job has started: all but runPolicy and budget."""

SMALLEST_SPEC: Section = {
    "model": {"source": "owner/name"},
    "dataset": _SMALLEST_DATA,
    "output": {"uri": "s3://bucket/prefix"},
}
"""The smallest spec there is: a model, a data set and an output. The rules' cases are patches on it."""


def merge_patch(base: Section, patch: Section) -> dict[str, Any]:
    """`base` with `patch` merged in; None removes a key (RFC 7386)."""
    merged = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge_patch(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def look_up(tree: Any, path: str) -> Any:
    """The value at a dotted path, or None where there is nothing."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _written(tree: Any) -> Any:
    """A tree without its nulls: to the apiserver, too, they are as good as left out."""
    if isinstance(tree, Mapping):
        return {key: _written(value) for key, value in tree.items() if value is not None}
    return tree


def broken_rules(job: Section) -> Iterator[Violation]:
    """The rules that a job breaks, in their order.

    A rule that meets a value of an impossible type is passed over: that value has an error of its own.
    """
    job = _written(job)
    for rule in RULES:
        section = look_up(job, rule.section)
        if not isinstance(section, Mapping):
            continue
        try:
            held = rule.holds(section)
        except (TypeError, KeyError, AttributeError):
            continue
        if not held:
            yield Violation(rule.path, look_up(job, rule.path), rule.message)
