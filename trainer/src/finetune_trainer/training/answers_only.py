"""Passes only the hidden states of answer tokens to the head of the model.

With Triton, TRL's fused head computes only positions that have a label. Without Triton it computes every position: on a
CPU a fifth of the work of a small model is wasted. So the positions are chosen before the head, at the end of the
backbone. TRL computes the loss as usual: it accepts labels that are already shifted as `shift_labels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.data.batches.padding import IGNORED


class AnswersOnly:
    """Reduces the output of a causal model's backbone to the positions that predict a label, inside `narrowed`."""

    def __init__(self, causal_model: Any) -> None:
        self._chosen: torch.Tensor | None = None
        causal_model.base_model.register_forward_hook(self._narrow)

    @contextmanager
    def narrowed(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The inputs for the model: `labels` (lines, width) become `shift_labels` (1, answer tokens)."""
        following = inputs["labels"][:, 1:]
        self._chosen = following != IGNORED
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        try:
            yield {**rest, "shift_labels": following[self._chosen].unsqueeze(0)}
        finally:
            self._chosen = None

    def _narrow(self, module: torch.nn.Module, arguments: Any, output: Any) -> Any:
        if self._chosen is not None:
            # Virtual tokens may stand before the text. Position i predicts token i + 1, so the last predicts nothing.
            text = output.last_hidden_state[:, -self._chosen.shape[1] - 1:]
            output.last_hidden_state = text[:, :-1][self._chosen].unsqueeze(0)
        return output
