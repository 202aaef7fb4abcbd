"""Calls of functions in a conversation: as text, and as OpenAI's API takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_trainer.data.rows import Message


def calls_as_text(message: Message) -> Message:
    """A message whose calls stand in its content, as JSON between `<tool_call>` and `</tool_call>`."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls]
    return {"role": message["role"], "content": "\n".join(filter(None, [message["content"], *texts]))}


def openai_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as OpenAI's API takes them: arguments are JSON text, and each result names the call that it answers.

    Rows may leave the ids of calls out. Such a call gets the id `call_N`, and results take the ids of the calls before
    them in order.
    """
    found: list[dict[str, Any]] = []
    number, open_ids = 0, list[str]()
    for message in messages:
        plain = dict(message)
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                number += 1
                function = {**call["function"], "arguments": _json_text(call["function"].get("arguments"))}
                calls.append({"id": f"call_{number}", **call, "function": function})
            plain["tool_calls"] = calls
            open_ids = [call["id"] for call in calls]
        if message["role"] == "tool":
            wanted = str(message.get("tool_call_id") or (open_ids[0] if open_ids else "call_1"))
            plain["tool_call_id"] = wanted
            if wanted in open_ids:
                open_ids.remove(wanted)
        found.append(plain)
    return found


def openai_tools(tools: Any) -> list[dict[str, Any]]:
    """The functions of a row as OpenAI's API takes them; those that are no objects with a name are left out."""
    listed: Iterable[Any] = tools if isinstance(tools, list) else ()
    functions = [tool.get("function", tool) for tool in listed if isinstance(tool, Mapping)]
    return [{"type": "function", "function": dict(function)} for function in functions
            if isinstance(function, Mapping) and isinstance(function.get("name"), str)]


def _json_text(arguments: Any) -> str:
    return json.dumps({} if arguments is None else arguments, ensure_ascii=False)
