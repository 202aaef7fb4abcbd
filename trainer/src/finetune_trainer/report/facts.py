"""The facts of a finished run, and the table that compares before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from finetune_api.messages import Outcome, RunConfig, Stage
from finetune_api.messages.layout import job_prefix, results_prefix
from finetune_api.spec.evaluation import Metric
from finetune_api.status.evaluation import headline

from finetune_trainer.data.rows import LEFT_OUT
from finetune_trainer.evaluation.gate import gate_of, judge
from finetune_trainer.evaluation.scores import Scores

if TYPE_CHECKING:
    from finetune_trainer.evaluation.evaluate import Evaluation
    from finetune_trainer.trained_model import LoadInstructions
    from finetune_trainer.training.result import RolloutExample

METRIC_LABELS = {
    "loss": "loss (nats per answer token)",
    "perplexity": "perplexity",
    "answerAccuracy": "right answer",
    "exactMatch": "whole answer right",
    "jsonValid": "valid JSON",
    "schemaValid": "matches the schema",
    "fieldsMatch": "all fields right",
    "fieldAccuracy": "accuracy",
    "fieldF1Macro": "macro F1",
    "fieldF1Micro": "micro F1 (0 is empty)",
}
"""What the reports call a metric."""
MOST_COMMON_ANSWER = "most common answer"
"""Title of the column with the scores of always giving the most common answer of the training rows."""
_TRAINING = (Stage.TRAINING, Stage.WARM_UP, Stage.PPO)
SHARES = {"answerAccuracy", "exactMatch", "jsonValid", "schemaValid", "fieldsMatch"}


@dataclass(frozen=True)
class PromptCode:
    """How to ask the model a question. It gives the same token ids as in the run.

    Attributes:
        lines: Python lines that make the string `prompt` from the string `question` and a `tokenizer`.
        adds_special_tokens: whether the tokenizer must add its special tokens to the prompt.
        end_ids: the tokens that end an answer.
        pad_id: the padding token.
        max_new_tokens: the maximum length of an answer, in tokens.
    """

    lines: tuple[str, ...]
    adds_special_tokens: bool
    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int


@dataclass(frozen=True)
class RunFacts:
    """All facts that the table, the report and the card show. None of them is secret.

    Attributes:
        run: the run configuration.
        created: when the run ended.
        base_model: the location of the base model, as the job writes it.
        base_revision: the commit of the base model, or the digest of its weights.
        base: architecture, layers, hidden size, number of parameters, the data type it was loaded in, and its kernels.
        counts: numbers of rows: read, trained on, held out, cut, dropped and left out.
        findings: warnings about rows.
        before: the evaluation before training; None if the job has none.
        after: the evaluation after training.
        majority: scores of always giving the most common value of each field; None without such fields.
        reference: scores of the reference model; None if the job names none.
        reference_answers: its answers, by the number of the row.
        steps: one mapping per step, as in metrics.jsonl: step, epoch, loss, learningRate, tokens, seconds, …
        step: optimizer steps done.
        total_steps: planned steps.
        resumed_from_step: step of the checkpoint that the last attempt resumed from; 0 if none.
        stopped_early: why training ended before its last step, or None.
        micro_batch_size: rows per forward pass.
        trainable_parameters: number of trained parameters.
        published_folder: folder of the trained weights, below the results.
        loading: how to load the weights from that folder.
        stage_seconds: seconds of each stage of this attempt, by name.
        peak_memory_bytes: peak memory (allocated on the GPU, or resident on a CPU).
        device: the hardware that the run used.
        cost: money spent, including earlier attempts.
        currency: the currency of the cost.
        hourly_rate: price per hour of all accelerators together.
        packages: package versions.
        gate: the result of the quality gate, in words; None if the job has no gate.
        remark: another sentence about the result, or None.
        rollouts: sampled responses with their rewards, from the first and the last PPO step.
        missing: sentences about optional parts of the run that failed.
        checkpointing: which layers were checkpointed, in words; None if none were.
        prompt_code: how to ask the model a question, for the code in the card.
    """

    run: RunConfig
    created: datetime
    base_model: str
    base_revision: str
    base: Mapping[str, Any]
    counts: Mapping[str, int]
    findings: Sequence[str]
    before: Evaluation | None
    after: Evaluation
    majority: Scores | None
    reference: Scores | None
    steps: Sequence[Mapping[str, Any]]
    step: int
    total_steps: int
    resumed_from_step: int
    stopped_early: str | None
    micro_batch_size: int
    trainable_parameters: int
    published_folder: str
    loading: LoadInstructions
    stage_seconds: Mapping[str, float]
    peak_memory_bytes: int
    device: str
    cost: Decimal
    currency: str
    hourly_rate: Decimal
    packages: Mapping[str, str]
    gate: str | None
    remark: str | None = None
    rollouts: Sequence[RolloutExample] = ()
    missing: Sequence[str] = ()
    checkpointing: str | None = None
    prompt_code: PromptCode | None = None
    reference_answers: Mapping[int, str] = field(default_factory=dict)

    @property
    def method_name(self) -> str:
        """The usual name of the method: QLoRA, DoRA, LoRA (int8), IA3, Full, …"""
        return self.run.spec.method.display_name

    @property
    def trained_tokens(self) -> int:
        """Tokens of all logged steps, without padding."""
        return sum(int(step["tokens"]) for step in self.steps)

    @property
    def tokens_per_second(self) -> float:
        """Mean training speed over all logged steps."""
        seconds = sum(float(step["seconds"]) for step in self.steps)
        return self.trained_tokens / seconds if seconds else 0.0

    @property
    def wall_seconds(self) -> float:
        """Seconds of this attempt: the sum of all stages."""
        return sum(self.stage_seconds.values())

    @property
    def published_location(self) -> str:
        """Location of the published weights."""
        run = self.run
        return str(run.spec.output.uri.join(job_prefix(run.namespace, run.name, run.uid), results_prefix(run.attempt),
                                            self.published_folder))

    @property
    def outcome(self) -> Outcome:
        """How the run ended: succeeded, missed its quality gate, or stopped early."""
        gate = gate_of(self.run.spec)
        verdict = judge(gate, self.before.scores if self.before else None, self.after.scores)
        if verdict and not verdict.passed:
            return Outcome.QUALITY_GATE
        return Outcome.STOPPED_EARLY if self.stopped_early else Outcome.SUCCEEDED


@dataclass(frozen=True)
class Comparison:
    """One line of the table: a metric and its value in each column ("–" if there is no value)."""

    label: str
    cells: tuple[str, ...]


def columns(facts: RunFacts) -> list[tuple[str, Scores]]:
    """Title and scores of each column of the table. Columns without scores are left out."""
    before, after = facts.before, facts.after
    candidates: list[tuple[str, Scores | None]] = [
        (MOST_COMMON_ANSWER, facts.majority),
        ("before", before.scores if before else None),
        ("after", after.scores),
        ("before, constrained", before.constrained if before else None),
        ("after, constrained", after.constrained),
        ("reference", facts.reference),
    ]
    return [(title, scores) for title, scores in candidates if scores]


def comparisons(facts: RunFacts) -> list[Comparison]:
    """The lines of the table. A metric per field has one line for each field."""
    shown = columns(facts)
    lines: list[Comparison] = []
    for metric, label in METRIC_LABELS.items():
        values = [scores.get(metric) for _, scores in shown]
        if all(value is None for value in values):
            continue
        fields = list(dict.fromkeys(key for value in values if isinstance(value, Mapping) for key in value))
        if not fields:
            lines.append(Comparison(label, tuple(score_text(metric, value) for value in values)))
        for name in fields:
            lines.append(Comparison(f"{label}: {name}", tuple(
                score_text(metric, value.get(name) if isinstance(value, Mapping) else None) for value in values)))
    return lines


def score_text(metric: str, value: Any) -> str:
    """A score as the reports write it: a share in percent; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if metric in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3g}"


