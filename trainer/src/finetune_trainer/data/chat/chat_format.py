"""From question and answer to token ids, by the model's own chat template.

The answer stands between the template's opening of an answer and its end. What the template writes before the answer
(`<think>\n\n</think>`, the name of a channel) belongs to the prompt, so that training, generation and constrained
decoding begin at the same token. Question and answer stand in the text exactly as in the row: the answer is inserted
without the template, and a question that the template drops, repeats or changes is an error of the row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.chat.control_tokens import REASONING, ControlTokens
from finetune_trainer.data.chat.message_checks import RowFault, answer_fault, check_messages, shortened
from finetune_trainer.data.chat.template_dates import is_dated, with_date
from finetune_trainer.data.chat.tool_calls import calls_as_text
from finetune_trainer.data.repeatable import has_choices, repeatable_choices
from finetune_trainer.data.rows import Example, Message, TokenRow
from finetune_trainer.data.values import trimmed
from finetune_trainer.errors import BadConfig, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\u241ffinetune\u241f"


@dataclass(frozen=True)
class AnswerForm:
    """What a template writes around an answer.

    Attributes:
        opening: the text after the generation prompt and before the answer. It belongs to the prompt.
        lead: blanks before the answer. The model writes them: as tokens of their own they are unknown to it.
        tail: the text after the answer and before the token that ends the turn. The model writes it.
        end_of_turn: the id of the token that ends the turn.
    """

    opening: str
    lead: str
    tail: str
    end_of_turn: int


@dataclass(frozen=True)
class TokenizedExample:
    """A row as the model reads it.

    Attributes:
        tokens: its token ids.
        example: the row. Its answer is what the model has to write, without the part that stands in the prompt.
        notes: warnings about the row.
    """

    tokens: TokenRow
    example: Example
    notes: tuple[str, ...] = ()


class ChatFormat:
    """How a model writes a conversation.

    Without a chat template, the text is the question, a line break, and the answer. If the template has no system role
    (it refuses the role or drops the message), the system prompt stands at the start of the first question. If the
    template does not write calls, they are JSON between `<tool_call>` and `</tool_call>`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None, today: date | None = None) -> None:
        """
        Args:
            tokenizer: the model's tokenizer.
            system: the job's system prompt.
            today: the date for templates that write one; None takes the clock's date.

        Raises:
            BadConfig: the tokenizer has no end token, or the chat template does not write answers as they are.
        """
        if tokenizer.eos_token_id is None:
            raise BadConfig("spec.model.source: the tokenizer has no end token, so answers would never end; set "
                            "eos_token in its tokenizer_config.json")
        self._tokenizer = tokenizer
        self._system = system
        self._today = today
        self.is_dated = False
        self._control = ControlTokens(tokenizer)
        self._has_template = bool(tokenizer.chat_template)
        self._suffixes: dict[str, list[int]] = {}
        self._parts = False
        try:
            self._first_ids: tuple[int, ...] = () if self._has_template else self._put_before()
            self._parts = self._has_template and self._wants_parts()
            self._system_role = self._has_template and self._keeps(
                [{"role": "system", "content": _MARK}, {"role": "user", "content": "?"}])
            self.form = self._answer_form()
            self._call_form = self._has_template and self._keeps(
                [{"role": "user", "content": "?"},
                 {"role": "assistant", "content": "", "tool_calls": [
                     {"type": "function", "function": {"name": _MARK, "arguments": {}}}]}])
        except RowFault as error:
            raise BadConfig(f"spec.model.source: {error}") from error
        self.end_of_turn = self.form.end_of_turn
        self._end = self.form.tail + tokenizer.decode([self.end_of_turn])

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The ids of a conversation up to the answer."""
        return self.row(Example("", tuple(messages), "")).prompt

    def row(self, example: Example) -> TokenRow:
        """An example as ids. Prompt and answer are tokenised separately, as in generation.

        Raises:
            RowFault: the template refuses the conversation, or drops, repeats or changes its question.
        """
        return self.tokenize(example).tokens

    def tokenize(self, example: Example) -> TokenizedExample:
        """An example as the model reads it; errors as in `row`."""
        shown, notes = self._without_control_tokens(example)
        messages = self._conversation(shown.messages)
        prompt = self._prompt_text(messages, shown.tools)
        if self._has_template:
            check_messages(messages, prompt, shown.tools)
        answer = shown.answer
        if shown.calls is not None:
            answer, whole = self._calls_text(messages, shown, prompt)
            rest = answer if whole else answer + self._end
            opening, lead = "", ""
        else:
            opening, answer = self._opened(prompt, answer)
            lead = self.form.lead if opening == self.form.opening else ""
            rest = lead + answer + self._end
        prompt += opening
        last = messages[-1]["content"].strip()
        suffix = prompt[prompt.rindex(last) + len(last):] if last and last in prompt else ""
        ids = self._answer_ids(suffix, rest, answer)
        row = TokenRow((*self._first_ids, *self._control.ids(prompt)), tuple(ids))
        answer = self.text(ids) if shown.calls is not None else self._control.show(answer)
        return TokenizedExample(row, example if answer == example.answer else replace(example, answer=answer), notes)

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text, without special tokens."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return trimmed(text.removeprefix(self.form.lead).removesuffix(self.form.tail))

    def length(self, text: str) -> int:
        """The number of tokens of a text in a row."""
        return len(self._control.ids(self._control.hide(text)))

    def _without_control_tokens(self, example: Example) -> tuple[Example, tuple[str, ...]]:
        """An example with stand-ins for the control tokens in its texts, and a note about them."""
        texts = [example.answer, *(message["content"] for message in example.messages)]
        if example.tools or example.calls or any(len(message) > 2 for message in example.messages):
            texts.append(json.dumps([example.tools, example.calls, example.messages], ensure_ascii=False))
        name = next((found for text in texts if (found := self._control.found(text))), None)
        if name is None:
            return example, ()
        is_text = self._control.is_text(name)
        hide = partial(self._control.hide, marks_alone=not is_text)
        note = (f"{name} is trained as plain text, not as the model's control token" if is_text else
                f"{name} is trained as the model's control token, because this tokenizer can't write it as text")
        return (replace(example, messages=tuple(hide(list(example.messages))), answer=hide(example.answer),
                        tools=hide(example.tools), calls=hide(example.calls)), (note,))

    def _answer_ids(self, suffix: str, rest: str, answer: str) -> list[int]:
        """The ids of the text after a prompt that ends in `suffix`, chosen so that the prompt's ids stay the same."""
        before = self._suffixes.get(suffix)
        if before is None:
            before = self._suffixes[suffix] = self._control.ids(suffix)
        ids = self._control.ids(suffix + rest)
        ids = ids[len(before):] if ids[: len(before)] == before else self._control.ids_within(rest)
        if answer[:1].isspace() and not self._tokenizer.decode(ids).startswith(rest[: len(rest) - len(rest.lstrip())]):
            return self._control.ids_within(rest)  # A control token before the answer removes its blanks.
        return ids

    def _put_before(self) -> tuple[int, ...]:
        """The ids that the tokenizer puts before plain text, such as a begin-of-text token."""
        ids, plain = (list(self._tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (True, False))
        at = next((start for start in range(len(ids)) if ids[start:start + len(plain)] == plain), 0)
        return tuple(ids[:at])

    def _prompt_text(self, messages: Sequence[Message], tools: Any) -> str:
        if not self._has_template:
            return "\n".join(message["content"] for message in messages) + "\n"
        return self._render(messages, tools, add_generation_prompt=True)

    def _opened(self, prompt: str, answer: str) -> tuple[str, str]:
        """The template's opening and the answer after it. The row's own reasoning replaces the template's."""
        opening = self.form.opening
        tags = [match for match in REASONING.finditer(prompt + opening, max(0, len(prompt) - 20))
                if not match["close"] and not (prompt + opening)[match.end():len(prompt)].strip()]
        if not tags:
            return opening, answer
        tag, begun = tags[0][0], tags[0].start() < len(prompt)
        if answer.lstrip().startswith(tag):
            own = answer.lstrip()
            return "", own[len(tag):].removeprefix("\n") if begun else own
        if any(match["close"] for match in REASONING.finditer(answer)):
            return ("" if begun else opening[: tags[0].end() - len(prompt)] + "\n"), answer
        return opening, answer

    def _calls_text(self, messages: Sequence[Message], example: Example, prompt: str) -> tuple[str, bool]:
        """The template's text for calls, and whether it includes the end of the turn; without such text, JSON."""
        message = {"role": "assistant", "content": example.answer, "tool_calls": example.calls}
        if self._call_form:
            whole = self._render([*messages, message], example.tools)
            if whole.startswith(prompt):
                rest = whole[len(prompt):].removeprefix(self.form.opening).rstrip()
                end = self._tokenizer.decode([self.form.end_of_turn])
                return (rest, True) if self._control.found(rest[-len(end):]) else (rest, False)
        return calls_as_text(message)["content"], False

    def _conversation(self, messages: Sequence[Message]) -> list[Message]:
        """The messages for the template: with the system prompt, and with calls as text if it does not write calls."""
        conversation = list(messages) if self._call_form else [calls_as_text(message) for message in messages]
        if self._system is not None and conversation[0]["role"] != "system":
            conversation.insert(0, {"role": "system", "content": self._control.hide(self._system)})
        if conversation[0]["role"] != "system" or self._system_role:
            return conversation
        system, first, *rest = conversation
        return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]

    def _keeps(self, messages: Sequence[Message]) -> bool:
        """Whether the template writes the mark in a conversation."""
        try:
            return _MARK in self._render(messages, None)
        except RowFault:
            return False

    def _wants_parts(self) -> bool:
        """Whether the template takes only content that is a list of parts, as templates for pictures and text do."""
        sample = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}]
        if self._keeps(sample):
            return False
        self._parts = True
        return self._keeps(sample)

    def _answer_form(self) -> AnswerForm:
        eos = int(self._tokenizer.eos_token_id)
        if not self._has_template:
            return AnswerForm("", "", "", eos)
        question = [{"role": "user", "content": "?"}]
        prompt = self._render(question, None, add_generation_prompt=True)
        whole = self._render([*question, {"role": "assistant", "content": _MARK}], None)
        if whole.count(_MARK) != 1:
            raise RowFault(f"the model's chat template {answer_fault(whole, _MARK)}: of the question '?' and the "
                           f"answer {_MARK!r} it makes {shortened(whole)!r}. Take a model whose template writes each "
                           "message once and as it is, or correct its chat_template")
        before, after = whole.split(_MARK)
        opening = before[len(prompt):] if before.startswith(prompt) else ""
        lead = opening if not opening.strip() else opening[len(opening.rstrip(" ")):]
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        end = next((token for token in self._control.ids(after) if token in special), eos)
        # A model never generates what stands after the end of the turn (often a line break), so it is not trained.
        tail, ended, _ = after.partition(self._tokenizer.decode([end]))
        return AnswerForm(opening[: len(opening) - len(lead)], lead, tail if ended else "", end)

    def _render(self, messages: Sequence[Message], tools: Any, add_generation_prompt: bool = False) -> str:
        try:
            template: str = self._tokenizer.get_chat_template(tools=tools)
            variables: dict[str, Any] = {}
            if self._today and is_dated(template):
                self.is_dated = True
                template, variables = with_date(template, self._today)
            # The first message alone decides random choices, so that a prompt is the start of the whole conversation.
            with repeatable_choices(str(messages[0]["content"])) if has_choices(template) else nullcontext():
                return str(self._tokenizer.apply_chat_template(
                    [_in_parts(message) if self._parts else dict(message) for message in messages], tools=tools,
                    chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt, **variables))
        # A template is the model author's program and may raise anything: that refuses the conversation.
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise RowFault(f"the model's chat template refuses this conversation: {first_line(error)} (its roles are "
                           f"{roles})") from error


def _in_parts(message: Message) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
