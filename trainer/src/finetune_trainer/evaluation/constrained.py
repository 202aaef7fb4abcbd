"""Constrained decoding: answers that follow a JSON Schema, by llguidance."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import llguidance.hf
import llguidance.torch
import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from finetune_trainer.errors import BadConfig


class SchemaGuide:
    """A JSON Schema as a grammar for the decoding of one model. Answers begin with `lead` (blanks, or nothing).

    Raises:
        BadConfig: the schema has a part that decoding can't enforce.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, schema: dict[str, Any], end_of_turn: int,
                 lead: str = "") -> None:
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, eos_token=end_of_turn)
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

    def processor(self, rows: int) -> LogitsProcessor:
        """A logits processor for a batch of `rows` prompts, used for one generation."""
        matchers = [llguidance.LLMatcher(self._tokenizer, self._grammar) for _ in range(rows)]
        return _Guided(self._tokenizer, matchers)


class _Guided(LogitsProcessor):
    def __init__(self, tokenizer: Any, matchers: list[Any]) -> None:
        self._matchers = matchers
        self._bitmask = llguidance.torch.allocate_token_bitmask(len(matchers), tokenizer.vocab_size)
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, matcher in enumerate(self._matchers):
            if self._begun and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            llguidance.torch.fill_next_token_bitmask(matcher, self._bitmask, row)
        self._begun = True
        return scores.masked_fill(~_allowed(self._bitmask.to(scores.device), scores.shape[-1]), -torch.inf)


def _allowed(bitmask: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """The bits as booleans (rows, vocabulary). Logits beyond the tokenizer's tokens are not allowed.

    llguidance's own function is compiled at its first call, which needs a C++ compiler and many seconds.
    """
    bits = (bitmask.unsqueeze(-1) >> torch.arange(32, device=bitmask.device, dtype=bitmask.dtype)) & 1
    flat = bits.flatten(1).bool()[:, :vocabulary]
    return torch.nn.functional.pad(flat, (0, vocabulary - flat.shape[1]))
