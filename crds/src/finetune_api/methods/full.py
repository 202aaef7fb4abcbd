"""Full fine-tuning."""

from __future__ import annotations

from finetune_api.architecture import Architecture
from finetune_api.methods.method import NEVER, Method
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.values.api_model import ApiModel


class Full(Method[ApiModel]):
    """All weights of the model are trained; there are no settings."""

    name = "Full"
    quantizable = False
    mergeable = NEVER

    def learning_rate(self, settings: ApiModel | None) -> float:
        """A tenth of an adapter's: pretrained weights move."""
        return 2e-5

    def trained(self, settings: ApiModel | None, model: Architecture) -> TrainedParameters:
        """Everything."""
        return all_parameters(model)


def all_parameters(model: Architecture) -> TrainedParameters:
    """All weights of a model, as trained parameters."""
    return TrainedParameters(0, model.parameters, frozenset(linear.name for linear in model.linears), model.layers,
                             embeddings=model.vocabulary * model.hidden, norms=True)
