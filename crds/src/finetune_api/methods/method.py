"""What the API says of one method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from finetune_api.architecture import Architecture
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.rule import Rule, Section
from finetune_api.values.api_model import ApiModel

if TYPE_CHECKING:
    from finetune_api.methods.low_rank import LowRankSpec

SettingsT = TypeVar("SettingsT", bound=ApiModel)

"""The end of a module's name in the model, such as `q_proj`."""

DEFAULT_METHOD = "LoRA"
"""The method of a job that names none."""


@dataclass(frozen=True)
class MethodCondition:
    """A condition on `spec.method`, in Python and in CEL.

    Attributes:
        holds: judges the section `spec.method` as the user wrote it.
        cel: the same in CEL, where `self` is the spec and `self.method` exists.
    """

    holds: Callable[[Section], bool]
    cel: str


NEVER = MethodCondition(lambda method: False, "false")


class Method(Generic[SettingsT]):
    """One method. A subclass stands in a module of its own; what it does not override is the usual answer.

    Every function takes the method's settings: the block of `spec.method` that is named after the method, with its
    defaults resolved.
    """

    name: ClassVar[str]
    """The value of `spec.method.type`."""

    block: ClassVar[str | None] = None
    """The field of `spec.method` that holds the settings; None for a method without settings."""

    smallest_block: ClassVar[Section] = {}
    """The smallest block that is valid, as a user writes it."""

    epochs: ClassVar[float] = 3.0
    """The default of `spec.training.epochs`."""

    quantizable: ClassVar[bool] = True
    """Whether the base weights may be stored in 8 or 4 bits."""

    unsloth: ClassVar[bool] = False
    """Whether the engine Unsloth trains this method."""

    has_reward: ClassVar[bool] = False
    """Whether the method judges answers by a reward, which the metric `answerAccuracy` needs."""

    mergeable: ClassVar[MethodCondition | None] = None
    """When the export `merged` is possible; None for always."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    """The rules that join the fields of the method's settings."""

    @property
    def usual_blocks(self) -> tuple[Section, ...]:
        """The blocks with which the method is estimated beside others: one for each way to use it."""
        return (self.smallest_block,)

    def for_json_answers(self, settings: SettingsT | None) -> SettingsT | None:
        """The settings with the defaults that differ where the answers of the job are JSON."""
        return settings

    def resolved(self, settings: SettingsT | None) -> SettingsT | None:
        """The settings with every default that does not depend on model and data; None for a method without any."""
        return settings

    def learning_rate(self, settings: SettingsT | None) -> float:
        """The default of `spec.training.learningRate`."""
        return 2e-4

    def display_name(self, settings: SettingsT | None, quantization: str) -> str:
        """The name that people use: `QLoRA` for LoRA with quantization `nf4`, `LoRA (int8)`."""
        if quantization == "nf4":
            return f"Q{self.name}"
        return with_quantization(self.name, quantization)

    def low_rank(self, settings: SettingsT | None) -> tuple[str, LowRankSpec] | None:
        """The settings of the low-rank adapter that is trained, and their field below `spec.method`; None without."""
        return None

    def packs_rows(self, settings: SettingsT | None) -> bool:
        """Whether several rows may share a line."""
        return True

    def allows_checkpointing(self, settings: SettingsT | None) -> bool:
        """Whether activations can be computed again in the backward pass (gradient checkpointing)."""
        return True

    def virtual_tokens(self, settings: SettingsT | None) -> int:
        """Trained vectors that stand before the text and take positions."""
        return 0

    def can_quantize(self, settings: SettingsT | None) -> bool:
        """Whether these settings allow a quantization other than the present one."""
        return self.quantizable

    def with_frozen_base(self, settings: SettingsT | None) -> tuple[str, SettingsT] | None:
        """Settings under which the base weights stay frozen, and the words for the change; None if there are none."""
        return None

    def rollout_tokens(self, settings: SettingsT | None, longest_row: int) -> tuple[int, int] | None:
        """Tokens of the longest prompt with its response, and of the response; None if the method samples none."""
        return None

    def trained(self, settings: SettingsT | None, model: Architecture) -> TrainedParameters:
        """What the method trains of a model, in numbers."""
        raise NotImplementedError


def with_quantization(name: str, quantization: str) -> str:
    """A name with the quantization behind it, where there is one: `IA3 (nf4)`."""
    return name if quantization == "none" else f"{name} ({quantization})"


def named(types: tuple[str, ...] | list[str], word: str = "and") -> str:
    """Names as a sentence lists them: `Full and Partial`."""
    return f" {word} ".join(part for part in (", ".join(types[:-1]), types[-1]) if part)