@dataclass(frozen=True)
class Figure:
    """One of the most important numbers of a run, with a note that explains it."""

    label: str
    value: str
    note: str


def figures(facts: RunFacts) -> list[Figure]:
    """The most important numbers: score, loss, cost, time, memory and speed. A dash stands for an unknown value."""
    gate = facts.run.spec.evaluation.gate
    wanted = (*((gate.metric,) if gate else ()), Metric.ANSWER_ACCURACY, Metric.FIELDS_MATCH, Metric.EXACT_MATCH)
    metric = next((metric for metric in wanted if headline(facts.after.scores, metric) is not None), Metric.LOSS)
    found = [_score_figure(facts, metric) for metric in dict.fromkeys((metric, Metric.LOSS))]
    generated = facts.after.generated_tokens / facts.after.generation_seconds if facts.after.generation_seconds else 0.0
    of = facts.run.accelerator.memory_bytes
    return [
        *(figure for figure in found if figure),
        Figure("cost", f"{facts.cost:f} {facts.currency}", f"at {facts.hourly_rate:f} {facts.currency} per hour"),
        Figure("wall time", human_seconds(facts.wall_seconds),
               f"attempt {facts.run.attempt}, without earlier attempts" if facts.run.attempt > 1 else
               f"training {human_seconds(sum(facts.stage_seconds.get(stage, 0) for stage in _TRAINING))}"),
        Figure("peak memory", human_bytes(facts.peak_memory_bytes), f"of {human_bytes(of)}" if of else facts.device),
        Figure("speed", f"{facts.tokens_per_second:,.0f} tokens/s" if facts.tokens_per_second else "–",
               f"in training; {generated:,.0f} tokens/s in generation" if generated else "in training"),
    ]


