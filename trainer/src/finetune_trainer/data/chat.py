"""From question and answer to token ids, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jinja2

from finetune_trainer.data.rows import Example, TokenRow
from finetune_trainer.errors import BadConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
_MARK = "\u241ffinetune\u241f"


class ChatFormat:
    """How one model writes a conversation.

    A model without a chat template gets the plain question and, after a line break, the answer. A template without a
    system role (it refuses one, or drops it) gets the system prompt at the start of the first question.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None) -> None:
        if tokenizer.eos_token_id is None:
            raise BadConfig("spec.model.source: the tokenizer has no end token, so that answers would never end")
        self._tokenizer = tokenizer
        self._system = system
        self._has_template = bool(tokenizer.chat_template)
        self._system_role = self._has_template and self._keeps_system_role()
        self.end_of_turn = self._end_of_turn()

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of a conversation up to where the answer begins."""
        return self._ids(self._prompt_text(messages))

    def row(self, example: Example) -> TokenRow:
        """An example as ids. Prompt and answer are tokenised apart, as they are when the model generates."""
        prompt = self._prompt_text(example.messages)
        return TokenRow(self._ids(prompt), self._ids(self._answer_text(example.messages, prompt, example.answer)))

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _ids(self, text: str) -> tuple[int, ...]:
        # The template has written the special tokens already.
        special = not self._has_template
        return tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _prompt_text(self, messages: Sequence[Message]) -> str:
        if not self._has_template:
            return "\n".join(m["content"] for m in self._with_system(messages)) + "\n"
        return self._render(self._with_system(messages), add_generation_prompt=True)

    def _answer_text(self, messages: Sequence[Message], prompt: str, answer: str) -> str:
        end = self._tokenizer.decode([self.end_of_turn])
        if not self._has_template:
            return answer + end
        whole = self._render([*self._with_system(messages), {"role": "assistant", "content": answer}])
        if not whole.startswith(prompt) or end not in whole[len(prompt):]:
            return answer + end
        rest = whole[len(prompt):]
        # What a template writes after the end of the turn (often a line break) is never generated, so never trained.
        return rest[: rest.rindex(end) + len(end)]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        if self._system is None or messages[0]["role"] == "system":
            conversation = list(messages)
        else:
            conversation = [{"role": "system", "content": self._system}, *messages]
        if conversation[0]["role"] != "system" or self._system_role:
            return conversation
        system, first, *rest = conversation
        return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]

    def _keeps_system_role(self) -> bool:
        try:
            text = self._render([{"role": "system", "content": _MARK}, {"role": "user", "content": "?"}])
        except BadConfig:
            return False
        return _MARK in text

    def _end_of_turn(self) -> int:
        """The token that the template writes right after an answer; the tokenizer's end token where it writes none."""
        if not self._has_template:
            return int(self._tokenizer.eos_token_id)
        whole = self._render([{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}])
        after = self._ids(whole[whole.rindex(_MARK) + len(_MARK):]) if _MARK in whole else ()
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        return next((token for token in after if token in special), int(self._tokenizer.eos_token_id))

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt))
        except jinja2.TemplateError as error:
            raise BadConfig(f"spec.model.source: the model's chat template refuses this conversation: {error}"
                            ) from error
