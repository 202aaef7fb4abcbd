"""From a column of chat messages to question and answer: OpenAI's form, ShareGPT's, or either as JSON text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.rows import Example, Finding, Message, Severity, SourceRow, known_columns
from finetune_trainer.data.values import as_data, strict_json, surrogate, to_json, trimmed
from finetune_trainer.errors import BadConfig

_ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
          "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "ai": "assistant", "model": "assistant",
          "tool": "tool", "function": "tool", "observation": "tool"}
_NAMED = ("system", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text")


def from_messages(rows: Sequence[SourceRow], column: str) -> tuple[list[Example], list[Finding]]:
    """The conversations of rows as examples, and findings about the rows that have none.

    The answer is the last message of the assistant whose `weight` is not 0. A row without such a message is left out,
    with a warning. A column `tools` beside the messages holds the functions that the answer may call.

    Raises:
        BadConfig: no row has the column.
    """
    if rows and not any(column in row.columns for row in rows):
        raise BadConfig(f"spec.dataset.messages: no row has a column {column}; the columns are "
                        f"{', '.join(known_columns(rows))}")
    examples: list[Example] = []
    findings: list[Finding] = []
    for row in rows:
        try:
            messages = _conversation(row.columns.get(column))
            tools = _plain(row.columns.get("tools"), "tools")
            if not messages:
                findings.append(Finding(Severity.WARNING, row.location, f"{column}: no answer has a weight other than "
                                                                     "0, so the row is left out"))
                continue
            *before, last = messages
            examples.append(Example(row.location, tuple(before), last["content"], tools=tools or None,
                                    calls=last.get("tool_calls")))
        except (ValueError, TypeError) as error:
            findings.append(Finding(Severity.ERROR, row.location, f"{column}: {error}"))
    return examples, findings


def _plain(value: Any, name: str) -> Any:
    """A cell as plain JSON data; JSON text is parsed.

    Raises:
        ValueError: the cell can't be JSON.
    """
    try:
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            return strict_json(value)
        return strict_json(to_json(as_data(value)))
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply") from error


def _conversation(cell: Any) -> list[Message]:
    """The messages up to the answer; empty where every answer has the weight 0.

    Raises:
        ValueError: it is not a conversation that ends in an answer.
    """
    given = _plain(cell, "it")
    if isinstance(given, Mapping):
        given = given.get("messages", given.get("conversations"))
    if not isinstance(given, list) or len(given) < 2:
        raise ValueError("it is not a list of at least two messages, the last one the assistant's answer")
    pairs = [(_message(number, message), message.get("weight")) for number, message in enumerate(given, start=1)]
    pairs = [(message, weight) for message, weight in pairs if message["role"] != "system" or message["content"]]
    if not pairs or pairs[-1][0]["role"] != "assistant":
        raise ValueError("the last message must be the assistant's, after the user's")
    while pairs and (pairs[-1][0]["role"] != "assistant" or _is_zero(pairs[-1][1])):
        pairs.pop()
    if pairs and (len(pairs) < 2 or pairs[-2][0]["role"] not in ("user", "tool")):
        raise ValueError("the last message must be the assistant's, after the user's")
    return [message for message, _ in pairs]


def _is_zero(weight: Any) -> bool:
    return weight is not None and not isinstance(weight, bool) and weight == 0


def _message(number: int, message: Any) -> Message:
    """A message with the keys of chat templates: `role`, `content`, and `tool_calls` where it makes calls.

    Raises:
        ValueError: it has no known role or no content, or content that is no text.
    """
    given = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    role = _ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if given == "function_call":
        role = "assistant"
    if role is None:
        has = "no role" if given is None else f"the role {str(given)[:60]!r}"
        raise ValueError(f"message {number} has {has}; it must be one of {', '.join(_NAMED)}")
    content = _content(message.get("content", message.get("value")), number)
    calls = _calls(message, number)
    if given == "function_call":
        calls, content = [_call(strict_json(content), number)], ""
    if not content and not calls and role != "system":
        raise ValueError(f"message {number} has no content")
    if fault := surrogate(content):
        raise ValueError(f"message {number}: {fault}")
    plain: dict[str, Any] = {"role": role, "content": content}
    if calls:
        plain["tool_calls"] = calls
    return plain | {key: message[key] for key in ("name", "tool_call_id") if isinstance(message.get(key), str)}


def _content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return trimmed(content)
    if not isinstance(content, list):
        raise ValueError(f"message {number} has the content {to_json(content)[:60]}; it must be a text or a list of "
                         "parts of text")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        text = part if isinstance(part, str) else part.get("text") if kind in _TEXT_PARTS else None
        if not isinstance(text, str):
            raise ValueError(f"message {number} has a part of type {kind or type(part).__name__}; only text can be "
                             "trained on")
        texts.append(text)
    return trimmed("".join(texts))


def _calls(message: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    if not isinstance(calls, list):
        raise ValueError(f"message {number} has tool_calls that are not a list")
    return [_call(call, number) for call in calls]


def _call(call: Any, number: int) -> dict[str, Any]:
    """A call as chat templates take it: its arguments are an object, where OpenAI's API has JSON text."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"message {number} has a tool call without the name of a function")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = strict_json(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"message {number}: the arguments of {function['name']} are {error}") from error
    call_id = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
