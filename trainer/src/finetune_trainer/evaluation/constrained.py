"""Constrained decoding: answers that follow a JSON Schema, by llguidance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import llguidance
import llguidance.hf
import llguidance.torch
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from finetune_trainer.errors import BadConfig


class SchemaGuide:
    """A JSON Schema as a grammar for the decoding of one model. Answers begin with `lead` (blanks, or nothing).

    Raises:
        BadConfig: the schema has a part that decoding can't enforce.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, schema: dict[str, Any], end_of_turn: int,
                 lead: str = "") -> None:
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, eos_token=end_of_turn)
        self._executor = llguidance.LLExecutor()
        # At most one blank between tokens: otherwise a model could write blanks without end.
        blanks = {"whitespace_pattern": "[ ]?"}
        self._grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=blanks)
        if lead:
            guided = json.dumps({**schema, "x-guidance": blanks})
            self._grammar = f"start: {json.dumps(lead)} answer\nanswer: %json {guided}"
        fault = llguidance.LLMatcher(self._tokenizer, self._grammar).get_error()
        if fault:
            raise BadConfig("spec.evaluation.constrained is true; decoding can't enforce "
                            f"dataset.answerFormat.jsonSchema: {fault.strip().splitlines()[0]}. Simplify the "
                            "schema, or write constrained: false")

    def choice(self, rows: int) -> GuidedChoice:
        """The choice of tokens for a batch of `rows` prompts, used once."""
        return GuidedChoice(self._tokenizer.vocab_size,
                            [llguidance.LLMatcher(self._tokenizer, self._grammar) for _ in range(rows)], self._executor)


class GuidedChoice:
    """The likeliest token that the grammar allows, for each row (`decoding.loop.Choice`).

    The masks of all rows are computed by several threads, and sent to the device at once.
    """

    def __init__(self, vocabulary: int, matchers: list[llguidance.LLMatcher], executor: llguidance.LLExecutor) -> None:
        """
        Args:
            vocabulary: the tokens that the grammar knows.
            matchers: the state of the grammar in each row.
            executor: the threads.
        """
        self._matchers = matchers
        self._executor = executor
        # Pinned where there is a GPU. It is written after the tokens before have come back: the device has read it.
        self._bitmask = llguidance.torch.allocate_token_bitmask(len(matchers), vocabulary)

    def choose(self, logits: Tensor) -> Tensor:
        """The likeliest allowed token of each row."""
        bitmask = self._bitmask[:len(self._matchers)]
        llguidance.torch.fill_next_token_bitmask_par(
            self._executor, [(matcher, row) for row, matcher in enumerate(self._matchers)], bitmask)
        allowed = _allowed(bitmask.to(logits.device, non_blocking=True), logits.shape[-1])
        return logits.masked_fill(~allowed, -torch.inf).argmax(-1)

    def follow(self, tokens: Sequence[int], rows: Sequence[int] | None) -> None:
        """The grammar of each row goes on by its token, until the answer has ended."""
        for matcher, token in zip(self._matchers, tokens, strict=True):
            if not matcher.is_stopped():
                matcher.consume_token(token)
        if rows is not None:
            self._matchers = [self._matchers[row] for row in rows]


def _allowed(bitmask: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """The bits as booleans (rows, vocabulary). Logits beyond the tokenizer's tokens are not allowed.

    llguidance's own function is compiled at its first call, which needs a C++ compiler and many seconds.
    """
    bits = (bitmask.unsqueeze(-1) >> torch.arange(32, device=bitmask.device, dtype=bitmask.dtype)) & 1
    flat = bits.flatten(1).bool()[:, :vocabulary]
    return torch.nn.functional.pad(flat, (0, vocabulary - flat.shape[1]))
