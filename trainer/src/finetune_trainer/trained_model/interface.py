"""What a method returns: the protocol of a trained model, and how a published folder is loaded again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoadInstructions:
    """How to load a published folder, for the model card.

    Attributes:
        imports: lines of Python that import what the code needs beside transformers.
        lines: lines of Python that put the folder `published` into the loaded base `model`; empty for a whole model.
        library: the hub's `library_name`.
        relation: the hub's `base_model_relation`.
    """

    imports: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    library: str = "transformers"
    relation: str = "finetune"


class TrainedModel(Protocol):
    """A model whose trained parameters are those that require gradients."""

    @property
    def model(self) -> Any:
        """The model to call, to `generate` with, and to train."""
        ...

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model: `model` itself, or the base model inside it."""
        ...

    @property
    def folder(self) -> str:
        """The name of the published folder below an attempt's results (`finetune_api.messages.layout`)."""
        ...

    @property
    def load_instructions(self) -> LoadInstructions:
        """How to load the published folder again."""
        ...

    def learning_rate_factor(self, name: str) -> float:
        """The factor on the learning rate of the parameter with this name."""
        ...

    def publish(self, folder: Path, base_model: str, revision: str | None) -> None:
        """Write the trained parameters in their published form.

        Args:
            folder: the folder to write.
            base_model: the base model as the job names it; never a folder of this machine.
            revision: the base model's commit, tag or branch, if the job gives one.
        """
        ...

    def merged(self, folder: Path, base: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """A whole model that contains the trained parameters.

        Args:
            folder: the folder that `publish` wrote.
            base: loads the base model in full precision.
        """
        ...
