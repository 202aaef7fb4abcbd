"""Another model's answers to the held-out questions, asked in the background while this one is trained.

What becomes of it never ends a run: what could not be compared is said. What was answered is kept beside the
checkpoints, so that the next attempt does not pay for it again.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec

from finetune_trainer.clock import Clock
from finetune_trainer.data.answers.answer_checks import schema_validator
from finetune_trainer.data.rows import EvaluationRow, Message
from finetune_trainer.errors import BadConfig, MissingInput, TrainerError, in_words
from finetune_trainer.evaluation.reference.endpoint import Answer, Endpoint, Patience, Unanswered
from finetune_trainer.evaluation.scores import Scores, score
from finetune_trainer.storage import Storage

MOST_QUESTIONS = 200
"""Each one costs money, and its answer does too."""

CHECK = Patience(request_seconds=20.0, tries=4, pause_seconds=1.0)
"""How long the check before the start waits for its one answer."""

_FEWEST_TOKENS, _MOST_TOKENS = 256, 4096
_KEPT_EVERY = 20


@dataclass(frozen=True)
class Compared:
    """What became of the comparison: the scores, if there are any, and what has to be said of them, in sentences."""

    scores: Scores | None
    findings: tuple[str, ...] = ()


def check_reference(spec: FineTuneJobSpec, rows: Sequence[EvaluationRow], clock: Clock) -> str | None:
    """Ask one question, once: what has to be said of a passing trouble, or None.

    Raises:
        BadConfig: the endpoint refuses the request, and would again.
        MissingInput: it refuses the key.
    """
    reference = spec.evaluation.reference
    if reference is None or not rows:
        return None
    try:
        Endpoint(reference, _most_tokens(spec, rows), CHECK, clock.seconds, threading.Event().wait).ask(
            _conversation(spec, rows[0]))
    except Unanswered as error:
        return f"warning: {error}; training does not need it"
    return None


@dataclass
class Reference:
    """The reference model's answers, as they come in.

    Attributes:
        spec: the job's spec, which names a reference model.
        rows: the held-out rows.
        kept: where answers are kept, and under which key; None keeps none.
        identity: what kept answers have to be of.
        clock: the time.
        stopped: whether the run is to stop.
        patience: how long to wait.
    """

    spec: FineTuneJobSpec
    rows: Sequence[EvaluationRow]
    kept: tuple[Storage, str] | None
    identity: str
    clock: Clock
    stopped: Callable[[], bool]
    patience: Patience = field(default_factory=Patience)
    _answers: dict[int, Answer] = field(default_factory=dict)
    _fault: str | None = None
    _unanswered: int = 0

    def start(self) -> Reference:
        """Begin to ask; threads that die with the process."""
        spec = self.spec.evaluation.reference
        assert spec is not None
        self._lock, self._over = threading.Lock(), threading.Event()
        self._deadline = self.clock.seconds() + self.patience.total_seconds
        self._identity = {"data": self.identity, "url": spec.url, "model": spec.model}
        self._endpoint = Endpoint(spec, _most_tokens(self.spec, self.rows), self.patience, self.clock.seconds,
                                  self._wait)
        self._read()
        self._left = [index for index in range(min(MOST_QUESTIONS, len(self.rows))) if index not in self._answers]
        self._left.reverse()
        self._threads = [threading.Thread(target=self._work, name="reference", daemon=True)
                         for _ in range(min(self.patience.at_once, len(self._left)))]
        for thread in self._threads:
            thread.start()
        return self

    def collect(self, check: Callable[[], None]) -> Compared:
        """Wait for what is still to come, as long as there is time, and judge it.

        Args:
            check: called now and then; what it raises ends the wait.
        """
        for thread in self._threads:
            while thread.is_alive() and not self._is_over():
                check()
                thread.join(0.1)
        self._over.set()
        self._keep()
        with self._lock:
            answers = dict(sorted(self._answers.items()))
        asked = min(MOST_QUESTIONS, len(self.rows))
        if not answers:
            return Compared(None, (self._fault or "the reference model did not answer in time",))
        findings = [f"the reference model was asked the first {asked} of {len(self.rows)} questions, which is the most"
                    ] if asked < len(self.rows) else []
        if len(answers) < asked:
            findings.append(f"the reference model answered {len(answers)} of {asked} questions, and its scores are "
                            f"over these: {self._fault or 'there was no more time'}")
        if cut := sum(answer.cut for answer in answers.values()):
            findings.append(f"{cut} of the reference model's answers were cut at {_most_tokens(self.spec, self.rows)} "
                            "tokens")
        metrics = [m for m in self.spec.evaluation.metrics or () if m not in (Metric.LOSS, Metric.PERPLEXITY)]
        scores = score([self.rows[index].example.answer for index in answers],
                       [answer.text for answer in answers.values()], metrics,
                       schema_validator(self.spec.dataset.answer_format.json_schema))
        return Compared(scores, tuple(findings))

    def _work(self) -> None:
        while not self._is_over():
            with self._lock:
                if not self._left:
                    return
                index = self._left.pop()
            try:
                answer = self._endpoint.ask(_conversation(self.spec, self.rows[index]))
            except Exception as error:
                self._note(error)
                continue
            if self._over.is_set():
                return  # Too late: the result may be published, and what is kept removed.
            with self._lock:
                self._answers[index] = answer
                keep = len(self._answers) % _KEPT_EVERY == 0
            if keep:
                self._keep()

    def _note(self, error: Exception) -> None:
        """Take down why a question has no answer; where the others would fare the same, it is the last one."""
        with self._lock:
            if self._over.is_set():
                return  # This one was cut short by what ended the asking.
            self._fault = in_words(error)[2]
            self._unanswered += 1
            nobody_is_there = not self._answers and self._unanswered >= len(self._threads)
            if isinstance(error, BadConfig | MissingInput) or nobody_is_there:
                self._over.set()

    def _is_over(self) -> bool:
        return self._over.is_set() or self.stopped() or self.clock.seconds() > self._deadline

    def _wait(self, seconds: float) -> bool:
        return self._over.wait(min(seconds, max(0.0, self._deadline - self.clock.seconds()))) or self._is_over()

    def _read(self) -> None:
        """Take over what an earlier attempt was answered to the same questions."""
        if self.kept is None:
            return
        storage, key = self.kept
        with contextlib.suppress(TrainerError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            saved: dict[str, Any] = json.loads(storage.get_bytes(key) or b"{}")
            if saved.get("identity") == self._identity:
                self._answers = {index: Answer(str(one["text"]), bool(one["cut"]))
                                 for index, one in ((int(number), one) for number, one in saved["answers"].items())
                                 if index < len(self.rows)}

    def _keep(self) -> None:
        if self.kept is None:
            return
        storage, key = self.kept
        with self._lock:
            answers = {str(index): asdict(answer) for index, answer in self._answers.items()}
        if answers:
            with contextlib.suppress(TrainerError):
                storage.put_bytes(key, json.dumps({"identity": self._identity, "answers": answers}).encode())


def _conversation(spec: FineTuneJobSpec, row: EvaluationRow) -> list[Message]:
    system: list[Message] = [{"role": "system", "content": spec.dataset.system}] if spec.dataset.system else []
    return [*system, *row.example.messages]


def _most_tokens(spec: FineTuneJobSpec, rows: Sequence[EvaluationRow]) -> int:
    """Longest answer that is paid for: another tokenizer may need more than ours, and a model may think first."""
    longest = max(spec.evaluation.max_new_tokens or 0, *(len(row.tokens.answer) for row in rows), 1)
    return min(_MOST_TOKENS, max(_FEWEST_TOKENS, 4 * longest))
