"""One question to a model behind an OpenAI-compatible endpoint, which may be slow, busy, broken or hostile.

No error that is raised here holds the key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import httpx
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import Outcome
from finetune_api.spec.evaluation import ReferenceSpec

from finetune_trainer.data.chat.tool_calls import calls_as_text, openai_messages, openai_tools
from finetune_trainer.data.rows import Message
from finetune_trainer.errors import BadConfig, MissingInput, TrainerError

_MAX_RESPONSE_BYTES = 1 << 20
_MAX_PAUSE_SECONDS = 30.0
_RETRYABLE = {408, 425, 429}
"""Statuses that a later try may not get; so are all from 500 on."""
_NO_ACCESS = {401, 402, 403}


class Unanswered(TrainerError):
    """The endpoint gave no answer. A later try may get one."""

    exit_code = ExitCode.MISSING_INPUT
    outcome = Outcome.MISSING_INPUT


@dataclass(frozen=True)
class RequestLimits:
    """How long to wait for answers, and how often to ask.

    Attributes:
        request_seconds: for one request, from its start to the last byte.
        total_seconds: for all questions together.
        tries: requests for one question.
        pause_seconds: before the second try; twice as long before each further one, at most 30 seconds.
        parallel: questions that are asked at the same time.
    """

    request_seconds: float = 60.0
    total_seconds: float = 900.0
    tries: int = 5
    pause_seconds: float = 2.0
    parallel: int = 4


@dataclass(frozen=True)
class EndpointAnswer:
    """An answer, and whether it was cut off at the longest length that was asked for."""

    text: str
    cut: bool = False


@dataclass(frozen=True)
class _Request:
    """What a request asks for. Parameters that the endpoint refuses are switched off one by one."""

    model: str
    max_tokens: int
    limit_parameter: str = "max_tokens"
    greedy: bool = True
    tools: bool = True

    def body(self, messages: Sequence[Message], tools: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": openai_messages(messages),
                                self.limit_parameter: self.max_tokens}
        if self.greedy:
            body["temperature"] = 0
        if self.tools and (functions := openai_tools(tools)):
            body["tools"] = functions
        return body

    def without(self, complaint: str) -> _Request | None:
        """The request to send instead, where the endpoint complains of a parameter; None where it is another fault.

        Newer models of OpenAI take neither `max_tokens` nor a temperature; a vLLM server may have no parser for calls.
        """
        if self.limit_parameter == "max_tokens" and "max_tokens" in complaint and "max_completion_tokens" in complaint:
            return replace(self, limit_parameter="max_completion_tokens")
        if self.greedy and "temperature" in complaint:
            return replace(self, greedy=False)
        return replace(self, tools=False) if self.tools and "tool" in complaint else None


class Endpoint:
    """A model behind an endpoint. Several threads can use it."""

    def __init__(self, spec: ReferenceSpec, max_tokens: int, limits: RequestLimits, seconds: Callable[[], float],
                 wait: Callable[[float], bool]) -> None:
        """
        Args:
            spec: the endpoint's URL and model.
            max_tokens: the longest answer in tokens.
            limits: how long to wait, and how often to ask.
            seconds: a clock that never goes back.
            wait: waits so many seconds; returns True where no time is left.
        """
        key = (os.environ.get("OPENAI_API_KEY") or "").strip()
        self._name = f"{spec.url} (model {spec.model})"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = f"{spec.url.rstrip('/')}/chat/completions"
        self._request = _Request(spec.model, max_tokens)
        self._limits, self._seconds, self._wait = limits, seconds, wait

    def ask(self, messages: Sequence[Message], tools: Any = None) -> EndpointAnswer:
        """The model's answer to a conversation.

        Args:
            messages: the conversation; arguments of calls are objects, as in a row.
            tools: the functions that the answer may call, as in a row.

        Raises:
            BadConfig: the endpoint refuses the request, and would refuse it again.
            MissingInput: it refuses the key.
            Unanswered: it did not answer any of the tries.
        """
        fault, pause = "", self._limits.pause_seconds
        for attempt in range(self._limits.tries):
            if attempt and self._wait(min(pause, _MAX_PAUSE_SECONDS)):
                break
            request = self._request
            try:
                status, content, asked_pause = self._post(request.body(messages, tools))
            except (httpx.TransportError, httpx.StreamError, httpx.DecodingError, OSError) as error:
                fault = type(error).__name__
            except (httpx.InvalidURL, ValueError) as error:
                raise BadConfig(f"spec.evaluation.reference: {self._name} can't be asked ({type(error).__name__}): "
                                "check url, the proxy, and the key OPENAI_API_KEY for characters that no key has"
                                ) from None
            else:
                answer = self._read_response(request, status, content)
                if isinstance(answer, EndpointAnswer):
                    return answer
                fault, pause = answer, max(pause, asked_pause)
            pause *= 2 if attempt else 1
        raise Unanswered(f"spec.evaluation.reference: {self._name} gave no answer after {attempt + 1} tries ({fault})")

    def close(self) -> None:
        """Close the connections that the server keeps open. A question that is still asked fails."""
        if "_client" in vars(self):  # To make one can fail: a bad key, a bad proxy.
            self._client.close()

    def _read_response(self, request: _Request, status: int, content: bytes) -> EndpointAnswer | str:
        """The answer, or the reason to ask again."""
        if status in _RETRYABLE or status >= 500:
            return f"it answered {status}"
        if status != 200:
            instead = request.without(content.decode("utf-8", "replace")) if status == 400 else None
            if instead is not None:
                if self._request == request:  # Else another thread has changed it, and that change is tried first.
                    self._request = instead
                return f"it answered {status}"
            kind = MissingInput if status in _NO_ACCESS else BadConfig
            raise kind(f"spec.evaluation.reference: {self._name} answered {status}; check url, model and the key "
                       "OPENAI_API_KEY")
        try:
            choice = json.loads(content)["choices"][0]
            return EndpointAnswer(_text(choice["message"]), choice.get("finish_reason") == "length")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "its answer is not what an OpenAI-compatible endpoint sends"

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=self._limits.request_seconds, headers=self._headers)

    def _post(self, body: dict[str, Any]) -> tuple[int, bytes, float]:
        """Status, content, and the pause in seconds that the server asks for.

        The time limit holds for the whole response: a server that sends byte by byte has no more time than others.
        """
        until, content = self._seconds() + self._limits.request_seconds, bytearray()
        with self._client.stream("POST", self._url, json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _MAX_RESPONSE_BYTES or self._seconds() > until:
                    raise TimeoutError
            asked = response.headers.get("Retry-After", "")
            return response.status_code, bytes(content), float(asked) if asked.isdecimal() and asked.isascii() else 0.0


def _text(message: Mapping[str, Any]) -> str:
    """The text of an answer, with its calls as JSON."""
    content = str(message["content"] or "") if "content" in message or not message.get("tool_calls") else ""
    calls = [{"function": {"name": call["function"]["name"],
                           "arguments": json.loads(call["function"].get("arguments") or "{}")}}
             for call in message.get("tool_calls") or ()]
    return str(calls_as_text({"role": "assistant", "content": content, "tool_calls": calls})["content"]).strip()
