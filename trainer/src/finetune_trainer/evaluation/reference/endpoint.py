"""One question to a model behind an OpenAI-compatible endpoint, which may be slow, busy, broken or hostile.

Nothing that is raised here holds the key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import httpx
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome
from finetune_api.spec.evaluation import ReferenceSpec

from finetune_trainer.data.rows import Message
from finetune_trainer.errors import BadConfig, MissingInput, TrainerError

_MOST_BYTES = 1 << 20
_LONGEST_PAUSE = 30.0
_PASSING = {408, 425, 429}
_NO_ACCESS = {401, 402, 403}


class Unanswered(TrainerError):
    """The endpoint gave no answer, and might give one later."""

    exit_code = ExitCode.MISSING_INPUT
    outcome = Outcome.MISSING_INPUT


@dataclass(frozen=True)
class Patience:
    """How long to wait for answers.

    Attributes:
        request_seconds: for one request, from its start to the last byte.
        total_seconds: for all questions together.
        tries: of one question.
        pause_seconds: before the second try; twice as long before each further one, at most 30 seconds.
        at_once: questions at a time.
    """

    request_seconds: float = 60.0
    total_seconds: float = 900.0
    tries: int = 5
    pause_seconds: float = 2.0
    at_once: int = 4


@dataclass(frozen=True)
class Answer:
    """An answer, and whether it was cut off at the most tokens that it might have."""

    text: str
    cut: bool = False


@dataclass(frozen=True)
class _Request:
    """The body of a request, without what the endpoint turned out not to take."""

    model: str
    most_tokens: int
    limit: str = "max_tokens"
    greedy: bool = True

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.model, "messages": [dict(message) for message in messages],
                                 self.limit: self.most_tokens}
        return {**found, "temperature": 0} if self.greedy else found

    def without(self, complaint: str) -> _Request | None:
        """What to ask instead, where the endpoint complains of a parameter; newer models take neither of them."""
        if self.limit in complaint and "max_completion_tokens" in complaint and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        return replace(self, greedy=False) if self.greedy and "temperature" in complaint else None


class Endpoint:
    """A model behind an endpoint. May be used by several threads."""

    def __init__(self, spec: ReferenceSpec, most_tokens: int, patience: Patience, seconds: Callable[[], float],
                 wait: Callable[[float], bool]) -> None:
        """
        Args:
            spec: where it is, and which model.
            most_tokens: longest answer.
            patience: how long to wait.
            seconds: a clock that never goes back.
            wait: waits so many seconds; True where there is no more time.
        """
        key = (os.environ.get("OPENAI_API_KEY") or "").strip()
        self._name = f"{spec.url} (model {spec.model})"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = f"{spec.url.rstrip('/')}/chat/completions"
        self._request = _Request(spec.model, most_tokens)
        self._patience, self._seconds, self._wait = patience, seconds, wait

    def ask(self, messages: Sequence[Message]) -> Answer:
        """The model's answer to a conversation.

        Raises:
            BadConfig: it refuses the request, and would again.
            MissingInput: it refuses the key.
            Unanswered: it did not answer, often enough.
        """
        fault, pause = "", self._patience.pause_seconds
        for attempt in range(self._patience.tries):
            if attempt and self._wait(min(pause, _LONGEST_PAUSE)):
                break
            try:
                status, content, pause_asked = self._post(self._request.body(messages))
            except (httpx.TransportError, httpx.StreamError, httpx.DecodingError, OSError) as error:
                fault = type(error).__name__
            except (httpx.InvalidURL, ValueError) as error:
                raise BadConfig(f"spec.evaluation.reference: {self._name} can't be asked ({type(error).__name__}): "
                                "check url, a proxy, and the key OPENAI_API_KEY for characters that no key has"
                                ) from None
            else:
                answer = self._judge(status, content)
                if isinstance(answer, Answer):
                    return answer
                fault, pause = answer, max(pause, pause_asked)
            pause *= 2 if attempt else 1
        raise Unanswered(f"spec.evaluation.reference: {self._name} gave no answer after {attempt + 1} tries ({fault})")

    def _judge(self, status: int, content: bytes) -> Answer | str:
        """An answer, or why to ask again."""
        if status in _PASSING or status >= 500:
            return f"it answered {status}"
        if status != 200:
            instead = self._request.without(content.decode("utf-8", "replace")) if status == 400 else None
            if instead is not None:
                self._request = instead
                return f"it answered {status}"
            kind = MissingInput if status in _NO_ACCESS else BadConfig
            raise kind(f"spec.evaluation.reference: {self._name} answered {status}; check url, model and the key "
                       "OPENAI_API_KEY")
        try:
            choice = json.loads(content)["choices"][0]
            return Answer(str(choice["message"]["content"] or "").strip(), choice.get("finish_reason") == "length")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "its answer is not what an OpenAI-compatible endpoint sends"

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=self._patience.request_seconds, headers=self._headers)

    def _post(self, body: dict[str, Any]) -> tuple[int, bytes, float]:
        """Status, content and the pause that is asked for; a server that sends byte by byte has no more time either."""
        until, content = self._seconds() + self._patience.request_seconds, bytearray()
        with self._client.stream("POST", self._url, json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _MOST_BYTES or self._seconds() > until:
                    raise TimeoutError
            asked = response.headers.get("Retry-After", "")
            return response.status_code, bytes(content), float(asked) if asked.isdecimal() and asked.isascii() else 0.0
