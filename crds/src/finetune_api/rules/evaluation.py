"""Rules that join the evaluation with the form of the answers."""

from __future__ import annotations

from finetune_api.rule import Rule, Section
from finetune_api.rules.dataset import has_schema
from finetune_api.rules.method import CEL_HAS_REWARD, has_reward

_JSON_METRICS = {"jsonValid", "schemaValid", "fieldsMatch", "fieldAccuracy", "fieldF1Macro", "fieldF1Micro"}
_CEL_JSON = "(has(self.dataset.answerFormat) && self.dataset.answerFormat.type == 'json')"
_CEL_SCHEMA = ("(has(self.dataset.answerFormat) && (has(self.dataset.answerFormat.jsonSchema) || "
               "has(self.dataset.answerFormat.schema)))")



def _metrics(spec: Section) -> set[str]:
    return set(spec.get("evaluation", {}).get("metrics", ()))


def _answers(spec: Section) -> Section:
    answer_format: Section = spec.get("dataset", {}).get("answerFormat", {})
    return answer_format


def _gate_metric(evaluation: Section) -> str | None:
    metric: str | None = evaluation.get("gate", {}).get("metric")
    return metric


RULES: tuple[Rule, ...] = (
    Rule(
        "spec", "evaluation.metrics",
        lambda spec: not _metrics(spec) & _JSON_METRICS or _answers(spec).get("type") == "json",
        f"!has(self.evaluation) || !has(self.evaluation.metrics) || {_CEL_JSON} || "
        f"!self.evaluation.metrics.exists(m, m in {sorted(_JSON_METRICS)})",
        "JSON metrics need dataset.answerFormat.type: json: set it, or remove these metrics",
        accepts={"dataset": {"answerFormat": {"type": "json"}}, "evaluation": {"metrics": ["jsonValid"]}},
        refuses={"evaluation": {"metrics": ["jsonValid"]}},
    ),
    Rule(
        "spec", "evaluation.metrics",
        lambda spec: "schemaValid" not in _metrics(spec) or has_schema(spec.get("dataset", {})),
        f"!has(self.evaluation) || !has(self.evaluation.metrics) || {_CEL_SCHEMA} || "
        "!self.evaluation.metrics.exists(m, m == 'schemaValid')",
        "schemaValid needs dataset.answerFormat.jsonSchema: add it, or remove schemaValid",
        accepts={"dataset": {"answerFormat": {"type": "json", "jsonSchema": '{"type": "object"}'}},
                 "evaluation": {"metrics": ["schemaValid"]}},
        refuses={"dataset": {"answerFormat": {"type": "json"}}, "evaluation": {"metrics": ["schemaValid"]}},
    ),
    Rule(
        "spec", "evaluation.metrics",
        lambda spec: "answerAccuracy" not in _metrics(spec) or has_reward(spec),
        f"!has(self.evaluation) || !has(self.evaluation.metrics) || {CEL_HAS_REWARD} || "
        "!self.evaluation.metrics.exists(m, m == 'answerAccuracy')",
        "answerAccuracy is the share of answers that method.reft.reward accepts, and needs method.type: ReFT: set it, "
        "or remove answerAccuracy",
        accepts={"method": {"type": "ReFT"}, "evaluation": {"metrics": ["answerAccuracy"]}},
        refuses={"evaluation": {"metrics": ["answerAccuracy"]}},
    ),
    Rule(
        "spec", "evaluation.gate.metric",
        lambda spec: _gate_metric(spec.get("evaluation", {})) != "answerAccuracy" or has_reward(spec),
        f"!has(self.evaluation) || !has(self.evaluation.gate) || {CEL_HAS_REWARD} || "
        "self.evaluation.gate.metric != 'answerAccuracy'",
        "answerAccuracy as gate is the share of answers that method.reft.reward accepts, and needs method.type: ReFT: "
        "set it, or choose another metric",
        accepts={"method": {"type": "ReFT"}, "evaluation": {"gate": {"metric": "answerAccuracy"}}},
        refuses={"evaluation": {"gate": {"metric": "answerAccuracy"}}},
    ),
    Rule(
        "spec", "evaluation.constrained",
        lambda spec: not spec.get("evaluation", {}).get("constrained") or has_schema(spec.get("dataset", {})),
        f"!has(self.evaluation) || !has(self.evaluation.constrained) || !self.evaluation.constrained || {_CEL_SCHEMA}",
        "constrained decoding needs dataset.answerFormat.jsonSchema: add it, or set constrained: false",
        accepts={"dataset": {"answerFormat": {"type": "json", "jsonSchema": '{"type": "object"}'}},
                 "evaluation": {"constrained": True}},
        refuses={"evaluation": {"constrained": True}},
    ),
    Rule(
        "spec.evaluation", "gate.metric",
        lambda evaluation: "gate" not in evaluation or "metrics" not in evaluation
        or _gate_metric(evaluation) in evaluation["metrics"],
        "!has(self.gate) || !has(self.metrics) || self.metrics.exists(m, m == self.gate.metric)",
        "the gate's metric must be one of evaluation.metrics: add it there, or remove metrics",
        accepts={"metrics": ["loss"], "gate": {"metric": "loss"}},
        refuses={"metrics": ["loss"], "gate": {"metric": "exactMatch"}},
    ),
    Rule(
        "spec", "evaluation.gate.metric",
        lambda spec: _gate_metric(spec.get("evaluation", {})) not in _JSON_METRICS
        or _answers(spec).get("type") == "json",
        f"!has(self.evaluation) || !has(self.evaluation.gate) || {_CEL_JSON} || "
        f"!(self.evaluation.gate.metric in {sorted(_JSON_METRICS)})",
        "a JSON metric as gate needs dataset.answerFormat.type: json: set it, or choose another metric",
        accepts={"dataset": {"answerFormat": {"type": "json"}}, "evaluation": {"gate": {"metric": "fieldsMatch"}}},
        refuses={"evaluation": {"gate": {"metric": "fieldsMatch"}}},
    ),
    Rule(
        "spec.evaluation", "baseline",
        lambda evaluation: "gate" not in evaluation or evaluation.get("baseline", True),
        "!has(self.gate) || !has(self.baseline) || self.baseline",
        "a gate compares with the model before training and needs baseline: true: set it, or remove the gate",
        accepts={"gate": {"metric": "loss"}}, refuses={"gate": {"metric": "loss"}, "baseline": False},
    ),
)
