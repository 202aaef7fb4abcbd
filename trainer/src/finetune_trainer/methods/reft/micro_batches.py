"""Which responses share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune_trainer.hardware.memory import halved

TOO_LONG = ("the accelerator's memory doesn't suffice for a single response: write a smaller "
            "spec.method.reft.ppo.maxNewTokens, or quantization: nf4")
_CPU_TOKENS = 8_192
_GPU_TOKENS = 16_384
_LOGIT_BYTES = 512 * 1024**2


@dataclass
class MicroBatchLimits:
    """How much one forward pass holds; `halve` lowers it when memory runs out.

    Attributes:
        tokens: most tokens, padding included.
        rows: most responses; None for no limit.
    """

    tokens: int
    rows: int | None

    @classmethod
    def usual(cls, is_gpu: bool, vocabulary: int, rows: int | None) -> MicroBatchLimits:
        """The limits at first: the logits of all tokens take at most 512 MiB."""
        return cls(min(_GPU_TOKENS if is_gpu else _CPU_TOKENS, max(64, _LOGIT_BYTES // (4 * vocabulary))), rows)

    def split(self, indices: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Indices in micro-batches of like length; a response that is too long stands alone.

        Args:
            indices: the responses.
            lengths: tokens of each prompt and response together, by index.
        """
        batches: list[list[int]] = []
        for index in sorted(indices, key=lambda index: (-lengths[index], index)):
            batch = batches[-1] if batches else None
            if (batch and (len(batch) + 1) * lengths[batch[0]] <= self.tokens
                    and len(batch) < (self.rows or len(indices))):
                batch.append(index)
            else:
                batches.append([index])
        return batches

    def halve(self, error: torch.OutOfMemoryError, rows: int) -> None:
        """Allow half as many rows as did not fit.

        Raises:
            OutOfMemory: a single response did not fit.
        """
        self.rows = halved(error, rows, TOO_LONG)
