"""One evaluation: the loss on held-out answers, and the scores of the answers that the model generates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec
from transformers import PreTrainedTokenizerBase

from finetune_trainer.clock import Clock
from finetune_trainer.data.answers.row_findings import schema_validator
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.rows import EvaluationRow
from finetune_trainer.evaluation.classes import FieldColumn
from finetune_trainer.evaluation.constrained import SchemaGuide
from finetune_trainer.evaluation.generate import GeneratedAnswers, GenerationSettings, generate
from finetune_trainer.evaluation.loss import answer_losses, mean_loss
from finetune_trainer.evaluation.scores import ScoredAnswers, Scores, perplexity, score_with_rows
from finetune_trainer.hardware.device import Device
from finetune_trainer.rewards.judging import Verdict
from finetune_trainer.rewards.rewards import Judge

_SAMPLES = 8
"""Rows whose answers the report shows."""
_OF_LOSS = (Metric.LOSS, Metric.PERPLEXITY)
_CPU_BATCH = 128
_GPU_TOKENS = 65_536


@dataclass(frozen=True)
class SampleAnswer:
    """A held-out row and the model's answer, for the report.

    Attributes:
        question: the last message before the answer.
        expected: the answer in the row.
        answer: the answer of the model.
        right: whether the reward judges it as right; None without a reward.
    """

    question: str
    expected: str
    answer: str
    right: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        scores: a score for each metric; a per-field metric has a mapping from field to score.
        constrained: the scores of answers from constrained decoding; None where the job does not ask for it.
        examples: the first rows with their answers.
        rows: the number of rows that were evaluated.
        seconds: the duration of the whole evaluation.
        generated_tokens: tokens of the answers without constrained decoding.
        generation_seconds: the duration of their generation.
        unfinished: answers that had no end at the longest length.
        by_row: the score of each row, by metric, for metrics that are a mean over rows or over tokens.
        by_class: what F1 is made of: the values of each categorical field, of at most the first `MOST_ROWS` rows.
    """

    scores: Scores
    constrained: Scores | None
    examples: tuple[SampleAnswer, ...]
    rows: int
    seconds: float
    generated_tokens: int
    generation_seconds: float
    unfinished: int
    by_row: Mapping[str, Sequence[float]] = field(default_factory=dict)
    by_class: Mapping[str, FieldColumn] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the file of the evaluation before training."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """From plain data."""
        return cls(**{**data, "examples": tuple(SampleAnswer(**example) for example in data["examples"]),
                      "by_class": {name: FieldColumn(**column) for name, column in data.get("by_class", {}).items()}})


NOTHING = Evaluation(scores={}, constrained=None, examples=(), rows=0, seconds=0.0, generated_tokens=0,
                     generation_seconds=0.0, unfinished=0)
"""An evaluation that could not be made."""


@dataclass(frozen=True)
class _FreeAnswers:
    """Answers without constrained decoding, their texts, the reward's judgement of each, and the seconds they took."""

    generated: GeneratedAnswers
    texts: list[str]
    verdicts: list[Verdict] | None
    seconds: float


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models on the same rows, before and after training.

    Attributes:
        spec: the job's spec with its defaults resolved.
        rows: the held-out rows.
        tokenizer: the model's.
        chat: how the model writes a conversation.
        device: where the model computes.
        clock: measures durations.
        check: called often; raises to stop.
        report: called with the number of answers so far, and of all.
        judge: judges answers, where the method has a reward.
    """

    spec: FineTuneJobSpec
    rows: Sequence[EvaluationRow]
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    device: Device
    clock: Clock
    check: Callable[[], None]
    report: Callable[[int, int], None]
    judge: Judge | None = None

    def evaluate(self, model: Any) -> Evaluation:
        """Evaluate a model on the held-out rows. Its training or evaluation mode is restored afterwards.

        Raises:
            StopRequested: `check` raised it.
        """
        started = self.clock.seconds()
        was_training = model.training
        model.eval()
        try:
            with self.device.autocast():
                scores, by_row = self._loss_scores(model)
                answers = self._free_answers(model)
                scored = self._score(answers.texts, answers.verdicts) if answers else ScoredAnswers()
                constrained = self._constrained_scores(model)
        finally:
            model.train(was_training)
        return Evaluation(
            scores=scores | scored.scores,
            constrained=constrained,
            examples=self._samples(answers) if answers else (),
            rows=len(self.rows),
            seconds=round(self.clock.seconds() - started, 3),
            generated_tokens=answers.generated.tokens if answers else 0,
            generation_seconds=round(answers.seconds, 3) if answers else 0.0,
            unfinished=len(self.rows) - answers.generated.finished if answers else 0,
            by_row=by_row | scored.by_row,
            by_class=scored.by_class,
        )

    def _loss_scores(self, model: Any) -> tuple[Scores, dict[str, list[float]]]:
        """The mean loss and the perplexity, and the mean loss of each row."""
        wanted = [metric for metric in self.spec.evaluation.metrics or () if metric in _OF_LOSS]
        if not wanted:
            return {}, {}
        rows = [row.tokens for row in self.rows]
        losses = answer_losses(model, rows, self._pad_id, model.config.get_text_config().vocab_size,
                               self._batch_size(0), self.check)
        loss = mean_loss(losses, rows)
        both = {Metric.LOSS: round(loss, 6), Metric.PERPLEXITY: round(perplexity(loss), 6)}
        each = [round(total / len(row.answer), 6) for total, row in zip(losses, rows, strict=True)]
        return {str(metric): value for metric, value in both.items() if metric in wanted}, {str(Metric.LOSS): each}

    def _free_answers(self, model: Any) -> _FreeAnswers | None:
        """The answers without constrained decoding; None where no metric compares answers."""
        if not set(self.spec.evaluation.metrics or ()) - set(_OF_LOSS):
            return None
        started = self.clock.seconds()
        generated, texts = self._answer(model, None)
        seconds = self.clock.seconds() - started
        return _FreeAnswers(generated, texts, self._verdicts(texts), seconds)

    def _constrained_scores(self, model: Any) -> Scores | None:
        schema = self.spec.dataset.answer_format.json_schema
        if not self.spec.evaluation.constrained or schema is None:
            return None
        guide = SchemaGuide(self.tokenizer, schema, self.chat.end_of_turn, self.chat.form.lead)
        texts = self._answer(model, guide)[1]
        return self._score(texts, self._verdicts(texts)).scores

    @property
    def _pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer."""
        return sorted({self.chat.end_of_turn, int(self.tokenizer.eos_token_id)})

    @property
    def max_new_tokens(self) -> int:
        """Longest generated answer: as the job says, or a quarter more than the longest expected one."""
        longest = max(len(row.tokens.answer) for row in self.rows)
        return self.spec.evaluation.max_new_tokens or math.ceil(longest * 1.25)

    def _answer(self, model: Any, guide: SchemaGuide | None) -> tuple[GeneratedAnswers, list[str]]:
        done = generate(
            model, [row.tokens.prompt for row in self.rows],
            GenerationSettings(tuple(self.end_ids), self._pad_id, self.max_new_tokens,
                               self._batch_size(self.max_new_tokens)),
            self.check, choice=guide.choice if guide else None,
            report=lambda answered: self.report(answered, len(self.rows)),
        )
        return done, [self.chat.text(ids) for ids in done.answers]

    def _verdicts(self, texts: Sequence[str]) -> list[Verdict] | None:
        """The reward's judgement of each answer; None without a reward. Judged once: running programs takes time."""
        return self.judge.judge(texts, [row.example for row in self.rows]) if self.judge else None

    def _score(self, texts: Sequence[str], verdicts: Sequence[Verdict] | None) -> ScoredAnswers:
        """The scores of answers, and those of each row."""
        wanted = self.spec.evaluation.metrics or ()
        scored = score_with_rows([row.example.answer for row in self.rows], texts, wanted,
                                 schema_validator(self.spec.dataset.answer_format.json_schema))
        if verdicts and Metric.ANSWER_ACCURACY in wanted:
            right = [float(verdict.right) for verdict in verdicts]
            metric = str(Metric.ANSWER_ACCURACY)
            scored = replace(scored, scores=scored.scores | {metric: round(sum(right) / len(right), 6)},
                             by_row=scored.by_row | {metric: right})
        return scored

    def _samples(self, answers: _FreeAnswers) -> tuple[SampleAnswer, ...]:
        right = [verdict.right for verdict in answers.verdicts] if answers.verdicts else [None] * len(answers.texts)
        return tuple(SampleAnswer(row.example.question, row.example.answer, text, verdict)
                     for row, text, verdict in zip(self.rows[:_SAMPLES], answers.texts, right, strict=False))

    def _batch_size(self, new_tokens: int) -> int:
        """Rows in one batch: on a GPU as many as a fixed number of tokens in the KV cache allows."""
        if not self.device.is_gpu:
            return _CPU_BATCH
        longest = max(len(row.tokens) for row in self.rows) + new_tokens
        return max(1, min(256, _GPU_TOKENS // longest))