def _score_figure(facts: RunFacts, metric: Metric) -> Figure | None:
    values = {title: headline(scores, metric) for title, scores in columns(facts)}
    if values.get("after") is None:
        return None
    cells = {title: score_text(metric, value) for title, value in values.items() if value is not None}
    many = ", mean of its fields" if isinstance(facts.after.scores[metric], Mapping) else ""
    beside = [f"{title} {cells[title]}" for title in (MOST_COMMON_ANSWER, "reference") if title in cells]
    return Figure(
        f"{METRIC_LABELS[metric]}{many}".partition(" (")[0],
        f"{cells['before']} → {cells['after']}" if "before" in cells else cells["after"],
        "; ".join(beside) or f"on {facts.after.rows:,} held-out rows",
    )


def summary(facts: RunFacts) -> str:
    """One sentence: what was trained, how, and on what."""
    steps = f"{facts.step:,} steps" if facts.step == facts.total_steps else \
        f"{facts.step:,} of {facts.total_steps:,} steps"
    return (f"{facts.base_model} was fine-tuned with {facts.method_name} on {facts.counts.get('train', 0):,} rows of "
            f"{facts.run.spec.dataset.source}, in {steps}.")


_COUNTS = {"read": "read", "train": "trained on", "heldOut": "held out for evaluation", **LEFT_OUT,
           "cut": "of these with a cut question"}


def row_counts(facts: RunFacts) -> list[tuple[str, str]]:
    """How the rows were used: the number of rows read, trained on, held out, and left out for each reason."""
    known = [key for key in _COUNTS if facts.counts.get(key) or key in ("read", "train", "heldOut")]
    return [(_COUNTS.get(key, key), f"{facts.counts.get(key, 0):,}")
            for key in (*known, *(key for key in facts.counts if key not in _COUNTS))]


def human_bytes(count: int) -> str:
    """A number of bytes with a suitable unit: B, KiB, MiB or GiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def human_seconds(seconds: float) -> str:
    """A duration, such as 7 s, 3:05 min or 2:10 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"
