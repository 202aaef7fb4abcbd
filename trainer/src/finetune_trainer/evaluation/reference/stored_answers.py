"""A reference model's answers in the output, where later attempts and other jobs with the same questions find them.

The variants of an experiment put the same questions to the same model. The first job stores its answers under a digest
of all that decides them, and a job with the same digest adopts them. The file holds answers, and no question.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from finetune_api.spec.evaluation import ReferenceSpec

from finetune_trainer.clock import Clock
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.reference.endpoint import EndpointAnswer
from finetune_trainer.storage import Storage

MAX_AGE = timedelta(days=7)
"""Another model can stand behind the same name later. Older answers are asked for again."""

_UNREADABLE = (TrainerError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What a file that somebody else wrote can cause."""


def asked_digest(reference: ReferenceSpec, max_tokens: int, questions: Sequence[object]) -> str:
    """A digest of all that decides the answers.

    Args:
        reference: the endpoint and its model.
        max_tokens: the longest answer in tokens.
        questions: the conversation and the functions of each, in order.
    """
    content = json.dumps([reference.url.rstrip("/"), reference.model, max_tokens, questions], sort_keys=True,
                         default=str)
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class StoredAnswers:
    """The stored answers to one list of questions.

    Attributes:
        storage: the output.
        key: the key of the file.
        clock: the time.
    """

    storage: Storage
    key: str
    clock: Clock

    def read(self) -> dict[int, EndpointAnswer]:
        """The stored answers, by the number of the question; none if the file is missing, too old or broken."""
        with contextlib.suppress(*_UNREADABLE):
            return self._read()[1]
        return {}

    def write(self, answers: Mapping[int, EndpointAnswer]) -> None:
        """Store answers, beside those that another job has stored in the meantime. A failure stores none."""
        asked, stored = self.clock.now(), dict[int, EndpointAnswer]()
        with contextlib.suppress(*_UNREADABLE):
            asked, stored = self._read()
        document = {"asked": asked.isoformat(),
                    "answers": {str(index): asdict(answer) for index, answer in {**stored, **answers}.items()}}
        with contextlib.suppress(TrainerError):
            self.storage.put_bytes(self.key, json.dumps(document).encode())

    def _read(self) -> tuple[datetime, dict[int, EndpointAnswer]]:
        saved: dict[str, Any] = json.loads(self.storage.get_bytes(self.key) or b"{}")
        asked = datetime.fromisoformat(saved["asked"])
        if not timedelta(0) <= self.clock.now() - asked <= MAX_AGE:
            raise ValueError("too old")
        return asked, {int(number): EndpointAnswer(str(one["text"]), bool(one["cut"]))
                       for number, one in saved["answers"].items()}
