"""The state of PPO between two steps: a snapshot in memory, and the files of a checkpoint.

The state holds no random states: what a step samples, and in which order it learns, follow from the seed and the step's
number.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from finetune_api.messages.layout import METRICS
from finetune_api.status import Rollouts
from safetensors.torch import load_file, save_file

from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.training.result import RolloutExample

_POLICY, _REFERENCE, _VALUES = "policy.safetensors", "reference.safetensors", "value_head.safetensors"
_OPTIMIZER, _HISTORY = "ppo_optimizer.pt", "ppo.json"
_SHOWN = 6


@dataclass
class PpoState:
    """The state of PPO after its step `step`.

    Attributes:
        policy: the model that learns.
        optimizer: over the policy's parameters.
        step: PPO steps done.
        history: the metrics of each step.
        first_examples: some responses of the first step.
        last_examples: some responses of the last step.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[Rollouts] = field(default_factory=list)
    first_examples: tuple[RolloutExample, ...] = ()
    last_examples: tuple[RolloutExample, ...] = ()
    _snapshot: tuple[Any, ...] = ()

    def take_snapshot(self) -> None:
        """Copy weights and optimizer state, so that a step which is given up leaves nothing behind.

        The copy is in host memory. Where all weights learn, it takes three times the model.
        """
        self._snapshot = (self.policy.weights(), copy.deepcopy(self.policy.value_head.state_dict()),
                      _on_host(self.optimizer.state_dict()))

    def restore_snapshot(self) -> None:
        """Go back to the last snapshot."""
        weights, values, optimizer = self._snapshot
        self.policy.load_weights(weights)
        self.policy.value_head.load_state_dict(values)
        self.optimizer.load_state_dict(optimizer)

    def complete_step(self, metrics: Rollouts, examples: Sequence[RolloutExample]) -> None:
        """Count a step, with its metrics and some of its responses."""
        self.step += 1
        self.history.append(metrics)
        self.last_examples = tuple(examples[:_SHOWN])
        self.first_examples = self.first_examples or self.last_examples

    def write(self, folder: Path, metrics: Path) -> Path:
        """Write a checkpoint's files into a new folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, tensors in ((_POLICY, self.policy.weights()), (_REFERENCE, self.policy.reference),
                              (_VALUES, self.policy.value_head.state_dict())):
            save_file({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}, folder / name)
        torch.save(self.optimizer.state_dict(), folder / _OPTIMIZER)
        (folder / _HISTORY).write_text(json.dumps({
            "step": self.step, "history": [step.model_dump() for step in self.history],
            "first": [asdict(example) for example in self.first_examples],
            "last": [asdict(example) for example in self.last_examples],
        }), encoding="utf-8")
        if metrics.exists():
            shutil.copyfile(metrics, folder / METRICS)
        return folder

    def read(self, folder: Path) -> None:
        """Load what `write` wrote."""
        device = str(self.policy.device)
        # Copies: memory that is mapped from a file may be aligned otherwise, and sums then differ in their last bit.
        self.policy.reference = {
            name: tensor.clone() for name, tensor in load_file(folder / _REFERENCE, device=device).items()}
        self.policy.load_weights(load_file(folder / _POLICY, device=device))
        self.policy.value_head.load_state_dict(load_file(folder / _VALUES, device=device))
        self.optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, map_location=device, weights_only=True))
        content = json.loads((folder / _HISTORY).read_text(encoding="utf-8"))
        self.step = content["step"]
        self.history = [Rollouts(**step) for step in content["history"]]
        self.first_examples = tuple(RolloutExample(**example) for example in content["first"])
        self.last_examples = tuple(RolloutExample(**example) for example in content["last"])


def _on_host(state: Any) -> Any:
    """A copy of nested state, with its tensors in host memory."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _on_host(value) for key, value in state.items()}
    return type(state)(map(_on_host, state)) if isinstance(state, list | tuple) else state


def is_ppo_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint's files are PPO's rather than the warm-up's."""
    return (folder / _HISTORY).exists()
