"""One evaluation: the loss on held-out answers, and what the model answers by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec
from transformers import PreTrainedTokenizerBase

from finetune_trainer.clock import Clock
from finetune_trainer.data.answers.answer_checks import schema_validator
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.rows import EvaluationRow
from finetune_trainer.evaluation.constrained import SchemaGuide
from finetune_trainer.evaluation.generate import Generated, generate
from finetune_trainer.evaluation.loss import answer_loss
from finetune_trainer.evaluation.scores import Scores, perplexity, score
from finetune_trainer.hardware.device import Device
from finetune_trainer.rewards.answers import Verdict
from finetune_trainer.rewards.rewards import Judge

_SHOWN = 8
_CPU_BATCH = 128
_GPU_TOKENS = 65_536


@dataclass(frozen=True)
class Shown:
    """A held-out row and what was answered, for the report; and whether a reward finds it right, where there is one."""

    question: str
    expected: str
    answer: str
    right: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        scores: by metric; per-field metrics are mappings.
        constrained: the scores of answers that were forced into the schema; None where that wasn't asked for.
        examples: the first rows with their answers.
        rows: how many rows were judged.
        seconds: how long it took.
        generated_tokens: tokens generated freely.
        generation_seconds: seconds of that.
        unfinished: answers that had not ended at the longest length.
    """

    scores: Scores
    constrained: Scores | None
    examples: tuple[Shown, ...]
    rows: int
    seconds: float
    generated_tokens: int
    generation_seconds: float
    unfinished: int

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the baseline's file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """From plain data."""
        return cls(**{**data, "examples": tuple(Shown(**shown) for shown in data["examples"])})


NOTHING = Evaluation(scores={}, constrained=None, examples=(), rows=0, seconds=0.0, generated_tokens=0,
                     generation_seconds=0.0, unfinished=0)
"""An evaluation that could not be made."""


@dataclass(frozen=True)
class Evaluator:
    """Everything that stays the same before and after."""

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
        """Judge a model on the held-out rows; the model is back in the mode that it was in.

        Raises:
            StopRequested: it was asked to stop meanwhile.
        """
        started = self.clock.seconds()
        wanted = self.spec.evaluation.metrics or ()
        was_training = model.training
        model.eval()
        try:
            scores: Scores = {}
            if {Metric.LOSS, Metric.PERPLEXITY} & set(wanted):
                loss = answer_loss(model, [row.tokens for row in self.rows], self._pad_id,
                                   model.config.get_text_config().vocab_size, self._batch_size(0), self.check)
                both = {Metric.LOSS: round(loss, 6), Metric.PERPLEXITY: round(perplexity(loss), 6)}
                scores |= {str(metric): both[metric] for metric in both if metric in wanted}
            free: Generated | None = None
            texts: list[str] = []
            verdicts: list[Verdict] | None = None
            seconds = 0.0
            if set(wanted) - {Metric.LOSS, Metric.PERPLEXITY}:
                before = self.clock.seconds()
                free, texts = self._answer(model, None)
                seconds = self.clock.seconds() - before
                verdicts = self._judged(texts)
                scores |= self._score(texts, verdicts)
            constrained = None
            schema = self.spec.dataset.answer_format.json_schema
            if self.spec.evaluation.constrained and schema is not None:
                guide = SchemaGuide(self.tokenizer, schema, self.chat.end_of_turn, self.chat.form.lead)
                guided = self._answer(model, guide)[1]
                constrained = self._score(guided, self._judged(guided))
        finally:
            model.train(was_training)
        return Evaluation(
            scores=scores,
            constrained=constrained,
            examples=self._shown(texts, verdicts),
            rows=len(self.rows),
            seconds=round(self.clock.seconds() - started, 3),
            generated_tokens=free.tokens if free else 0,
            generation_seconds=round(seconds, 3),
            unfinished=len(self.rows) - free.finished if free else 0,
        )

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

    def _answer(self, model: Any, guide: SchemaGuide | None) -> tuple[Generated, list[str]]:
        done = generate(
            model, [row.tokens.prompt for row in self.rows],
            end_ids=self.end_ids, pad_id=self._pad_id,
            max_new_tokens=self.max_new_tokens, batch_size=self._batch_size(self.max_new_tokens), check=self.check,
            processor=guide.processor if guide else None,
            report=lambda answered: self.report(answered, len(self.rows)),
        )
        return done, [self.chat.text(ids) for ids in done.answers]

    def _judged(self, texts: Sequence[str]) -> list[Verdict] | None:
        """What each answer is worth, where the method has a reward; judged once, for a program takes its time."""
        return self.judge.judge(texts, [row.example for row in self.rows]) if self.judge else None

    def _score(self, texts: Sequence[str], verdicts: Sequence[Verdict] | None) -> Scores:
        wanted = self.spec.evaluation.metrics or ()
        scores = score([row.example.answer for row in self.rows], texts, wanted,
                       schema_validator(self.spec.dataset.answer_format.json_schema))
        if verdicts and Metric.ANSWER_ACCURACY in wanted:
            scores[str(Metric.ANSWER_ACCURACY)] = round(sum(verdict.right for verdict in verdicts) / len(verdicts), 6)
        return scores

    def _shown(self, texts: Sequence[str], verdicts: Sequence[Verdict] | None) -> tuple[Shown, ...]:
        right = [verdict.right for verdict in verdicts] if verdicts else [None] * len(texts)
        return tuple(Shown(row.example.question, row.example.answer, text, verdict)
                     for row, text, verdict in zip(self.rows[:_SHOWN], texts, right, strict=False))

    def _batch_size(self, new_tokens: int) -> int:
        """Rows at once: as many as a fixed number of tokens of KV cache allows."""
        if not self.device.is_gpu:
            return _CPU_BATCH
        longest = max(len(row.tokens) for row in self.rows) + new_tokens
        return max(1, min(256, _GPU_TOKENS // longest))
