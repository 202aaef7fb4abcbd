"""Whether the jobs of an experiment measure the metric that it ranks by. Pure."""

from __future__ import annotations

from finetune_api.resolve import resolve_defaults
from finetune_api.spec.dataset import AnswerType
from finetune_api.spec.evaluation import JSON_METRICS, Metric
from finetune_api.spec.job import FineTuneJobSpec


def why_not_measured(spec: FineTuneJobSpec, metric: Metric) -> str | None:
    """What keeps a job from measuring a metric, as what to write; None if it does measure it."""
    resolved = resolve_defaults(spec)
    answers = resolved.dataset.answer_format
    if metric in (resolved.evaluation.metrics or ()):
        return None
    if metric in JSON_METRICS and answers.type is not AnswerType.JSON:
        return "it needs answers as JSON: set the template's dataset.answerFormat.type to json"
    if metric is Metric.SCHEMA_VALID and answers.json_schema is None:
        return "it needs a schema: write the template's dataset.answerFormat.jsonSchema"
    if metric is Metric.ANSWER_ACCURACY and not spec.method.definition.has_reward:
        return "only a job with method.type: ReFT has it"
    return "add it to the template's evaluation.metrics"
