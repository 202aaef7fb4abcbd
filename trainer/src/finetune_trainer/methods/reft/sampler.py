"""The roll-out of a PPO step: one response to each of the step's questions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
from finetune_api.methods.reft import PpoSpec

from finetune_trainer.hardware.memory import halved
from finetune_trainer.methods.reft.micro_batches import TOO_LONG
from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.methods.reft.rollout import Rollout, SamplingSettings, sample
from finetune_trainer.training.training_run import TrainingRun

_ROWS = {False: 128, True: 256}
"""Most responses that are sampled at once, on a CPU and on a GPU."""
_GPU_TOKENS = 65_536
"""Most tokens, prompts and responses, that are sampled at once on a GPU."""


class ResponseSampler:
    """Samples responses in batches; the batches become smaller when memory runs out."""

    def __init__(self, run: TrainingRun, policy: Policy, ppo: PpoSpec, end_of_turn: int) -> None:
        """
        Args:
            run: the run, for its device, tokenizer and training rows.
            policy: the model that writes the responses.
            ppo: the settings of PPO.
            end_of_turn: the token that ends an answer in the chat template.
        """
        self._run = run
        self._policy = policy
        self._batch_size = _ROWS[run.device.is_gpu]
        longest_answer = max(len(row.answer) for row in run.data.train)
        self._settings = SamplingSettings(
            end_ids=tuple(sorted({end_of_turn, int(run.tokenizer.eos_token_id)})),
            pad_id=int(run.tokenizer.pad_token_id),
            max_new_tokens=ppo.max_new_tokens or math.ceil(1.25 * longest_answer),
            temperature=ppo.temperature,
        )

    def roll_out(self, prompts: Sequence[tuple[int, ...]], chance: random.Random, check: Callable[[], None]) -> Rollout:
        """Sample a response to each prompt.

        Args:
            prompts: token ids.
            chance: decides what is drawn.
            check: called at every token; raises to stop.

        Raises:
            OutOfMemory: a single response doesn't fit.
        """
        seed = chance.getrandbits(63)
        if self._run.device.is_gpu:
            longest = max(map(len, prompts)) + self._settings.max_new_tokens
            self._batch_size = min(self._batch_size, max(1, _GPU_TOKENS // longest))
        while True:
            try:
                with self._policy.autocast():
                    generator = torch.Generator(self._policy.device).manual_seed(seed)
                    return sample(self._policy.model, prompts, self._settings, self._batch_size, generator, check)
            except torch.OutOfMemoryError as error:
                self._batch_size = halved(error, min(self._batch_size, len(prompts)), TOO_LONG)
                self._run.state.note(f"out of accelerator memory: going on with {self._batch_size} responses at once")
