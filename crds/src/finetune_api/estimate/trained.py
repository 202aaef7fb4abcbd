"""What the method of a job trains of a model, in numbers."""

from __future__ import annotations

from finetune_api.architecture import Architecture
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.spec.method import MethodSpec


def trained_by(method: MethodSpec, model: Architecture) -> TrainedParameters:
    """What a method trains of a model."""
    return method.definition.trained(method.settings, model)
