"""A reference model's answers to the held-out questions, asked in the background while this model is trained.

No failure here ends a run: what could not be compared becomes a finding. Answers are stored in the output, so that
neither the next attempt nor another variant of the experiment pays for them again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.clock import Clock
from finetune_trainer.data.answers.row_findings import schema_validator
from finetune_trainer.data.rows import EvaluationRow, Message
from finetune_trainer.errors import BadConfig, MissingInput, failure_of
from finetune_trainer.evaluation.reference.endpoint import Endpoint, EndpointAnswer, RequestLimits, Unanswered
from finetune_trainer.evaluation.reference.stored_answers import StoredAnswers, asked_digest
from finetune_trainer.evaluation.scores import Scores, score
from finetune_trainer.storage import Storage

MAX_QUESTIONS = 200
"""Each question and each answer costs money."""

CHECK = RequestLimits(request_seconds=20.0, tries=4, pause_seconds=1.0)
"""Limits of the one question that preflight asks."""

_MIN_TOKENS, _MAX_TOKENS = 256, 4096
_STORE_EVERY = 20
"""Answers are stored whenever so many more have come in."""


@dataclass(frozen=True)
class ReferenceResult:
    """The result of the comparison.

    Attributes:
        scores: the scores; None where there are none.
        findings: what could not be compared, as sentences.
        answers: by the number of the row; questions without an answer are missing.
    """

    scores: Scores | None
    findings: tuple[str, ...] = ()
    answers: Mapping[int, str] = field(default_factory=dict)


def check_reference(spec: FineTuneJobSpec, rows: Sequence[EvaluationRow], clock: Clock) -> str | None:
    """Ask one question. Returns a warning where the endpoint does not answer now, else None.

    Raises:
        BadConfig: the endpoint refuses the request, and would refuse it again.
        MissingInput: it refuses the key.
    """
    reference = spec.evaluation.reference
    if reference is None or not rows:
        return None
    endpoint = Endpoint(reference, _max_tokens(spec, rows), CHECK, clock.seconds, threading.Event().wait)
    try:
        endpoint.ask(_conversation(spec, rows[0]), rows[0].example.tools)
    except Unanswered as error:
        return f"warning: {error}; training does not need it"
    finally:
        endpoint.close()
    return None


@dataclass
class Reference:
    """Asks the reference model and collects its answers.

    Attributes:
        spec: the job's spec, which names a reference model.
        rows: the held-out rows.
        store: the storage and the folder of stored answers; None stores none.
        clock: the time.
        is_stopped: whether the run has been asked to stop.
        limits: how long to wait, and how often to ask.
        adopted: the number of answers that were found in the store.
    """

    spec: FineTuneJobSpec
    rows: Sequence[EvaluationRow]
    store: tuple[Storage, str] | None
    clock: Clock
    is_stopped: Callable[[], bool]
    limits: RequestLimits = field(default_factory=RequestLimits)
    adopted: int = 0
    _answers: dict[int, EndpointAnswer] = field(default_factory=dict)
    _stored: StoredAnswers | None = None
    _fault: str | None = None
    _unanswered: int = 0

    def start(self) -> Reference:
        """Start the threads that ask. They end with the process.

        Raises:
            ValueError: the job names no reference model.
        """
        spec = self.spec.evaluation.reference
        if spec is None:
            raise ValueError("the job names no reference model")
        self._lock, self._over = threading.Lock(), threading.Event()
        self._deadline = self.clock.seconds() + self.limits.total_seconds
        max_tokens = _max_tokens(self.spec, self.rows)
        self._endpoint = Endpoint(spec, max_tokens, self.limits, self.clock.seconds, self._wait)
        asked = self.rows[:MAX_QUESTIONS]
        if self.store is not None:
            storage, folder = self.store
            digest = asked_digest(spec, max_tokens, [
                [_conversation(self.spec, row), row.example.tools] for row in asked])
            self._stored = StoredAnswers(storage, f"{folder}/{digest}.json", self.clock)
            self._answers = {index: answer for index, answer in self._stored.read().items()
                             if 0 <= index < len(asked)}
        self.adopted = len(self._answers)
        self._pending = [index for index in range(len(asked)) if index not in self._answers]
        self._pending.reverse()
        self._threads = [threading.Thread(target=self._ask_pending, name="reference", daemon=True)
                         for _ in range(min(self.limits.parallel, len(self._pending)))]
        for thread in self._threads:
            thread.start()
        return self

    def collect(self, check: Callable[[], None]) -> ReferenceResult:
        """Wait for the remaining answers until the time limit, and score all answers.

        Args:
            check: called ten times a second while waiting; what it raises ends the wait.
        """
        for thread in self._threads:
            while thread.is_alive() and not self._is_over():
                check()
                thread.join(0.1)
        self._over.set()
        self._endpoint.close()
        self._write_stored()
        with self._lock:
            answers = dict(sorted(self._answers.items()))
        asked = min(MAX_QUESTIONS, len(self.rows))
        if not answers:
            return ReferenceResult(None, (self._fault or "the reference model did not answer in time",))
        metrics = [m for m in self.spec.evaluation.metrics or () if m not in (Metric.LOSS, Metric.PERPLEXITY)]
        scores = score([self.rows[index].example.answer for index in answers],
                       [answer.text for answer in answers.values()], metrics,
                       schema_validator(self.spec.dataset.answer_format.json_schema))
        return ReferenceResult(scores, tuple(self._findings(answers, asked)),
                               {index: answer.text for index, answer in answers.items()})

    def _findings(self, answers: dict[int, EndpointAnswer], asked: int) -> list[str]:
        findings = []
        if asked < len(self.rows):
            findings.append(f"the reference model was asked the first {asked} of {len(self.rows)} questions; {asked} "
                            "is the maximum")
        if len(answers) < asked:
            findings.append(f"the reference model answered {len(answers)} of {asked} questions, and its scores cover "
                            f"only these: {self._fault or 'there was no more time'}")
        if cut := sum(answer.cut for answer in answers.values()):
            findings.append(f"{cut} of the reference model's answers were cut at {_max_tokens(self.spec, self.rows)} "
                            "tokens")
        return findings

    def _ask_pending(self) -> None:
        while not self._is_over():
            with self._lock:
                if not self._pending:
                    return
                index = self._pending.pop()
            row = self.rows[index]
            try:
                answer = self._endpoint.ask(_conversation(self.spec, row), row.example.tools)
            except Exception as error:
                self._record_fault(error)
                continue
            if self._over.is_set():
                return  # Too late: the answers are scored.
            with self._lock:
                self._answers[index] = answer
                is_due = len(self._answers) % _STORE_EVERY == 0
            if is_due:
                self._write_stored()

    def _record_fault(self, error: Exception) -> None:
        """Record why a question has no answer. Ends the asking where further questions would fail in the same way."""
        with self._lock:
            if self._over.is_set():
                return  # What ended the asking has interrupted this question.
            self._fault = failure_of(error).message
            self._unanswered += 1
            nobody_answers = not self._answers and self._unanswered >= len(self._threads)
            if isinstance(error, BadConfig | MissingInput) or nobody_answers:
                self._over.set()

    def _is_over(self) -> bool:
        return self._over.is_set() or self.is_stopped() or self.clock.seconds() > self._deadline

    def _wait(self, seconds: float) -> bool:
        return self._over.wait(min(seconds, max(0.0, self._deadline - self.clock.seconds()))) or self._is_over()

    def _write_stored(self) -> None:
        with self._lock:
            answers = dict(self._answers)
        if self._stored is not None and len(answers) > self.adopted:
            self._stored.write(answers)


def _conversation(spec: FineTuneJobSpec, row: EvaluationRow) -> list[Message]:
    system: list[Message] = [{"role": "system", "content": spec.dataset.system}] if spec.dataset.system else []
    return [*system, *row.example.messages]


def _max_tokens(spec: FineTuneJobSpec, rows: Sequence[EvaluationRow]) -> int:
    """The longest answer to pay for. Another tokenizer may need more tokens than ours, and a model may reason first."""
    longest = max(spec.evaluation.max_new_tokens or 0, *(len(row.tokens.answer) for row in rows), 1)
    return min(_MAX_TOKENS, max(_MIN_TOKENS, 4 * longest))
