"""The spec of a `FineTuneJob`: what a user writes."""

from __future__ import annotations

from finetune_api.spec.compute import ComputeSpec
from finetune_api.spec.dataset import DatasetSpec
from finetune_api.spec.evaluation import EvaluationSpec
from finetune_api.spec.method import Engine, MethodSpec
from finetune_api.spec.model import ModelSpec
from finetune_api.spec.output import OutputSpec
from finetune_api.spec.policy import BudgetSpec, RunPolicy
from finetune_api.spec.training import TrainingSpec
from finetune_api.values.api_model import ApiModel


class FineTuneJobSpec(ApiModel):
    """The model, the data, the method, and where the result is published."""

    model: ModelSpec
    """The model to fine-tune."""

    dataset: DatasetSpec
    """The rows to train on and to evaluate on."""

    output: OutputSpec
    """Where the result is published."""

    method: MethodSpec = MethodSpec()
    """How the model is trained."""

    engine: Engine = Engine.NATIVE
    """`native`, or `unsloth` for Unsloth's kernels (one NVIDIA GPU, LoRA only)."""

    training: TrainingSpec = TrainingSpec()
    """How long, how fast and in what batches."""

    evaluation: EvaluationSpec = EvaluationSpec()
    """How the model is evaluated."""

    compute: ComputeSpec = ComputeSpec()
    """The accelerators and nodes of the job."""

    budget: BudgetSpec = BudgetSpec()
    """Limits of money and time."""

    run_policy: RunPolicy = RunPolicy()
    """How the job is started, retried and deleted."""

    def on_accelerator(self, name: str) -> FineTuneJobSpec:
        """The same with another accelerator."""
        return self.model_copy(update={"compute": self.compute.on_accelerator(name)})
