"""Hidden states of answers alone, before they reach the head.

TRL's fused head scores only positions that have a label where Triton runs, and every position elsewhere. On a CPU that
is a fifth of the work of a small model for nothing, so the positions are chosen one stop earlier: at the end of the
backbone. TRL's own loss then does the rest; it takes labels that are shifted already as `shift_labels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.data.batches.padding import IGNORED


class AnswersOnly:
    """Narrows a causal model's backbone to the positions that predict a label, while `narrowed` is entered."""

    def __init__(self, causal_model: Any) -> None:
        self._chosen: torch.Tensor | None = None
        causal_model.base_model.register_forward_hook(self._narrow)

    @contextmanager
    def narrowed(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The inputs to call the model with: `labels` (lines, width) become `shift_labels` (1, answer tokens)."""
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
