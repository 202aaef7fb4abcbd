"""Gradient checkpointing of some layers: the first ones store only their input, the last ones keep their activations.

The backward pass begins at the last layer. It frees what the last layers keep before it computes the first ones again,
so the two never add up.
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_trainer.model.structure.layers import decoder_layers


class CheckpointedLayers(TrainerCallback):
    """Keeps gradient checkpointing to the first layers, once transformers has enabled it for all."""

    def __init__(self, count: int) -> None:
        """
        Args:
            count: how many layers are checkpointed, from the first on.
        """
        self._count = count

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None,
                       **_: Any) -> None:
        """Let the last layers keep their activations."""
        if not args.gradient_checkpointing:
            return
        if not isinstance(model, PeftModel):
            # Only reentrant checkpointing needs inputs with gradients. With them, frozen layers below the trained ones
            # would be computed again and differentiated for nothing.
            model.disable_input_require_grads()
        causal = model.get_base_model() if isinstance(model, PeftModel) else model
        if self._count < causal.config.get_text_config().num_hidden_layers:
            for layer in decoder_layers(causal)[1][self._count:]:
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.gradient_checkpointing = False
